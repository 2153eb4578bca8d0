#include <outboard/base/reactor_pool.hpp>

#include <pthread.h>

#include <future>

#include <fmt/format.h>

#include <outboard/base/thread.hpp>

namespace outboard {

Result<std::unique_ptr<ReactorPool>> ReactorPool::create(unsigned threads, const std::string& name,
                                                         const Reactor::Options& options, const Log& log) {
  std::unique_ptr<ReactorPool> pool(new ReactorPool);
  for (unsigned number = 0; number < threads; ++number) {
    OUTBOARD_TRY(auto reactor, Reactor::create(options));
    pool->members_.push_back({std::move(reactor), {}});
    Member& member = pool->members_.back();
    // Until its thread runs it a loop is taken for ours.
    std::promise<void> running;
    const auto begun = running.get_future();
    member.reactor->post([&running] { running.set_value(); });
    OUTBOARD_TRY(member.thread, start_thread("an event loop", [reactor = member.reactor.get(), log] {
                   if (const auto done = reactor->run(); !done) log.error("{}", done.error().message());
                 }));
    const std::string title = fmt::format("{}-{}", name, number).substr(0, 15);
    pthread_setname_np(member.thread.native_handle(), title.c_str());
    begun.wait();
  }
  return pool;
}

ReactorPool::~ReactorPool() {
  for (Member& member : members_) member.reactor->stop();
  for (Member& member : members_) {
    if (member.thread.joinable()) member.thread.join();
  }
}

std::vector<Loop*> ReactorPool::loops(std::size_t count) const {
  std::vector<Loop*> dealt;
  if (members_.empty()) return dealt;
  for (std::size_t i = 0; i < count; ++i) dealt.push_back(members_[i % members_.size()].reactor.get());
  return dealt;
}

}  // namespace outboard
