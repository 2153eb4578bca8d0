#include <tests/drivers/back_end.hpp>

#include <algorithm>
#include <array>
#include <future>
#include <map>
#include <mutex>
#include <thread>

#include <fmt/format.h>

#include <outboard/targets/device_table.hpp>
#include <outboard/targets/service.hpp>
#include <outboard/targets/target.hpp>

namespace outboard::drivers {

namespace {

constexpr std::array<std::pair<Kind, std::string_view>, 3> names{
    {{Kind::edu, "edu"}, {Kind::blk, "blk"}, {Kind::example, "example"}}};

/// The devices of the back ends that have none of their own. A transfer takes a while, as QEMU's does, so that something can
/// happen in the middle of it.
std::string_view words_of(Kind kind) {
  switch (kind) {
    case Kind::edu:
      return "edu,dma-time=20000";
    case Kind::blk:
      return "blk,ram,size=16M,queues=2";
    case Kind::example:
      return "example,limit=1000";
  }
  return {};
}

struct Arguments {
  bool over_socket = false;
  std::map<Kind, std::string> targets;  ///< empty: those of words_of()
  std::string report;
};

Arguments& arguments() {
  static Arguments the_arguments;
  return the_arguments;
}

bool take_back_end(std::string_view word) {
  arguments().over_socket = word == "vfio-user";
  return word == "local" || word == "vfio-user";
}

/// Whether the option is one of ours, and its value is good.
enum class Taken : std::uint8_t { ours, wrong, others };
Taken take(std::string_view option, std::string_view value) {
  if (option == "--back-end") return take_back_end(value) ? Taken::ours : Taken::wrong;
  if (option == "--report") {
    arguments().report = value;
    return Taken::ours;
  }
  for (const auto& [kind, name] : names) {
    if (option != fmt::format("--{}", name)) continue;
    arguments().targets[kind] = value;
    return value.empty() ? Taken::wrong : Taken::ours;
  }
  return Taken::others;
}

}  // namespace

std::string_view name_of(Kind kind) {
  return std::ranges::find(names, kind, &decltype(names)::value_type::first)->second;
}

void PrintTo(Kind kind, std::ostream* out) { *out << name_of(kind); }

bool take_arguments(int& argc, char** argv) {
  int kept = 1;
  for (int i = 1; i < argc; ++i) {
    const std::string_view value = i + 1 < argc ? argv[i + 1] : "";
    const Taken taken = take(argv[i], value);
    if (taken == Taken::wrong || (taken == Taken::others && !std::string_view(argv[i]).starts_with("--gtest_"))) {
      fmt::print(stderr, "driver_tests: {} {}: wrong; see tests/drivers/back_end.hpp\n", argv[i], value);
      return false;
    }
    if (taken == Taken::ours) {
      ++i;
    } else {
      argv[kept++] = argv[i];
    }
  }
  argc = kept;
  return true;
}

const std::string& report_file() { return arguments().report; }

std::vector<Kind> kinds() {
  std::vector<Kind> found;
  for (const auto& [kind, name] : names) {
    if (arguments().targets.empty() || arguments().targets.contains(kind)) found.push_back(kind);
  }
  return found;
}

std::vector<Kind> only(Kind kind) {
  const auto all = kinds();
  return std::ranges::find(all, kind) != all.end() ? std::vector{kind} : std::vector<Kind>();
}

std::string test_name(const ::testing::TestParamInfo<Kind>& info) { return std::string(name_of(info.param)); }

/// A device of ours behind a socket, on a thread of its own.
class Opened::Server {
 public:
  explicit Server(std::string_view text) {
    std::promise<Status> ready;
    auto made = ready.get_future();
    thread_ = std::thread([this, text, &ready] { serve(text, ready); });
    const Status listening = made.get();
    EXPECT_TRUE(listening) << why(listening);
  }
  ~Server() {
    {
      const std::lock_guard lock(mutex_);
      if (service_) service_->stop();
    }
    thread_.join();
  }
  std::string target() const { return "vfio-user:" + path(); }

 private:
  std::string path() const { return folder_.path("device.sock"); }

  Status make(std::string_view text) {
    OUTBOARD_TRY(auto local, targets::parse_local(text));
    OUTBOARD_TRY(const auto* entry, targets::find_device(local.device));
    OUTBOARD_TRY(service_, targets::serve(*entry, std::move(local.options), target(), {}));
    return {};
  }
  void serve(std::string_view text, std::promise<Status>& ready) {
    if (const Status made = make(text); !made) return ready.set_value(made);
    const Status ended = service_->run([&ready] {
      ready.set_value({});
      return Status();
    });
    EXPECT_TRUE(ended) << why(ended);
    // A function ends on the thread that it lived on.
    const std::lock_guard lock(mutex_);
    service_.reset();
  }

  testing::TempDir folder_;
  std::mutex mutex_;  ///< of service_, once it runs
  std::unique_ptr<targets::Service> service_;
  std::thread thread_;
};

Opened::Opened(Kind kind) {
  const auto& named = arguments().targets;
  if (const auto found = named.find(kind); found != named.end()) {
    target_ = found->second;
  } else if (arguments().over_socket) {
    server_ = std::make_unique<Server>(words_of(kind));
    target_ = server_->target();
  } else {
    target_ = fmt::format("local:{}", words_of(kind));
  }
  reopen();
}

Opened::~Opened() = default;

void Opened::reopen() {
  handle_.reset();
  auto opened = targets::open(target_);
  EXPECT_TRUE(opened) << why(opened);
  if (opened) handle_ = std::move(*opened);
}

Result<std::unique_ptr<pci::Handle>> Opened::open_again() const { return targets::open(target_); }

}  // namespace outboard::drivers
