#include "node.hpp"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <vector>

namespace outboard::vhost {

Result<Node> Node::open(const std::string& path) {
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!fd) return Error::from_errno("opening").on(path);
  Node node(std::move(fd), path);
  OUTBOARD_CHECK(node.call(spec::ioctl::set_owner, nullptr, "VHOST_SET_OWNER"));
  OUTBOARD_TRY(const auto offered,
               node.get(spec::ioctl::get_backend_features, std::uint64_t{0}, "GET_BACKEND_FEATURES"));
  const std::uint64_t wanted = spec::backend_feature::msg_v2 | spec::backend_feature::batch |
                               spec::backend_feature::asid | spec::backend_feature::suspend;
  OUTBOARD_CHECK(node.set(spec::ioctl::set_backend_features, offered & wanted, "SET_BACKEND_FEATURES"));
  node.can_suspend_ = (offered & spec::backend_feature::suspend) != 0;
  return node;
}

Status Node::call(std::uint32_t request, void* argument, const char* name) const {
  if (::ioctl(fd_.get(), request, argument) == 0) return {};
  return Error::from_errno(name).on(path_);
}

Status Node::read_config(std::uint32_t offset, MutableBytes into) const {
  const spec::VdpaConfig head{.off = offset, .len = static_cast<std::uint32_t>(into.size())};
  std::vector<std::byte> buffer(sizeof head + into.size());
  std::memcpy(buffer.data(), &head, sizeof head);
  OUTBOARD_CHECK(call(spec::ioctl::get_config, buffer.data(), "VDPA_GET_CONFIG"));
  std::copy(buffer.begin() + sizeof head, buffer.end(), into.begin());
  return {};
}

Status Node::send(const spec::IotlbMessage& message, const char* name) const {
  if (::write(fd_.get(), &message, sizeof message) == static_cast<ssize_t>(sizeof message)) return {};
  return Error::from_errno(name).on(path_);
}

Status Node::map(memory::IovaRange range, const void* memory, std::uint8_t perm, std::uint32_t asid) const {
  return send({.type = spec::message_type,
               .asid = asid,
               .iova = raw(range.start),
               .size = range.size,
               .uaddr = reinterpret_cast<std::uintptr_t>(memory),
               .perm = perm,
               .operation = spec::operation::update},
              "mapping");
}

Status Node::unmap(memory::IovaRange range, std::uint32_t asid) const {
  return send({.type = spec::message_type,
               .asid = asid,
               .iova = raw(range.start),
               .size = range.size,
               .operation = spec::operation::invalidate},
              "unmapping");
}

Status Node::begin_batch() const {
  return send({.type = spec::message_type, .operation = spec::operation::batch_begin}, "beginning a batch");
}

Status Node::end_batch() const {
  return send({.type = spec::message_type, .operation = spec::operation::batch_end}, "ending a batch");
}

}  // namespace outboard::vhost
