#include <tools/outboard/blk.hpp>

namespace outboard::command {

void add_blk(CLI::App& app, Plan& plan) {
  CLI::App* verb = app.add_subcommand("blk", "drive a disk: info, read, write, verify, bench");
  verb->require_subcommand(1);
  verb->footer("Example:\n  outboard blk info vfio-user:/run/blk.sock\n");
  add_blk_info(*verb, plan);
  add_blk_read(*verb, plan);
  add_blk_write(*verb, plan);
  add_blk_verify(*verb, plan);
  add_blk_bench(*verb, plan);
}

}  // namespace outboard::command
