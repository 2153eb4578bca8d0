#include <outboard/base/reactor_pool.hpp>

#include <pthread.h>

#include <future>

#include <fmt/format.h>

#include <outboard/base/internal/thread.hpp>

namespace outboard {

Result<std::unique_ptr<ReactorPool>> ReactorPool::create(unsigned threads, const std::string& name,
                                                         const Reactor::Options& options, const Log& log) {
  std::unique_ptr<ReactorPool> pool(new ReactorPool);
  for (unsigned number = 0; number < threads; ++number) {
    OUTBOARD_TRY(auto reactor, Reactor::create(options));
    pool->members_.push_back({std::move(reactor), {}, {}});
    Member& member = pool->members_.back();
    // Until its thread runs it a loop is taken for ours.
    std::promise<void> running;
    const auto begun = running.get_future();
    member.reactor->post([&running] { running.set_value(); });
    auto ended = std::make_shared<std::promise<void>>();
    member.ended = ended->get_future();
    auto run = [reactor = member.reactor.get(), log, ended = std::move(ended)] {
      if (const auto done = reactor->run(); !done) log.error("{}", done.error().message());
      ended->set_value();
    };
    OUTBOARD_TRY(member.thread, start_thread("an event loop", std::move(run)));
    const std::string title = fmt::format("{}-{}", name, number).substr(0, 15);
    pthread_setname_np(member.thread.native_handle(), title.c_str());
    begun.wait();
  }
  return pool;
}

ReactorPool::~ReactorPool() {
  stop();
  for (Member& member : members_) {
    if (member.thread.joinable()) member.thread.join();
  }
}

void ReactorPool::stop() {
  for (const Member& member : members_) member.reactor->stop();
  for (const Member& member : members_) member.ended.wait();
}

std::vector<Loop*> ReactorPool::loops(std::size_t count) const {
  std::vector<Loop*> dealt;
  if (members_.empty()) return dealt;
  for (std::size_t i = 0; i < count; ++i) dealt.push_back(members_[i % members_.size()].reactor.get());
  return dealt;
}

}  // namespace outboard
