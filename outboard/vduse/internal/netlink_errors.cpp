#include <fmt/format.h>

#include <outboard/vduse/internal/netlink.hpp>

namespace outboard::vduse {
namespace {

std::string with(std::string what, const std::string& text) {
  return text.empty() ? what : fmt::format("{} (the kernel says: {})", what, text);
}

Error no_right(const std::string& doing, const std::string& name, const std::string& text) {
  return Error(EPERM, with(doing + " the vDPA bus needs CAP_NET_ADMIN", text))
      .on(name)
      .cure("run as root; or serve with --no-attach, and let root attach it: vdpa dev add name " + name +
            " mgmtdev vduse");
}

Error no_family(const std::string& name) {
  return Error(ENOENT,
               "there is no vDPA bus here: the module vdpa is not loaded, or this is not the initial network "
               "namespace")
      .on(name)
      .cure("modprobe -a vduse virtio_vdpa; from a container: outside of it");
}

}  // namespace

Error add_error(int code, const std::string& name, const std::string& text) {
  switch (code) {
    case EPERM:
    case EACCES:
      return no_right("putting a device on", name, text);
    case ENOENT:
      return no_family(name);
    case ENODEV:
      return Error(ENODEV, with("the vDPA bus has no management device 'vduse'", text)).on(name).cure("modprobe vduse");
    case EEXIST:
      return Error(EEXIST, with("the vDPA bus has a device of this name already", text))
          .on(name)
          .cure("a server adopts a device that is its own; else choose another name: outboard vduse list");
    case EINVAL:
      return Error(EINVAL, with("the kernel has no such VDUSE device, or a queue of it was never set up", text))
          .on(name)
          .cure("outboard vduse list; a queue is set up by the server, which has to run");
    case ENOMEM:
      return Error(ENOMEM, with("the kernel has no memory for the device's bounce buffer", text))
          .on(name)
          .cure(fmt::format("a smaller one: echo 16777216 >/sys/class/vduse/{}/bounce_size; and the module parameter "
                            "vduse.max_iotlb_entries must be more than 0",
                            name));
    default:
      errno = code;
      return Error::from_errno(with("putting the device on the vDPA bus", text)).on(name);
  }
}

Error remove_error(int code, const std::string& name, const std::string& text) {
  switch (code) {
    case EPERM:
    case EACCES:
      return no_right("taking a device off", name, text);
    case ENOENT:
      return no_family(name);
    case ENODEV:
      return Error(ENODEV, with("the vDPA bus has no such device", text)).on(name);
    default:
      errno = code;
      return Error::from_errno(with("taking the device off the vDPA bus", text)).on(name);
  }
}

}  // namespace outboard::vduse
