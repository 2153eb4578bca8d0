// A program of someone else's, built against an installed copy.

#include <outboard/base/endian.hpp>
#include <outboard/base/result.hpp>

#include <cerrno>
#include <cstdio>
#include <string>

namespace {

outboard::Result<outboard::le32> next(outboard::le32 number) {
  if (number == 0xffffffffu) return outboard::Error(ERANGE, "there is no greater number").on("next");
  return outboard::le32{number + 1};
}

}  // namespace

int main() {
  const auto answer = next(outboard::le32{41});
  const auto error = next(outboard::le32{0xffffffffu});
  if (!answer || *answer != 42 || error) return 1;
  std::printf("%u; %s\n", unsigned{*answer}, error.error().message().c_str());
  return 0;
}
