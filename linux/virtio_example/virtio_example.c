// SPDX-License-Identifier: GPL-2.0-only
/*
 * Driver for the virtio example device, a template for drivers of new devices.
 *
 * The device adds one to a number. Its chapter is
 * outboard/devices/example/specification.md; D-EX and R-EX in comments are
 * statements of that chapter. README.md has the attributes in sysfs.
 *
 * How it hangs together: a write to the attribute `increment` makes a call,
 * puts it into the request virtqueue and sleeps until it has ended. Any number
 * of calls may be in flight. A call ends when the device has answered it, or
 * when the driver gives the device up; its memory is kept until the device
 * cannot reach it any more, whichever comes last.
 */
#include <linux/cache.h>
#include <linux/completion.h>
#include <linux/jiffies.h>
#include <linux/kstrtox.h>
#include <linux/list.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/refcount.h>
#include <linux/scatterlist.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/string.h>
#include <linux/sysfs.h>
#include <linux/virtio.h>
#include <linux/virtio_config.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#include "virtio_example.h"

/* A device whose configuration never rests is not waited for. */
#define VIRTIO_EXAMPLE_CONFIG_TRIES 100

/* What every register of a device that was pulled out reads. */
#define VIRTIO_EXAMPLE_STATUS_GONE 0xff

/* How often a writer that waits looks whether the device is still there. */
#define VIRTIO_EXAMPLE_LOOK (HZ / 4)

static unsigned int timeout_ms = 10000;
module_param(timeout_ms, uint, 0644);
MODULE_PARM_DESC(timeout_ms, "milliseconds that a request may take until the device counts as broken");

static unsigned int event_buffers = 16;
module_param(event_buffers, uint, 0644);
MODULE_PARM_DESC(event_buffers, "buffers kept with a device for events; counts when the device is started");

enum virtio_example_state {
	VIRTIO_EXAMPLE_STOPPED, /* not yet started, being reset, or asleep */
	VIRTIO_EXAMPLE_RUNNING,
	VIRTIO_EXAMPLE_BROKEN, /* until it is reset */
};

/**
 * struct virtio_example - one device
 * @vdev: the device on its bus
 * @control: held while the device is started or stopped
 * @started: works are enabled, virtqueues are there; under @control
 * @asleep: between freeze and restore, when the core starts the device again;
 *	under @control
 * @event_vq: NULL without VIRTIO_EXAMPLE_F_LIMIT; only touched by @event_work,
 *	and where that cannot run
 * @config_work: the configuration or the state has changed
 * @event_work: there may be events
 * @room: those who wait for room in @request_vq
 * @lock: protects all that follows
 * @request_vq: valid while @state is VIRTIO_EXAMPLE_RUNNING or BROKEN
 * @state: whether requests are taken
 * @calls: struct virtio_example_call, those that the device has
 * @answered: @last_value and @last_result are valid
 * @last_value: the last value that was not refused
 * @last_result: what the device made of it
 * @limit: as last read
 * @epoch: read together with @limit
 * @events: values refused, as far as the device told
 * @missed: events that were lost
 * @refused: @last_refused is valid
 * @last_refused: the value of the last event
 * @told_broken: what user space was last notified of, of @state
 * @told_limit: of @limit
 * @told_epoch: of @epoch
 */
struct virtio_example {
	struct virtio_device *vdev;
	struct mutex control; /* starting and stopping */
	bool started;
	bool asleep;
	struct virtqueue *event_vq;
	struct work_struct config_work;
	struct work_struct event_work;
	wait_queue_head_t room;

	spinlock_t lock; /* all that follows */
	struct virtqueue *request_vq;
	enum virtio_example_state state;
	struct list_head calls;
	bool answered;
	u32 last_value;
	u32 last_result;
	u32 limit;
	u64 epoch;
	u64 events;
	u64 missed;
	bool refused;
	u32 last_refused;
	bool told_broken;
	u32 told_limit;
	u64 told_epoch;
};

/**
 * struct virtio_example_call - one request, from a writer to its answer
 * @list: in virtio_example.calls
 * @users: the writer, and the virtqueue
 * @ended: @error is final
 * @done: completed when @ended is set
 * @error: 0, or what the writer is to be told
 * @value: what was asked; @request is in the device's reach
 * @request: read by the device
 * @reply: written by the device
 *
 * The two parts have cache lines of their own: where DMA is not coherent, a
 * store next to them could undo what the device has written.
 */
struct virtio_example_call {
	struct list_head list;
	refcount_t users;
	bool ended;
	struct completion done;
	int error;
	u32 value;

	struct virtio_example_request request __aligned(ARCH_DMA_MINALIGN);
	struct virtio_example_reply reply __aligned(ARCH_DMA_MINALIGN);
};

static bool virtio_example_has_limit(const struct virtio_example *ex)
{
	return virtio_has_feature(ex->vdev, VIRTIO_EXAMPLE_F_LIMIT);
}

static size_t virtio_example_reply_size(const struct virtio_example *ex)
{
	return virtio_example_has_limit(ex) ? sizeof(struct virtio_example_reply) :
					      offsetof(struct virtio_example_reply, status);
}

/* --- Calls ---------------------------------------------------------------- */

static void virtio_example_put_call(struct virtio_example_call *call)
{
	if (refcount_dec_and_test(&call->users))
		kfree(call);
}

static void virtio_example_end_call(struct virtio_example_call *call, int error)
{
	if (call->ended)
		return;
	call->ended = true;
	call->error = error;
	complete(&call->done);
}

/* The writers need not wait any longer; the memory of their calls stays. */
static void virtio_example_end_calls(struct virtio_example *ex, int error)
{
	struct virtio_example_call *call;

	lockdep_assert_held(&ex->lock);
	list_for_each_entry(call, &ex->calls, list)
		virtio_example_end_call(call, error);
}

/* No more requests until the device is reset. In any context. */
static void virtio_example_break(struct virtio_example *ex, int error, const char *why)
{
	unsigned long flags;

	spin_lock_irqsave(&ex->lock, flags);
	if (ex->state != VIRTIO_EXAMPLE_RUNNING) {
		spin_unlock_irqrestore(&ex->lock, flags);
		return;
	}
	ex->state = VIRTIO_EXAMPLE_BROKEN;
	virtio_example_end_calls(ex, error);
	spin_unlock_irqrestore(&ex->lock, flags);

	wake_up_all(&ex->room);
	dev_err(&ex->vdev->dev, "%s%s\n", why,
		error == -ENODEV ? "" : "; writing 1 to `reset` starts it again");
	schedule_work(&ex->config_work);
}

/*
 * What a reply means. R-EX-2: "The driver MUST NOT use result if the used
 * length is less than 4, and MUST NOT use status if it is less than 8."
 */
static int virtio_example_judge(struct virtio_example *ex, struct virtio_example_call *call,
				unsigned int length)
{
	u8 status = VIRTIO_EXAMPLE_S_OK;

	if (length < virtio_example_reply_size(ex))
		return -EIO;
	/* Read once: without an IOMMU the device can still write to it. */
	if (virtio_example_has_limit(ex))
		status = READ_ONCE(call->reply.status);
	if (status == VIRTIO_EXAMPLE_S_RANGE)
		return -EDOM;
	/* R-EX-8: a status that is not defined is a failed request. */
	if (status != VIRTIO_EXAMPLE_S_OK)
		return -EIO;
	ex->answered = true;
	ex->last_value = call->value;
	ex->last_result = le32_to_cpu(call->reply.result);
	return 0;
}

static void virtio_example_answered(struct virtio_example *ex, struct virtio_example_call *call,
				    unsigned int length)
{
	/* Its writer may have been told something else already. */
	if (!call->ended)
		virtio_example_end_call(call, virtio_example_judge(ex, call, length));
}

/* The device has used buffers of the request queue. Interrupt context. */
static void virtio_example_requests_used(struct virtqueue *vq)
{
	struct virtio_example *ex = vq->vdev->priv;
	struct virtio_example_call *call;
	unsigned int length;
	unsigned long flags;
	bool broken;

	spin_lock_irqsave(&ex->lock, flags);
	do {
		virtqueue_disable_cb(vq);
		while ((call = virtqueue_get_buf(vq, &length))) {
			list_del(&call->list);
			virtio_example_answered(ex, call, length);
			virtio_example_put_call(call);
		}
		/* A broken queue gives nothing, but may say that there is more. */
		broken = virtqueue_is_broken(vq);
	} while (!broken && !virtqueue_enable_cb(vq));
	spin_unlock_irqrestore(&ex->lock, flags);

	if (broken)
		virtio_example_break(ex, -EIO, "the device has broken the request queue");
	wake_up_all(&ex->room);
}

/* Hands a call to the device. -ENOSPC: there is no room now. */
static int virtio_example_submit(struct virtio_example *ex, struct virtio_example_call *call)
{
	struct scatterlist request, reply, *parts[] = { &request, &reply };
	int err;

	/* R-EX-1: one request, and then as much room as the reply needs. */
	sg_init_one(&request, &call->request, sizeof(call->request));
	sg_init_one(&reply, &call->reply, virtio_example_reply_size(ex));

	spin_lock_irq(&ex->lock);
	if (ex->state == VIRTIO_EXAMPLE_BROKEN) {
		err = -EIO;
	} else if (ex->state == VIRTIO_EXAMPLE_STOPPED) {
		err = -EAGAIN;
	} else {
		err = virtqueue_add_sgs(ex->request_vq, parts, 1, 1, call, GFP_ATOMIC);
		if (!err) {
			refcount_inc(&call->users);
			list_add_tail(&call->list, &ex->calls);
			/* Under the lock: without it a reset could take the queue away. */
			virtqueue_kick(ex->request_vq);
		}
	}
	spin_unlock_irq(&ex->lock);
	return err;
}

static bool virtio_example_can_submit(struct virtio_example *ex)
{
	bool worth;

	spin_lock_irq(&ex->lock);
	worth = ex->state != VIRTIO_EXAMPLE_RUNNING || ex->request_vq->num_free >= 2;
	spin_unlock_irq(&ex->lock);
	return worth;
}

/*
 * Not every way to fail ends in an interrupt: a function that was pulled out,
 * or reset behind our back, says nothing.
 */
static void virtio_example_look(struct virtio_example *ex)
{
	u8 status;

	/* Whoever starts or stops the device ends the calls anyway. */
	if (!mutex_trylock(&ex->control))
		return;
	if (READ_ONCE(ex->state) == VIRTIO_EXAMPLE_RUNNING) {
		status = ex->vdev->config->get_status(ex->vdev);
		if (status == VIRTIO_EXAMPLE_STATUS_GONE)
			virtio_example_break(ex, -ENODEV, "the device has gone");
		else if (status & VIRTIO_CONFIG_S_NEEDS_RESET)
			virtio_example_break(ex, -EIO, "the device asks for a reset");
		else if (!(status & VIRTIO_CONFIG_S_DRIVER_OK))
			virtio_example_break(ex, -EIO, "the device was reset by somebody else");
		else if (virtqueue_is_broken(ex->request_vq))
			virtio_example_break(ex, -EIO, "the request queue is broken");
	}
	mutex_unlock(&ex->control);
}

/* At most until the next look; 0 when the time is over. */
static unsigned long virtio_example_slice(unsigned long deadline)
{
	long left = (long)(deadline - jiffies);

	return left <= 0 ? 0 : min_t(unsigned long, left, VIRTIO_EXAMPLE_LOOK);
}

static unsigned long virtio_example_deadline(void)
{
	return jiffies + msecs_to_jiffies(max(READ_ONCE(timeout_ms), 1U));
}

/* For the answer to a call that the device has. */
static int virtio_example_wait(struct virtio_example *ex, struct virtio_example_call *call)
{
	unsigned long deadline = virtio_example_deadline();
	unsigned long slice;
	long rest;

	while ((slice = virtio_example_slice(deadline))) {
		rest = wait_for_completion_killable_timeout(&call->done, slice);
		if (rest > 0)
			return call->error;
		if (rest < 0)
			return rest;
		virtio_example_look(ex);
	}
	/* Ends this call too, unless it was answered just now. */
	virtio_example_break(ex, -ETIMEDOUT, "the device does not answer");
	return try_wait_for_completion(&call->done) ? call->error : -ETIMEDOUT;
}

/*
 * For room, until the device has the call. That there is none for long does not
 * break the device: the calls that fill the queue have a time of their own.
 */
static int virtio_example_send(struct virtio_example *ex, struct virtio_example_call *call)
{
	unsigned long deadline = virtio_example_deadline();
	unsigned long slice;
	long rest;
	int err;

	while ((err = virtio_example_submit(ex, call)) == -ENOSPC) {
		slice = virtio_example_slice(deadline);
		if (!slice)
			return -ETIMEDOUT;
		rest = wait_event_killable_timeout(ex->room, virtio_example_can_submit(ex), slice);
		if (rest < 0)
			return rest;
	}
	return err;
}

/* Sends a value and waits for the answer: 0, or why there is none. */
static int virtio_example_increment(struct virtio_example *ex, u32 value)
{
	struct virtio_example_call *call;
	int err;

	call = kzalloc(sizeof(*call), GFP_KERNEL);
	if (!call)
		return -ENOMEM;
	refcount_set(&call->users, 1);
	init_completion(&call->done);
	call->value = value;
	call->request.value = cpu_to_le32(value);

	err = virtio_example_send(ex, call);
	if (!err)
		err = virtio_example_wait(ex, call);
	virtio_example_put_call(call);
	return err;
}

/* --- Configuration -------------------------------------------------------- */

/*
 * R-EX-7: "The driver MUST read limit and epoch between two reads of an
 * unchanged configuration generation". virtio_cread_le() does that for one
 * field, as often as it takes; here two belong together, and a device may
 * never rest.
 */
static int virtio_example_read_config(struct virtio_example *ex, u32 *limit, u64 *epoch)
{
	struct virtio_device *vdev = ex->vdev;
	struct virtio_example_config config;
	u32 before, after;
	int tries;

	for (tries = 0; tries < VIRTIO_EXAMPLE_CONFIG_TRIES; tries++) {
		before = vdev->config->generation ? vdev->config->generation(vdev) : 0;
		vdev->config->get(vdev, offsetof(struct virtio_example_config, limit),
				  &config.limit, sizeof(config.limit));
		vdev->config->get(vdev, offsetof(struct virtio_example_config, epoch),
				  &config.epoch, sizeof(config.epoch));
		after = vdev->config->generation ? vdev->config->generation(vdev) : 0;
		if (before == after) {
			*limit = le32_to_cpu(config.limit);
			*epoch = le64_to_cpu(config.epoch);
			return 0;
		}
	}
	return -EIO;
}

static int virtio_example_update_config(struct virtio_example *ex)
{
	u32 limit;
	u64 epoch;
	int err;

	if (!virtio_example_has_limit(ex))
		return 0;
	err = virtio_example_read_config(ex, &limit, &epoch);
	if (err)
		return err;
	spin_lock_irq(&ex->lock);
	ex->limit = limit;
	ex->epoch = epoch;
	spin_unlock_irq(&ex->lock);
	return 0;
}

/* Wakes those who poll(2) the attributes, and tells user space at large. */
static void virtio_example_tell(struct virtio_example *ex)
{
	struct kobject *kobj = &ex->vdev->dev.kobj;
	bool limit_changed, broken_changed, broken;

	spin_lock_irq(&ex->lock);
	broken = ex->state == VIRTIO_EXAMPLE_BROKEN;
	broken_changed = broken != ex->told_broken;
	ex->told_broken = broken;
	limit_changed = ex->limit != ex->told_limit || ex->epoch != ex->told_epoch;
	ex->told_limit = ex->limit;
	ex->told_epoch = ex->epoch;
	spin_unlock_irq(&ex->lock);

	if (limit_changed) {
		sysfs_notify(kobj, NULL, "limit");
		sysfs_notify(kobj, NULL, "epoch");
	}
	if (broken_changed)
		sysfs_notify(kobj, NULL, "broken");
	if (limit_changed || broken_changed)
		kobject_uevent(kobj, KOBJ_CHANGE);
}

static void virtio_example_config_work(struct work_struct *work)
{
	struct virtio_example *ex = container_of(work, struct virtio_example, config_work);
	u8 status = ex->vdev->config->get_status(ex->vdev);

	if (status == VIRTIO_EXAMPLE_STATUS_GONE)
		virtio_example_break(ex, -ENODEV, "the device has gone");
	else if (status & VIRTIO_CONFIG_S_NEEDS_RESET)
		virtio_example_break(ex, -EIO, "the device asks for a reset");
	else if (virtio_example_update_config(ex))
		virtio_example_break(ex, -EIO, "the configuration changes all the time");
	virtio_example_tell(ex);
}

/* Interrupt context, where the configuration may not be read. */
static void virtio_example_config_changed(struct virtio_device *vdev)
{
	struct virtio_example *ex = vdev->priv;

	schedule_work(&ex->config_work);
}

/* --- Events --------------------------------------------------------------- */

static int virtio_example_add_event(struct virtio_example *ex, struct virtio_example_event *event)
{
	struct scatterlist sg;

	sg_init_one(&sg, event, sizeof(*event));
	return virtqueue_add_inbuf(ex->event_vq, &sg, 1, event, GFP_KERNEL);
}

/* R-EX-4: "The driver SHOULD keep at least one buffer available in eventq". */
static int virtio_example_add_events(struct virtio_example *ex)
{
	unsigned int count = min(ex->event_vq->num_free, READ_ONCE(event_buffers));
	struct virtio_example_event *event;
	int err = 0;

	while (count-- && !err) {
		/* One allocation for each: what kmalloc() gives is fit for DMA. */
		event = kzalloc(sizeof(*event), GFP_KERNEL);
		if (!event)
			return -ENOMEM;
		err = virtio_example_add_event(ex, event);
		if (err)
			kfree(event);
	}
	return err;
}

static void virtio_example_count_event(struct virtio_example *ex,
				       const struct virtio_example_event *event,
				       unsigned int length)
{
	/* R-EX-9: "The driver MUST ignore an event if the used length is less than 16." */
	if (length < sizeof(*event))
		return;
	spin_lock_irq(&ex->lock);
	ex->missed += le32_to_cpu(event->missed);
	/* R-EX-3: of other types only `missed` counts. */
	if (event->type == cpu_to_le32(VIRTIO_EXAMPLE_EV_LIMIT_HIT)) {
		ex->events++;
		ex->refused = true;
		ex->last_refused = le32_to_cpu(event->value);
	}
	spin_unlock_irq(&ex->lock);
}

/* In a work, a ring at a time: a device that sends without end stops nobody. */
static void virtio_example_event_work(struct work_struct *work)
{
	struct virtio_example *ex = container_of(work, struct virtio_example, event_work);
	unsigned int budget = virtqueue_get_vring_size(ex->event_vq);
	struct virtqueue *vq = ex->event_vq;
	struct virtio_example_event *event;
	unsigned int length;

	virtqueue_disable_cb(vq);
	while (budget && (event = virtqueue_get_buf(vq, &length))) {
		budget--;
		virtio_example_count_event(ex, event, length);
		if (virtio_example_add_event(ex, event))
			kfree(event);
	}
	virtqueue_kick(vq);

	if (virtqueue_is_broken(vq))
		virtio_example_break(ex, -EIO, "the device has broken the event queue");
	else if (!budget || !virtqueue_enable_cb(vq))
		schedule_work(&ex->event_work);
}

static void virtio_example_events_used(struct virtqueue *vq)
{
	struct virtio_example *ex = vq->vdev->priv;

	schedule_work(&ex->event_work);
}

/* --- Start and stop ------------------------------------------------------- */

static int virtio_example_find_vqs(struct virtio_example *ex)
{
	struct virtqueue_info info[] = {
		[VIRTIO_EXAMPLE_VQ_REQUEST] = { "requests", virtio_example_requests_used },
		[VIRTIO_EXAMPLE_VQ_EVENT] = { "events", virtio_example_events_used },
	};
	/* R-EX-6: "The driver MUST NOT enable eventq unless LIMIT was negotiated." */
	bool limit = virtio_example_has_limit(ex);
	struct virtqueue *vqs[ARRAY_SIZE(info)];
	int err;

	err = virtio_find_vqs(ex->vdev, limit ? 2 : 1, vqs, info, NULL);
	if (err)
		return err;
	ex->event_vq = limit ? vqs[VIRTIO_EXAMPLE_VQ_EVENT] : NULL;
	spin_lock_irq(&ex->lock);
	ex->request_vq = vqs[VIRTIO_EXAMPLE_VQ_REQUEST];
	spin_unlock_irq(&ex->lock);
	return 0;
}

/*
 * A function that was pulled out reads all-ones for ever, and transports wait
 * for a status of 0 after a reset. What is not there needs no reset.
 */
static void virtio_example_silence(struct virtio_example *ex)
{
	if (ex->vdev->config->get_status(ex->vdev) != VIRTIO_EXAMPLE_STATUS_GONE)
		virtio_reset_device(ex->vdev);
}

/* The device has been silenced: all memory is ours again. */
static void virtio_example_delete_vqs(struct virtio_example *ex)
{
	struct virtio_example_call *call;
	struct virtio_example_event *event;

	spin_lock_irq(&ex->lock);
	while ((call = virtqueue_detach_unused_buf(ex->request_vq))) {
		list_del(&call->list);
		virtio_example_put_call(call);
	}
	ex->request_vq = NULL;
	spin_unlock_irq(&ex->lock);

	while (ex->event_vq && (event = virtqueue_detach_unused_buf(ex->event_vq)))
		kfree(event);
	ex->event_vq = NULL;
	ex->vdev->config->del_vqs(ex->vdev);
}

static void virtio_example_set_state(struct virtio_example *ex, enum virtio_example_state state)
{
	spin_lock_irq(&ex->lock);
	ex->state = state;
	spin_unlock_irq(&ex->lock);
}

/* From FEATURES_OK to DRIVER_OK, in the order of 5.x.5. */
static int virtio_example_start(struct virtio_example *ex)
{
	int err;

	lockdep_assert_held(&ex->control);
	err = virtio_example_update_config(ex);
	if (err)
		goto broken;
	err = virtio_example_find_vqs(ex);
	if (err)
		goto broken;
	if (ex->event_vq) {
		err = virtio_example_add_events(ex);
		if (err)
			goto delete_vqs;
	}
	virtio_device_ready(ex->vdev);
	/* VIRTIO 1.4, 3.1.1: no notification before DRIVER_OK. */
	if (ex->event_vq)
		virtqueue_kick(ex->event_vq);
	virtio_example_set_state(ex, VIRTIO_EXAMPLE_RUNNING);
	ex->started = true;

	/* Whatever came meanwhile found the works disabled. */
	enable_work(&ex->config_work);
	schedule_work(&ex->config_work);
	if (ex->event_vq) {
		enable_work(&ex->event_work);
		schedule_work(&ex->event_work);
	}
	return 0;

delete_vqs:
	virtio_example_silence(ex);
	virtio_example_delete_vqs(ex);
broken:
	virtio_example_set_state(ex, VIRTIO_EXAMPLE_BROKEN);
	return err;
}

/* Writers get an error first, so that nothing below keeps them waiting. */
static void virtio_example_stop(struct virtio_example *ex)
{
	lockdep_assert_held(&ex->control);
	spin_lock_irq(&ex->lock);
	ex->state = VIRTIO_EXAMPLE_STOPPED;
	virtio_example_end_calls(ex, -EIO);
	spin_unlock_irq(&ex->lock);
	wake_up_all(&ex->room);

	/* Before the reset: they look at the device and at the queues. */
	if (ex->started) {
		disable_work_sync(&ex->config_work);
		if (ex->event_vq)
			disable_work_sync(&ex->event_work);
	}
	virtio_example_silence(ex);
	if (ex->started)
		virtio_example_delete_vqs(ex);
	ex->started = false;
}

/* VIRTIO 1.4, 3.1.1, with the features that were negotiated when we were bound. */
static int virtio_example_restart(struct virtio_example *ex)
{
	struct virtio_device *vdev = ex->vdev;
	int err;

	virtio_example_stop(ex);
	if (vdev->config->get_status(vdev) == VIRTIO_EXAMPLE_STATUS_GONE) {
		err = -ENODEV;
		goto broken;
	}
	virtio_add_status(vdev, VIRTIO_CONFIG_S_ACKNOWLEDGE);
	virtio_add_status(vdev, VIRTIO_CONFIG_S_DRIVER);
	err = vdev->config->finalize_features(vdev);
	if (err)
		goto failed;
	virtio_add_status(vdev, VIRTIO_CONFIG_S_FEATURES_OK);
	if (!(vdev->config->get_status(vdev) & VIRTIO_CONFIG_S_FEATURES_OK)) {
		err = -ENODEV;
		goto failed;
	}
	err = virtio_example_start(ex);
	if (err)
		goto failed;
	return 0;

failed:
	virtio_add_status(vdev, VIRTIO_CONFIG_S_FAILED);
broken:
	virtio_example_set_state(ex, VIRTIO_EXAMPLE_BROKEN);
	virtio_example_tell(ex);
	dev_err(&vdev->dev, "the device could not be started again: %d\n", err);
	return err;
}

/* --- Attributes ----------------------------------------------------------- */

static ssize_t increment_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	struct virtio_example *ex = dev_to_virtio(dev)->priv;
	u32 value, result;
	bool answered;

	spin_lock_irq(&ex->lock);
	answered = ex->answered;
	value = ex->last_value;
	result = ex->last_result;
	spin_unlock_irq(&ex->lock);
	return answered ? sysfs_emit(buf, "%u %u\n", value, result) : -ENODATA;
}

/*
 * R-EX-5: "A driver that takes numbers as text MUST convert them itself, and
 * MUST refuse text that is no number between 0 and 2^32 - 1."
 */
static ssize_t increment_store(struct device *dev, struct device_attribute *attr, const char *buf,
			       size_t count)
{
	struct virtio_example *ex = dev_to_virtio(dev)->priv;
	u32 value;
	int err;

	/* A page or more comes in pieces, and text with a NUL is not what it looks like. */
	if (count >= PAGE_SIZE || strnlen(buf, count) != count)
		return -EINVAL;
	err = kstrtou32(buf, 10, &value);
	if (!err)
		err = virtio_example_increment(ex, value);
	return err ? err : count;
}
static DEVICE_ATTR_RW(increment);

/* A 64-bit counter is two loads on some machines. */
static ssize_t virtio_example_emit(struct virtio_example *ex, const u64 *counter, char *buf)
{
	u64 value;

	spin_lock_irq(&ex->lock);
	value = *counter;
	spin_unlock_irq(&ex->lock);
	return sysfs_emit(buf, "%llu\n", value);
}

static ssize_t limit_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	struct virtio_example *ex = dev_to_virtio(dev)->priv;

	return sysfs_emit(buf, "%u\n", READ_ONCE(ex->limit));
}
static DEVICE_ATTR_RO(limit);

static ssize_t epoch_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	struct virtio_example *ex = dev_to_virtio(dev)->priv;

	return virtio_example_emit(ex, &ex->epoch, buf);
}
static DEVICE_ATTR_RO(epoch);

static ssize_t events_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	struct virtio_example *ex = dev_to_virtio(dev)->priv;

	return virtio_example_emit(ex, &ex->events, buf);
}
static DEVICE_ATTR_RO(events);

static ssize_t missed_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	struct virtio_example *ex = dev_to_virtio(dev)->priv;

	return virtio_example_emit(ex, &ex->missed, buf);
}
static DEVICE_ATTR_RO(missed);

static ssize_t last_refused_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	struct virtio_example *ex = dev_to_virtio(dev)->priv;
	bool refused;
	u32 value;

	spin_lock_irq(&ex->lock);
	refused = ex->refused;
	value = ex->last_refused;
	spin_unlock_irq(&ex->lock);
	return refused ? sysfs_emit(buf, "%u\n", value) : -ENODATA;
}
static DEVICE_ATTR_RO(last_refused);

static ssize_t broken_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	struct virtio_example *ex = dev_to_virtio(dev)->priv;

	return sysfs_emit(buf, "%d\n", READ_ONCE(ex->state) == VIRTIO_EXAMPLE_BROKEN);
}
static DEVICE_ATTR_RO(broken);

static ssize_t reset_store(struct device *dev, struct device_attribute *attr, const char *buf,
			   size_t count)
{
	struct virtio_example *ex = dev_to_virtio(dev)->priv;
	u32 one;
	int err;

	err = kstrtou32(buf, 10, &one);
	if (err)
		return err;
	if (one != 1)
		return -EINVAL;
	if (mutex_lock_killable(&ex->control))
		return -EINTR;
	/* A function that is being reset is started by whoever does that. */
	err = ex->asleep ? -EAGAIN : virtio_example_restart(ex);
	mutex_unlock(&ex->control);
	return err ? err : count;
}
static DEVICE_ATTR_WO(reset);

static struct attribute *virtio_example_attrs[] = {
	&dev_attr_increment.attr,
	&dev_attr_broken.attr,
	&dev_attr_reset.attr,
	NULL,
};

static const struct attribute_group virtio_example_group = {
	.attrs = virtio_example_attrs,
};

static struct attribute *virtio_example_limit_attrs[] = {
	&dev_attr_limit.attr,
	&dev_attr_epoch.attr,
	&dev_attr_events.attr,
	&dev_attr_missed.attr,
	&dev_attr_last_refused.attr,
	NULL,
};

static umode_t virtio_example_limit_visible(struct kobject *kobj, struct attribute *attr, int index)
{
	struct virtio_device *vdev = dev_to_virtio(kobj_to_dev(kobj));

	return virtio_has_feature(vdev, VIRTIO_EXAMPLE_F_LIMIT) ? attr->mode : 0;
}

static const struct attribute_group virtio_example_limit_group = {
	.attrs = virtio_example_limit_attrs,
	.is_visible = virtio_example_limit_visible,
};

static const struct attribute_group *virtio_example_groups[] = {
	&virtio_example_group,
	&virtio_example_limit_group,
	NULL,
};

/* --- Driver --------------------------------------------------------------- */

static int virtio_example_validate(struct virtio_device *vdev)
{
	if (virtio_has_feature(vdev, VIRTIO_EXAMPLE_F_LIMIT) && !vdev->config->get) {
		dev_err(&vdev->dev, "the device offers LIMIT, but has no configuration\n");
		return -EINVAL;
	}
	/* The layouts are little-endian: there has never been a legacy device. */
	if (!virtio_has_feature(vdev, VIRTIO_F_VERSION_1)) {
		dev_err(&vdev->dev, "the device is not a VIRTIO 1.x device\n");
		return -ENODEV;
	}
	return 0;
}

static int virtio_example_probe(struct virtio_device *vdev)
{
	struct virtio_example *ex;
	int err;

	ex = kzalloc(sizeof(*ex), GFP_KERNEL);
	if (!ex)
		return -ENOMEM;
	ex->vdev = vdev;
	mutex_init(&ex->control);
	spin_lock_init(&ex->lock);
	INIT_LIST_HEAD(&ex->calls);
	init_waitqueue_head(&ex->room);
	/* Disabled whenever the device is not running. */
	INIT_WORK(&ex->config_work, virtio_example_config_work);
	disable_work(&ex->config_work);
	INIT_WORK(&ex->event_work, virtio_example_event_work);
	disable_work(&ex->event_work);
	vdev->priv = ex;

	mutex_lock(&ex->control);
	err = virtio_example_start(ex);
	/* Nobody has seen another one. */
	ex->told_limit = ex->limit;
	ex->told_epoch = ex->epoch;
	mutex_unlock(&ex->control);
	if (err)
		kfree(ex);
	return err;
}

/* The attributes are gone by now, and with them all writers. */
static void virtio_example_remove(struct virtio_device *vdev)
{
	struct virtio_example *ex = vdev->priv;

	mutex_lock(&ex->control);
	virtio_example_stop(ex);
	mutex_unlock(&ex->control);
	kfree(ex);
}

static int __maybe_unused virtio_example_freeze(struct virtio_device *vdev)
{
	struct virtio_example *ex = vdev->priv;

	mutex_lock(&ex->control);
	virtio_example_stop(ex);
	ex->asleep = true;
	mutex_unlock(&ex->control);
	return 0;
}

/* The core has negotiated the same features again. */
static int __maybe_unused virtio_example_restore(struct virtio_device *vdev)
{
	struct virtio_example *ex = vdev->priv;
	int err;

	mutex_lock(&ex->control);
	ex->asleep = false;
	err = virtio_example_start(ex);
	mutex_unlock(&ex->control);
	return err;
}

static const struct virtio_device_id virtio_example_ids[] = {
	{ VIRTIO_ID_EXAMPLE, VIRTIO_DEV_ANY_ID },
	{ 0 },
};
MODULE_DEVICE_TABLE(virtio, virtio_example_ids);

static const unsigned int virtio_example_features[] = {
	VIRTIO_EXAMPLE_F_LIMIT,
};

static struct virtio_driver virtio_example_driver = {
	.driver.name = KBUILD_MODNAME,
	.driver.dev_groups = virtio_example_groups,
	.id_table = virtio_example_ids,
	.feature_table = virtio_example_features,
	.feature_table_size = ARRAY_SIZE(virtio_example_features),
	.validate = virtio_example_validate,
	.probe = virtio_example_probe,
	.remove = virtio_example_remove,
	.config_changed = virtio_example_config_changed,
#ifdef CONFIG_PM_SLEEP
	.freeze = virtio_example_freeze,
	.restore = virtio_example_restore,
#endif
#ifdef VIRTIO_EXAMPLE_HAVE_RESET_PREPARE /* see Kbuild */
	.reset_prepare = virtio_example_freeze,
	.reset_done = virtio_example_restore,
#endif
};
module_virtio_driver(virtio_example_driver);

MODULE_DESCRIPTION("Driver for the virtio example device");
MODULE_AUTHOR("The Outboard developers");
MODULE_LICENSE("GPL");
