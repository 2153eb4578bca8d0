#pragma once

#include <memory>
#include <string>

#include <outboard/base/log.hpp>
#include <outboard/base/options.hpp>
#include <outboard/targets/service.hpp>
#include <outboard/vduse/server.hpp>
#include <outboard/virtio/device_type.hpp>

namespace outboard::targets {

/// Takes the words that are VDUSE's, and those that say how a device runs, out of `words`; what is left is the device's.
/// EINVAL, ERANGE: the error names the word.
Result<vduse::Server::Options> take_vduse_words(OptionSet& words, const std::string& name, const Log& log);

/// serve() for `vduse:NAME`.
Result<std::unique_ptr<Service>> serve_on_vduse(const virtio::DeviceType& type, OptionSet words,
                                                const std::string& name, const Log& log);

}  // namespace outboard::targets
