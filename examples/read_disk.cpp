// A driver, on whatever the target is: example_read_disk vfio-user:/run/blk.sock, or local:blk,image=disk.raw

#include <fmt/format.h>

#include <outboard/devices/blk/driver.hpp>
#include <outboard/targets/target.hpp>
#include <outboard/virtio_pci/transport.hpp>

using namespace outboard;

int fail(const Error& error) {
  fmt::print(stderr, "{}\n", error.message());
  if (!error.cure().empty()) fmt::print(stderr, "{}\n", error.cure());
  return 1;
}

int main(int argc, char** argv) {
  auto function = targets::open(argc > 1 ? argv[1] : "local:blk,ram,size=64M");
  if (!function) return fail(function.error());
  auto disk = blk::Driver::start(**function);  // negotiates, sets up queues and interrupts
  if (!disk) return fail(disk.error());

  auto buffer = disk->dma().allocate(4096);  // memory that the device can reach
  if (!buffer) return fail(buffer.error());
  if (auto read = disk->read(blk::Sector{0}, *buffer); !read) return fail(read.error());
  fmt::print("{} bytes, {} queues, {} interrupt vectors; the first byte is {:#04x}\n", disk->capacity(),
             disk->queue_count(), (*function)->msix_vector_count().value_or(0),
             std::to_integer<int>(buffer->data()[0]));
}
