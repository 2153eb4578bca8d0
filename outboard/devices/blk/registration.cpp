#include <outboard/devices/blk/registration.hpp>

#include <array>
#include <bit>

#include <fmt/format.h>

#include <outboard/devices/blk/device.hpp>
#include <outboard/devices/blk/layout.hpp>
#include <outboard/storage/null.hpp>
#include <outboard/storage/ram.hpp>
#include <outboard/storage/raw_file.hpp>

namespace outboard::blk {

namespace {

constexpr std::array option_table = {
    OptionHelp{"image", "FILE", "raw image file or block device"},
    OptionHelp{"ram", "", "disk in memory, zeroed at the start and lost at the end"},
    OptionHelp{"null", "", "disk without storage: drops writes, reads zeros"},
    OptionHelp{"size", "SIZE", "size of a ram or null disk: 64M, 1G"},
    OptionHelp{"read-only", "", "refuse writes"},
    OptionHelp{"queues", "N", "request queues, 1 to 256 (default 1)"},
    OptionHelp{"queue-size", "N", "entries of a queue, a power of two (default 256)"},
    OptionHelp{"serial", "TEXT", "serial number, at most 20 bytes"},
    OptionHelp{"direct", "", "bypass the page cache (image only)"},
    OptionHelp{"engine", "NAME", "auto (default), io_uring or pool (image only)"},
    OptionHelp{"incoming", "", "another server has the image until this one takes its guest over (image only)"},
};

/// VIRTIO 1.4, 5.2.3.
constexpr std::array feature_names = {
    virtio::FeatureName{feature::size_max, "SIZE_MAX"},
    virtio::FeatureName{feature::seg_max, "SEG_MAX"},
    virtio::FeatureName{feature::geometry, "GEOMETRY"},
    virtio::FeatureName{feature::ro, "RO", "read-only"},
    virtio::FeatureName{feature::blk_size, "BLK_SIZE"},
    virtio::FeatureName{feature::flush, "FLUSH"},
    virtio::FeatureName{feature::topology, "TOPOLOGY"},
    virtio::FeatureName{feature::config_wce, "CONFIG_WCE"},
    virtio::FeatureName{feature::mq, "MQ"},
    virtio::FeatureName{feature::discard, "DISCARD"},
    virtio::FeatureName{feature::write_zeroes, "WRITE_ZEROES"},
    virtio::FeatureName{feature::lifetime, "LIFETIME"},
    virtio::FeatureName{feature::secure_erase, "SECURE_ERASE"},
    virtio::FeatureName{feature::zoned, "ZONED"},
};

constexpr std::array<std::string_view, 3> engines = {"auto", "io_uring", "pool"};

Result<std::unique_ptr<storage::Backend>> open_image(OptionSet& set, bool read_only, Loop& loop, const Log& log) {
  storage::RawFile::Options options{.read_only = read_only};
  OUTBOARD_TRY(options.path, set.text("image", ""));
  OUTBOARD_TRY(options.direct, set.flag("direct", false));
  OUTBOARD_TRY(options.lent, set.flag("incoming", false));
  OUTBOARD_TRY(const auto engine, set.choice("engine", engines, "auto"));
  if (engine == "io_uring") options.engine = storage::Engine::io_uring;
  if (engine == "pool") options.engine = storage::Engine::pool;
  OUTBOARD_TRY(std::unique_ptr<storage::Backend> file, storage::RawFile::open(loop, options, log));
  return file;
}

/// The size of a disk without an image.
Result<std::uint64_t> take_size(OptionSet& set, std::string_view kind) {
  if (!set.has("size"))
    return Error(EINVAL, fmt::format("a {} disk needs a size", kind))
        .on(set.typed("size"))
        .cure(fmt::format("for example {}", set.typed("size", "64M")));
  OUTBOARD_TRY(const auto size, set.size("size", 0));
  if (const auto good = storage::check_size(size, fmt::format("a {} disk", kind)); !good)
    return Error(good.error()).on(set.typed("size"));
  return size;
}

/// Checks what the device would refuse, so that the error names the option as typed.
Status check(const OptionSet& set, const Device::Options& options) {
  if (!std::has_single_bit(options.queue_size))
    return Error(EINVAL, fmt::format("{} is not a power of two", options.queue_size)).on(set.typed("queue-size"));
  if (options.id.size() > spec::id_size)
    return Error(EINVAL, fmt::format("'{}' is longer than {} bytes", options.id, spec::id_size))
        .on(set.typed("serial"));
  return {};
}

/// The storage that the options name: exactly one of image, ram and null.
Result<std::unique_ptr<storage::Backend>> open_storage(OptionSet& set, bool read_only, Loop& loop, const Log& log) {
  OUTBOARD_TRY(const bool ram, set.flag("ram", false));
  OUTBOARD_TRY(const bool null, set.flag("null", false));
  const bool image = set.has("image");
  if (image + ram + null != 1) {
    return Error(EINVAL, image + ram + null == 0 ? "no backing storage is given"
                                                 : "a disk has one backing storage, not several")
        .on(fmt::format("{}, {}, {}", set.typed("image"), set.typed("ram"), set.typed("null")))
        .cure(fmt::format("use one of: {}; {} with {}; {} with {}", set.typed("image", "FILE"), set.typed("ram"),
                          set.typed("size", "64M"), set.typed("null"), set.typed("size", "1G")));
  }
  if (image) return open_image(set, read_only, loop, log);
  OUTBOARD_TRY(const auto size, take_size(set, ram ? "ram" : "null"));
  if (ram) {
    OUTBOARD_TRY(std::unique_ptr<storage::Backend> disk, storage::Ram::create(size, read_only));
    return disk;
  }
  OUTBOARD_TRY(std::unique_ptr<storage::Backend> disk, storage::Null::create(size, read_only));
  return disk;
}

Result<std::unique_ptr<virtio::Device>> make(OptionSet& set, Loop& loop, const Log& log) {
  Device::Options options;
  OUTBOARD_TRY(const auto queues, set.number("queues", 1, 1, 256));
  OUTBOARD_TRY(const auto queue_size, set.number("queue-size", 256, 4, 32768));
  OUTBOARD_TRY(options.id, set.text("serial", "outboard"));
  OUTBOARD_TRY(const bool read_only, set.flag("read-only", false));
  options.queues = static_cast<unsigned>(queues);
  options.queue_size = static_cast<std::uint16_t>(queue_size);
  OUTBOARD_CHECK(check(set, options));
  OUTBOARD_TRY(auto disk, open_storage(set, read_only, loop, log));
  OUTBOARD_CHECK(set.finish(option_table));
  OUTBOARD_TRY(std::unique_ptr<virtio::Device> device, Device::create(std::move(disk), options));
  return device;
}

}  // namespace

constinit const virtio::DeviceType registration{.name = "blk",
                                                .summary = "a disk: image file, block device, memory or nothing",
                                                .options = option_table,
                                                .device_id = device_id,
                                                .features = feature_names,
                                                .make = make};

}  // namespace outboard::blk
