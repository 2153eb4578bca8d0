#pragma once

#include <memory>
#include <string>
#include <vector>

#include <outboard/base/log.hpp>
#include <outboard/base/options.hpp>
#include <outboard/targets/service.hpp>
#include <outboard/vduse/server.hpp>
#include <outboard/virtio/device_type.hpp>

namespace outboard::targets {

/// Takes the words that are VDUSE's, and those that say how a device runs, out of `words`; what is left is the device's.
/// EINVAL, ERANGE: the error names the word.
Result<vduse::Server::Options> take_vduse_words(OptionSet& words, const std::string& name, const Log& log);

/// All words that a device on VDUSE takes beside its own: those of vduse_words(), and how a device runs.
std::vector<OptionHelp> words_beside_device_on_vduse();

/// How the options of a server with a journal of shape `before` differ from those of one with `now`, as they are typed: "with
/// --queues 1, without --packed". Empty: that cannot be told.
std::string differing_options(const virtio::DeviceType& type, const virtio::JournalFile::Shape& before,
                              const virtio::JournalFile::Shape& now);

/// serve() for `vduse:NAME`.
Result<std::unique_ptr<Service>> serve_on_vduse(const virtio::DeviceType& type, OptionSet words,
                                                const std::string& name, const Log& log);

}  // namespace outboard::targets
