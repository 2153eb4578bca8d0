/* SPDX-License-Identifier: GPL-2.0-only OR BSD-3-Clause */
/*
 * The example device: what driver and device agree on. Chapter:
 * outboard/devices/example/specification.md, whose section numbers are given.
 *
 * All integers are little-endian, all structures without padding by compilers.
 */
#ifndef VIRTIO_EXAMPLE_H
#define VIRTIO_EXAMPLE_H

#include <linux/types.h>

/* 5.x.1: not assigned by the committee; the one place where this driver has it. */
#define VIRTIO_ID_EXAMPLE 63

/* 5.x.2: virtqueues. */
#define VIRTIO_EXAMPLE_VQ_REQUEST 0
#define VIRTIO_EXAMPLE_VQ_EVENT 1 /* only with VIRTIO_EXAMPLE_F_LIMIT */

/* 5.x.3: feature bits. */
#define VIRTIO_EXAMPLE_F_LIMIT 0 /* a limit, a status in replies, and events */

/* 5.x.4: device configuration, present if VIRTIO_EXAMPLE_F_LIMIT is offered. */
struct virtio_example_config {
	__le32 limit; /* largest value that is not refused */
	__le32 reserved;
	__le64 epoch; /* how often limit has changed */
};

/* 5.x.6.1: the device-readable part of a request. */
struct virtio_example_request {
	__le32 value;
};

/*
 * The device-writable part: the first field alone without
 * VIRTIO_EXAMPLE_F_LIMIT, all of it with that feature.
 */
struct virtio_example_reply {
	__le32 result;
	__u8 status;
	__u8 reserved[3];
};

#define VIRTIO_EXAMPLE_S_OK 0
#define VIRTIO_EXAMPLE_S_RANGE 1 /* value was larger than limit */

/* 5.x.6.3: what the device puts into a buffer of the event queue. */
struct virtio_example_event {
	__le32 type;
	__le32 missed; /* events that were lost before this one */
	__le32 value;
	__le32 reserved;
};

#define VIRTIO_EXAMPLE_EV_LIMIT_HIT 1 /* value is the number that was refused */

#endif /* VIRTIO_EXAMPLE_H */
