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

/// Takes the options of VDUSE and those for every transport out of `set`; the device's options remain. EINVAL, ERANGE: the
/// error names the option.
Result<vduse::Server::Options> take_vduse_options(OptionSet& set, const std::string& name, const Log& log);

/// All options of a device on VDUSE beside its own: those of vduse_options() and those for every transport.
std::vector<OptionHelp> options_beside_device_on_vduse();

/// The options that a server whose journal has the shape `before` had in place of those of `now`, as they are typed: "with
/// --queues 1, without --packed". Empty: unknown.
std::string differing_options(const virtio::DeviceType& type, const journal::File::Shape& before,
                              const journal::File::Shape& now);

/// Whether the kernel's VDUSE takes devices of this type.
bool vduse_takes(const virtio::DeviceType& type);

/// serve() for `vduse:NAME`. ENOTSUP: the kernel's VDUSE does not take devices of this type. ENOENT: the kernel module is
/// not loaded.
Result<std::unique_ptr<Service>> serve_on_vduse(const virtio::DeviceType& type, OptionSet set, const std::string& name,
                                                const Log& log);

}  // namespace outboard::targets
