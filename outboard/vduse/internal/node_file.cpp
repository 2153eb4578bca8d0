#include <outboard/vduse/internal/node_file.hpp>

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

namespace outboard::vduse {
namespace {

class KernelFile final : public NodeFile {
 public:
  explicit KernelFile(UniqueFd fd) : fd_(std::move(fd)) {}

  int fd() const override { return fd_.get(); }

  int control(std::uint32_t request, void* argument) override {
    const int value = ::ioctl(fd_.get(), request, argument);
    return value < 0 ? -errno : value;
  }

  ssize_t read(MutableBytes into) override {
    const ssize_t length = ::read(fd_.get(), into.data(), into.size());
    return length < 0 ? -errno : length;
  }

  ssize_t write(Bytes from) override {
    const ssize_t length = ::write(fd_.get(), from.data(), from.size());
    return length < 0 ? -errno : length;
  }

 private:
  UniqueFd fd_;
};

Result<std::unique_ptr<NodeFile>> file_of(UniqueFd fd) {
  struct stat status{};
  if (::fstat(fd.get(), &status) != 0) return Error::from_errno("looking at a node");
  if (!S_ISCHR(status.st_mode)) return Error(ENODEV, "it is no character device");
  return std::make_unique<KernelFile>(std::move(fd));
}

}  // namespace

Result<std::unique_ptr<NodeFile>> open_node_file(const std::string& path) {
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC));
  if (!fd) return Error::from_errno("opening it").on(path);
  auto file = file_of(std::move(fd));
  if (!file) return Error(file.error()).on(path);
  return file;
}

Result<std::unique_ptr<NodeFile>> adopt_node_file(UniqueFd fd) {
  const int flags = ::fcntl(fd.get(), F_GETFL);
  if (flags < 0 || ::fcntl(fd.get(), F_SETFL, flags | O_NONBLOCK) < 0 || ::fcntl(fd.get(), F_SETFD, FD_CLOEXEC) < 0)
    return Error::from_errno("taking over a descriptor");
  return file_of(std::move(fd));
}

}  // namespace outboard::vduse
