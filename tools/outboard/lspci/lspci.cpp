#include <fmt/format.h>

#include <tools/outboard/file_set.hpp>
#include <tools/outboard/lspci/sysfs_snapshot.hpp>
#include <tools/outboard/lspci/text.hpp>
#include <tools/outboard/output.hpp>
#include <tools/outboard/target_arguments.hpp>
#include <tools/outboard/verbs.hpp>

namespace outboard::command {

namespace {

struct LspciArguments {
  TargetArguments target;
  int hex = 0;
  bool dump = false;
  std::string sysfs;
};

/// The number of bytes of -x, -xxx and -xxxx, as in lspci.
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

void add_lspci(const Verb& parent, Plan& plan) {
  const auto arguments = std::make_shared<LspciArguments>();
  const Verb verb =
      add_verb(parent, plan, "lspci", "print a function in the format of `lspci -vvv`",
               "outboard lspci local:blk,ram,size=64M --dump | lspci -vvv -F /dev/stdin",
               [arguments](Context& context) { return arguments->target.name_in(lspci(*arguments, context)); });
  arguments->target.add_to(verb);
  const Option hex =
      verb.add_flag("-x", arguments->hex, "add the first 64 bytes in hexadecimal (-xxx: 256, -xxxx: all 4096)");
  const Option dump =
      verb.add_flag("--dump", arguments->dump, "print all bytes in the format of `lspci -F`").excludes(hex);
  verb.add_option("--sysfs", arguments->sysfs, "write a folder for `lspci -O sysfs.path=DIR` instead of printing")
      .value_name("DIR")
      .excludes(hex)
      .excludes(dump);
}

}  // namespace outboard::command
