#include <tests/support/loop_device.hpp>

#include <fcntl.h>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include <fmt/format.h>

namespace outboard::testing {

namespace {

/// EBUSY: somebody else has taken the number meanwhile.
Result<LoopDevice> take_free_one(const UniqueFd& control, const UniqueFd& file, std::uint32_t block_size,
                                 LoopDevice::Through through) {
  const int number = ::ioctl(control.get(), LOOP_CTL_GET_FREE);
  if (number < 0) return Error::from_errno("asking for a free loop device");
  LoopDevice made;
  made.path = fmt::format("/dev/loop{}", number);
  made.device = UniqueFd(::open(made.path.c_str(), O_RDWR | O_CLOEXEC));
  loop_config config{};
  config.fd = static_cast<std::uint32_t>(file.get());
  config.block_size = block_size;
  config.info.lo_flags = LO_FLAGS_AUTOCLEAR;
  if (through == LoopDevice::Through::o_direct) config.info.lo_flags |= LO_FLAGS_DIRECT_IO;
  if (!made.device || ::ioctl(made.device.get(), LOOP_CONFIGURE, &config) != 0)
    return Error::from_errno("setting up").on(made.path);
  return made;
}

}  // namespace

Result<LoopDevice> LoopDevice::attach(const std::string& path, std::uint32_t block_size, Through through) {
  const UniqueFd control(::open("/dev/loop-control", O_RDWR | O_CLOEXEC));
  if (!control) return Error::from_errno("opening").on("/dev/loop-control");
  const UniqueFd file(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!file) return Error::from_errno("opening").on(path);
  constexpr int attempts = 100;
  auto made = take_free_one(control, file, block_size, through);
  for (int i = 1; i < attempts && !made && made.error().code() == EBUSY; ++i)
    made = take_free_one(control, file, block_size, through);
  return made;
}

dev_t LoopDevice::number() const {
  struct stat info{};
  return ::fstat(device.get(), &info) == 0 ? info.st_rdev : 0;
}

}  // namespace outboard::testing
