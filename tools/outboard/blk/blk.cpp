#include <tools/outboard/blk/blk.hpp>

#include <tools/outboard/verbs.hpp>

namespace outboard::command {

void add_blk(const Verb& parent, Plan& plan) {
  const Verb verb = parent.add_group("blk", "drive a virtio disk: info, read, write, verify, bench",
                                     "Example:\n  outboard blk info vfio-user:/run/blk.sock\n");
  add_blk_info(verb, plan);
  add_blk_read(verb, plan);
  add_blk_write(verb, plan);
  add_blk_verify(verb, plan);
  add_blk_bench(verb, plan);
}

}  // namespace outboard::command
