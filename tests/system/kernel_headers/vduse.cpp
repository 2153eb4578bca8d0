/// <outboard/vduse/spec.hpp> and netlink_spec.hpp against <linux/vduse.h> and <linux/vdpa.h> of a guest's kernel. Compiled
/// by kernel_headers_test.py; there is nothing to run.

#include <cstddef>

#include <linux/ioctl.h>

#include <kernel/vdpa.h>
#include <kernel/vduse.h>

#include <outboard/vduse/internal/netlink_spec.hpp>
#include <outboard/vduse/spec.hpp>

#include "same.hpp"

namespace spec = outboard::vduse::spec;
namespace call = outboard::vduse::spec::ioctl;

static_assert(spec::api_version_0 == VDUSE_API_VERSION);
static_assert(spec::name_size == VDUSE_NAME_MAX);

// The control node. Which fields API version 1 added to a structure does not change its size.
static_assert(call::get_api_version == VDUSE_GET_API_VERSION);
static_assert(call::set_api_version == VDUSE_SET_API_VERSION);
static_assert(call::create_dev == VDUSE_CREATE_DEV);
static_assert(call::destroy_dev == VDUSE_DESTROY_DEV);

SAME_SIZE(spec::DeviceConfig, vduse_dev_config);
SAME_PLACE(spec::DeviceConfig, vduse_dev_config, name);
SAME_PLACE(spec::DeviceConfig, vduse_dev_config, vendor_id);
SAME_PLACE(spec::DeviceConfig, vduse_dev_config, device_id);
SAME_PLACE(spec::DeviceConfig, vduse_dev_config, features);
SAME_PLACE(spec::DeviceConfig, vduse_dev_config, vq_num);
SAME_PLACE(spec::DeviceConfig, vduse_dev_config, vq_align);
SAME_PLACE(spec::DeviceConfig, vduse_dev_config, config_size);
static_assert(sizeof(spec::DeviceConfig) == offsetof(vduse_dev_config, config));

// A device's node.
static_assert(call::iotlb_get_fd == VDUSE_IOTLB_GET_FD);
static_assert(call::dev_get_features == VDUSE_DEV_GET_FEATURES);
static_assert(call::dev_set_config == VDUSE_DEV_SET_CONFIG);
static_assert(call::dev_inject_config_irq == VDUSE_DEV_INJECT_CONFIG_IRQ);
static_assert(call::vq_setup == VDUSE_VQ_SETUP);
static_assert(call::vq_get_info == VDUSE_VQ_GET_INFO);
static_assert(call::vq_setup_kickfd == VDUSE_VQ_SETUP_KICKFD);
static_assert(call::vq_inject_irq == VDUSE_VQ_INJECT_IRQ);
static_assert(call::iotlb_reg_umem == VDUSE_IOTLB_REG_UMEM);
static_assert(call::iotlb_dereg_umem == VDUSE_IOTLB_DEREG_UMEM);
static_assert(call::iotlb_get_info == VDUSE_IOTLB_GET_INFO);

SAME_SIZE(spec::IotlbEntry, vduse_iotlb_entry);
SAME_PLACE(spec::IotlbEntry, vduse_iotlb_entry, offset);
SAME_PLACE(spec::IotlbEntry, vduse_iotlb_entry, start);
SAME_PLACE(spec::IotlbEntry, vduse_iotlb_entry, last);
SAME_PLACE(spec::IotlbEntry, vduse_iotlb_entry, perm);
static_assert(spec::perm::read == VDUSE_ACCESS_RO && spec::perm::write == VDUSE_ACCESS_WO &&
              (spec::perm::read | spec::perm::write) == VDUSE_ACCESS_RW);

SAME_SIZE(spec::ConfigData, vduse_config_data);
SAME_PLACE(spec::ConfigData, vduse_config_data, offset);
SAME_PLACE(spec::ConfigData, vduse_config_data, length);

SAME_SIZE(spec::VqConfig, vduse_vq_config);
SAME_PLACE(spec::VqConfig, vduse_vq_config, index);
SAME_PLACE(spec::VqConfig, vduse_vq_config, max_size);

SAME_SIZE(spec::VqStateSplit, vduse_vq_state_split);
SAME_SIZE(spec::VqStatePacked, vduse_vq_state_packed);
SAME_PLACE(spec::VqStatePacked, vduse_vq_state_packed, last_avail_counter);
SAME_PLACE(spec::VqStatePacked, vduse_vq_state_packed, last_avail_idx);
SAME_PLACE(spec::VqStatePacked, vduse_vq_state_packed, last_used_counter);
SAME_PLACE(spec::VqStatePacked, vduse_vq_state_packed, last_used_idx);

SAME_SIZE(spec::VqInfo, vduse_vq_info);
SAME_PLACE(spec::VqInfo, vduse_vq_info, index);
SAME_PLACE(spec::VqInfo, vduse_vq_info, num);
SAME_PLACE(spec::VqInfo, vduse_vq_info, desc_addr);
SAME_PLACE(spec::VqInfo, vduse_vq_info, driver_addr);
SAME_PLACE(spec::VqInfo, vduse_vq_info, device_addr);
SAME_PLACE_AS(spec::VqInfo, state, vduse_vq_info, packed);
SAME_PLACE(spec::VqInfo, vduse_vq_info, ready);

SAME_SIZE(spec::VqEventfd, vduse_vq_eventfd);
SAME_PLACE(spec::VqEventfd, vduse_vq_eventfd, fd);
SAME_SIZE(spec::IovaUmem, vduse_iova_umem);
SAME_PLACE(spec::IovaUmem, vduse_iova_umem, uaddr);
SAME_PLACE(spec::IovaUmem, vduse_iova_umem, iova);
SAME_PLACE(spec::IovaUmem, vduse_iova_umem, size);
SAME_SIZE(spec::IovaInfo, vduse_iova_info);
SAME_PLACE(spec::IovaInfo, vduse_iova_info, start);
SAME_PLACE(spec::IovaInfo, vduse_iova_info, last);
SAME_PLACE(spec::IovaInfo, vduse_iova_info, capability);
static_assert(spec::capability::umem == VDUSE_IOVA_CAP_UMEM);

// Messages.
static_assert(static_cast<unsigned>(spec::RequestType::get_vq_state) == VDUSE_GET_VQ_STATE);
static_assert(static_cast<unsigned>(spec::RequestType::set_status) == VDUSE_SET_STATUS);
static_assert(static_cast<unsigned>(spec::RequestType::update_iotlb) == VDUSE_UPDATE_IOTLB);
static_assert(spec::result::ok == VDUSE_REQ_RESULT_OK && spec::result::failed == VDUSE_REQ_RESULT_FAILED);

SAME_SIZE(spec::Request, vduse_dev_request);
SAME_PLACE(spec::Request, vduse_dev_request, type);
SAME_PLACE(spec::Request, vduse_dev_request, request_id);
SAME_PLACE_AS(spec::Request, payload, vduse_dev_request, padding);
SAME_SIZE(spec::Response, vduse_dev_response);
SAME_PLACE(spec::Response, vduse_dev_response, request_id);
SAME_PLACE(spec::Response, vduse_dev_response, result);
SAME_PLACE_AS(spec::Response, payload, vduse_dev_response, padding);
SAME_SIZE(spec::VqStateResponse, vduse_vq_state);
SAME_PLACE(spec::VqStateResponse, vduse_vq_state, index);
SAME_PLACE_AS(spec::VqStateResponse, state, vduse_vq_state, packed);
SAME_SIZE(spec::StatusRequest, vduse_dev_status);
SAME_PLACE(spec::UpdateIotlbRequest, vduse_iova_range, start);
SAME_PLACE(spec::UpdateIotlbRequest, vduse_iova_range, last);

// API version 1: queue groups and address spaces. OUTBOARD_KERNEL_API_1 is defined where the kernel is known to have it.
#if defined(OUTBOARD_KERNEL_API_1) && !defined(VDUSE_API_VERSION_1)
#error "the kernel's header has no API version 1"
#endif
#ifdef VDUSE_API_VERSION_1
static_assert(spec::api_version_1 == VDUSE_API_VERSION_1);
static_assert(call::iotlb_get_fd2 == VDUSE_IOTLB_GET_FD2);
static_assert(static_cast<unsigned>(spec::RequestType::set_vq_group_asid) == VDUSE_SET_VQ_GROUP_ASID);
SAME_PLACE(spec::DeviceConfig, vduse_dev_config, ngroups);
SAME_PLACE(spec::DeviceConfig, vduse_dev_config, nas);
SAME_PLACE(spec::VqConfig, vduse_vq_config, group);
SAME_PLACE(spec::IovaUmem, vduse_iova_umem, asid);
SAME_PLACE(spec::IovaInfo, vduse_iova_info, asid);
SAME_SIZE(spec::IotlbEntryV2, vduse_iotlb_entry_v2);
SAME_PLACE(spec::IotlbEntryV2, vduse_iotlb_entry_v2, offset);
SAME_PLACE(spec::IotlbEntryV2, vduse_iotlb_entry_v2, start);
SAME_PLACE(spec::IotlbEntryV2, vduse_iotlb_entry_v2, last);
SAME_PLACE(spec::IotlbEntryV2, vduse_iotlb_entry_v2, perm);
SAME_PLACE(spec::IotlbEntryV2, vduse_iotlb_entry_v2, asid);
SAME_SIZE(spec::GroupAsidRequest, vduse_vq_group_asid);
SAME_PLACE(spec::GroupAsidRequest, vduse_vq_group_asid, group);
SAME_PLACE(spec::GroupAsidRequest, vduse_vq_group_asid, asid);
SAME_SIZE(spec::UpdateIotlbRequest, vduse_iova_range_v2);
SAME_PLACE(spec::UpdateIotlbRequest, vduse_iova_range_v2, asid);
#endif

// Kernels from 7.3 on.
#ifdef VDUSE_GET_FEATURES
static_assert(call::get_features == VDUSE_GET_FEATURES && call::set_features == VDUSE_SET_FEATURES);
static_assert(static_cast<unsigned>(spec::RequestType::set_vq_ready) == VDUSE_SET_VQ_READY);
static_assert(static_cast<unsigned>(spec::RequestType::suspend) == VDUSE_SUSPEND);
#endif

// Netlink.
namespace netlink = outboard::vduse::spec::netlink;
static_assert(netlink::family_version == VDPA_GENL_VERSION);
static_assert(netlink::command::mgmtdev_get == VDPA_CMD_MGMTDEV_GET);
static_assert(netlink::command::dev_new == VDPA_CMD_DEV_NEW);
static_assert(netlink::command::dev_del == VDPA_CMD_DEV_DEL);
static_assert(netlink::attribute::mgmtdev_bus_name == VDPA_ATTR_MGMTDEV_BUS_NAME);
static_assert(netlink::attribute::mgmtdev_dev_name == VDPA_ATTR_MGMTDEV_DEV_NAME);
static_assert(netlink::attribute::mgmtdev_supported_classes == VDPA_ATTR_MGMTDEV_SUPPORTED_CLASSES);
static_assert(netlink::attribute::dev_name == VDPA_ATTR_DEV_NAME);
static_assert(netlink::attribute::mgmtdev_max_vqs == VDPA_ATTR_DEV_MGMTDEV_MAX_VQS);
