#include <outboard/vduse/internal/netlink.hpp>

#include <linux/netlink.h>
#include <netlink/attr.h>
#include <netlink/genl/ctrl.h>
#include <netlink/genl/genl.h>
#include <netlink/msg.h>
#include <netlink/netlink.h>
#include <sys/socket.h>

#include <cstring>

#include <fmt/format.h>

#include <outboard/vduse/internal/netlink_spec.hpp>

namespace outboard::vduse {
namespace {

namespace command = spec::netlink::command;
namespace attribute = spec::netlink::attribute;

struct SocketEnd {
  void operator()(nl_sock* socket) const { nl_socket_free(socket); }
};
struct MessageEnd {
  void operator()(nl_msg* message) const { nlmsg_free(message); }
};
struct CallbacksEnd {
  void operator()(nl_cb* callbacks) const { nl_cb_put(callbacks); }
};
using Socket = std::unique_ptr<nl_sock, SocketEnd>;
using Message = std::unique_ptr<nl_msg, MessageEnd>;
using Callbacks = std::unique_ptr<nl_cb, CallbacksEnd>;

/// What the kernel answered: an errno value, and a text if it had one.
struct Answer {
  int code = 0;
  std::string text;
};

/// One request and what comes back.
struct Exchange {
  bool finished = false;
  Answer answer;
  std::vector<ManagementDevice> devices;
};

Error out_of_memory() { return Error(ENOMEM, "no memory for a netlink message"); }

/// The text that the kernel may put behind an error; what it was asked precedes it, unless it was capped.
std::string text_of(const nlmsgerr& error) {
  // The message that carries it begins right in front.
  const auto* header = reinterpret_cast<const nlmsghdr*>(reinterpret_cast<const char*>(&error) - NLMSG_HDRLEN);
  if ((header->nlmsg_flags & NLM_F_ACK_TLVS) == 0) return {};
  std::size_t skipped = sizeof error;
  if ((header->nlmsg_flags & NLM_F_CAPPED) == 0) skipped += error.msg.nlmsg_len - NLMSG_HDRLEN;
  const std::size_t total = header->nlmsg_len - NLMSG_HDRLEN;
  skipped = NLMSG_ALIGN(skipped);
  if (skipped >= total) return {};
  auto* attributes = reinterpret_cast<nlattr*>(const_cast<char*>(reinterpret_cast<const char*>(&error)) + skipped);
  const nlattr* text = nla_find(attributes, static_cast<int>(total - skipped), NLMSGERR_ATTR_MSG);
  if (text == nullptr) return {};
  const auto* bytes = static_cast<const char*>(nla_data(text));
  return {bytes, strnlen(bytes, static_cast<std::size_t>(nla_len(text)))};
}

int on_error(sockaddr_nl*, nlmsgerr* error, void* context) {
  auto& exchange = *static_cast<Exchange*>(context);
  exchange.answer = {-error->error, text_of(*error)};
  exchange.finished = true;
  return NL_STOP;
}

int on_end(nl_msg*, void* context) {
  static_cast<Exchange*>(context)->finished = true;
  return NL_STOP;
}

int on_device(nl_msg* message, void* context) {
  static constexpr std::size_t count = attribute::last_known + 1;
  nlattr* attributes[count] = {};
  if (genlmsg_parse(nlmsg_hdr(message), 0, attributes, attribute::last_known, nullptr) < 0) return NL_SKIP;
  const auto text = [&](int which) {
    const nlattr* one = attributes[which];
    if (one == nullptr) return std::string();
    const auto* bytes = static_cast<const char*>(nla_data(one));
    return std::string(bytes, strnlen(bytes, static_cast<std::size_t>(nla_len(one))));
  };
  ManagementDevice device{text(attribute::mgmtdev_bus_name), text(attribute::mgmtdev_dev_name), 0};
  const nlattr* classes = attributes[attribute::mgmtdev_supported_classes];
  if (classes != nullptr && nla_len(classes) == sizeof device.device_ids)
    std::memcpy(&device.device_ids, nla_data(classes), sizeof device.device_ids);
  static_cast<Exchange*>(context)->devices.push_back(std::move(device));
  return NL_OK;
}

class KernelNetlink final : public Netlink {
 public:
  Result<std::vector<ManagementDevice>> management_devices() override;
  Status add(const std::string& name) override;
  Status remove(const std::string& name) override;

 private:
  struct Family {
    Socket socket;
    int id = 0;
  };
  static Result<Family> open();
  static Result<Message> message(const Family& family, std::uint8_t which, int flags);
  static Result<Exchange> exchange(const Family& family, const Message& message);
};

/// ENOENT: there is no such family; any other error is of netlink itself.
Result<KernelNetlink::Family> KernelNetlink::open() {
  Socket socket(nl_socket_alloc());
  if (!socket) return out_of_memory();
  if (const int done = genl_connect(socket.get()); done < 0)
    return Error(EIO, fmt::format("opening a netlink socket: {}", nl_geterror(done)));
  const int on = 1;  // for the texts of errors; a kernel that has none does without
  setsockopt(nl_socket_get_fd(socket.get()), SOL_NETLINK, NETLINK_EXT_ACK, &on, sizeof on);
  const int id = genl_ctrl_resolve(socket.get(), spec::netlink::family_name);
  if (id == -NLE_OBJ_NOTFOUND) return Error(ENOENT, "there is no netlink family `vdpa`");
  if (id < 0) return Error(EIO, fmt::format("looking for the netlink family `vdpa`: {}", nl_geterror(id)));
  return Family{std::move(socket), id};
}

Result<Message> KernelNetlink::message(const Family& family, std::uint8_t which, int flags) {
  Message made(nlmsg_alloc());
  if (!made || genlmsg_put(made.get(), NL_AUTO_PORT, NL_AUTO_SEQ, family.id, 0, NLM_F_REQUEST | flags, which,
                           spec::netlink::family_version) == nullptr)
    return out_of_memory();
  return made;
}

Result<Exchange> KernelNetlink::exchange(const Family& family, const Message& message) {
  Exchange exchange;
  const Callbacks callbacks(nl_cb_alloc(NL_CB_DEFAULT));
  if (!callbacks) return out_of_memory();
  nl_cb_err(callbacks.get(), NL_CB_CUSTOM, on_error, &exchange);
  nl_cb_set(callbacks.get(), NL_CB_ACK, NL_CB_CUSTOM, on_end, &exchange);
  nl_cb_set(callbacks.get(), NL_CB_FINISH, NL_CB_CUSTOM, on_end, &exchange);
  nl_cb_set(callbacks.get(), NL_CB_VALID, NL_CB_CUSTOM, on_device, &exchange);
  int done = nl_send_auto(family.socket.get(), message.get());
  while (done >= 0 && !exchange.finished) done = nl_recvmsgs(family.socket.get(), callbacks.get());
  if (!exchange.finished) return Error(EIO, fmt::format("netlink: {}", nl_geterror(done)));
  return exchange;
}

Result<std::vector<ManagementDevice>> KernelNetlink::management_devices() {
  OUTBOARD_TRY(const auto family, open());
  OUTBOARD_TRY(const auto request, message(family, command::mgmtdev_get, NLM_F_DUMP));
  OUTBOARD_TRY(auto answer, exchange(family, request));
  if (answer.answer.code != 0) return Error(answer.answer.code, "asking for vDPA management devices");
  return std::move(answer.devices);
}

Status KernelNetlink::add(const std::string& name) {
  const auto family = open();
  if (!family) return family.error().code() == ENOENT ? add_error(ENOENT, name, {}) : Error(family.error()).on(name);
  OUTBOARD_TRY(const auto request, message(*family, command::dev_new, NLM_F_ACK));
  if (nla_put_string(request.get(), attribute::dev_name, name.c_str()) < 0 ||
      nla_put_string(request.get(), attribute::mgmtdev_dev_name, spec::netlink::management_device) < 0)
    return out_of_memory();
  OUTBOARD_TRY(const auto done, exchange(*family, request));
  if (done.answer.code != 0) return add_error(done.answer.code, name, done.answer.text);
  return {};
}

Status KernelNetlink::remove(const std::string& name) {
  const auto family = open();
  if (!family) return family.error().code() == ENOENT ? remove_error(ENOENT, name, {}) : Error(family.error()).on(name);
  OUTBOARD_TRY(const auto request, message(*family, command::dev_del, NLM_F_ACK));
  if (nla_put_string(request.get(), attribute::dev_name, name.c_str()) < 0) return out_of_memory();
  OUTBOARD_TRY(const auto done, exchange(*family, request));
  if (done.answer.code != 0) return remove_error(done.answer.code, name, done.answer.text);
  return {};
}

}  // namespace

std::shared_ptr<Netlink> Netlink::of_kernel() { return std::make_shared<KernelNetlink>(); }

}  // namespace outboard::vduse
