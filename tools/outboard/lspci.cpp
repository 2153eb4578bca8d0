#include <fmt/format.h>

#include <tools/outboard/command.hpp>
#include <tools/outboard/file_set.hpp>
#include <tools/outboard/lspci_text.hpp>
#include <tools/outboard/sysfs_snapshot.hpp>

namespace outboard::command {

namespace {

struct LspciArguments {
  TargetArguments target;
  int hex = 0;
  bool dump = false;
  std::string sysfs;
};

/// How much of it -x, -xxx and -xxxx show, as with lspci.
std::size_t hex_length(int level) { return level >= 4 ? 4096 : level >= 2 ? 256 : 64; }

Result<Exit> write_snapshot(const ConfigImage& image, const std::string& folder) {
  const FileSet files = sysfs_snapshot(image, folder);
  OUTBOARD_CHECK(create_files(files));
  OUTBOARD_CHECK(print(
      fmt::format("{}/{}: written; lspci -A linux-sysfs -O sysfs.path={}\n", folder, files.units.front(), folder)));
  return Exit::done;
}

Result<Exit> lspci(const LspciArguments& arguments, Context& context) {
  OUTBOARD_TRY(const auto handle, arguments.target.open(context));
  OUTBOARD_TRY(const auto image, ConfigImage::of(*handle));
  if (!arguments.sysfs.empty()) return write_snapshot(image, arguments.sysfs);
  const PciNames names = PciNames::load();
  std::string text;
  if (arguments.dump) {
    text = lspci_headline(image, names) + "\n" + lspci_hex(image, image.size());
  } else {
    text = lspci_text(image, names);
    if (arguments.hex > 0) text += lspci_hex(image, hex_length(arguments.hex));
  }
  OUTBOARD_CHECK(print(text + "\n"));
  return Exit::done;
}

}  // namespace

void add_lspci(CLI::App& app, Plan& plan) {
  const auto arguments = std::make_shared<LspciArguments>();
  CLI::App* verb =
      add_verb(app, plan, "lspci", "print a function as `lspci -vvv` would",
               "outboard lspci local:blk,ram,size=64M --dump | lspci -vvv -F /dev/stdin",
               [arguments](Context& context) { return arguments->target.name_in(lspci(*arguments, context)); });
  arguments->target.add_to(*verb);
  auto* hex = verb->add_flag("-x", arguments->hex, "and the first bytes in hexadecimal: 64; -xxx 256, -xxxx all 4096");
  auto* dump = verb->add_flag("--dump", arguments->dump, "only the bytes, all of them, as `lspci -F` reads them");
  dump->excludes(hex);
  verb->add_option("--sysfs", arguments->sysfs, "print nothing; write a folder that `lspci -O sysfs.path=DIR` reads")
      ->type_name("DIR")
      ->excludes(hex)
      ->excludes(dump);
}

}  // namespace outboard::command
