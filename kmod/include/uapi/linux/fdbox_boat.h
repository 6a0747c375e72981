/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * The lifeboat: a second kernel that runs on CPUs of its own beside the host's,
 * and goes on while the host kexecs. There is one at a time.
 *
 * The node is /dev/fdbox-boat. Opening it takes CAP_SYS_BOOT in the first user
 * namespace, and so does every command, of its caller.
 *
 * poll() says POLLPRI when the state is another one than the last STATUS of this
 * descriptor told.
 *
 * Errors every ioctl shares, each with one meaning:
 *
 *   EFAULT      the argument is not readable or writable memory
 *   EINVAL      a flag or pad is set, or a size is too small
 *   E2BIG       the argument is from a newer header and asks for what this module
 *               does not know
 *   EINTR       the caller was killed
 *   ENOMEM      out of memory
 *   ENOTTY      unknown command
 *   EPERM       the caller has no CAP_SYS_BOOT
 *
 * What an ioctl adds to these stands beside it. FDBOX_BOAT_MESSAGE says in words
 * why the last one was refused, and what to do.
 */
#ifndef _UAPI_LINUX_FDBOX_BOAT_H
#define _UAPI_LINUX_FDBOX_BOAT_H

#include <linux/fdbox.h>

/* Most CPUs of a boat. */
#define FDBOX_BOAT_MAX_CPUS		64
/* Bytes in the message of struct fdbox_boat_message, its NUL included. */
#define FDBOX_BOAT_MESSAGE_LEN		256

/* What a boat is. */
#define FDBOX_BOAT_OFF			0	/* there is none */
#define FDBOX_BOAT_LOADED		1	/* it has memory, and a kernel in it */
#define FDBOX_BOAT_RUNNING		2	/* its kernel runs, and beats */
#define FDBOX_BOAT_LOST			3	/* it was started, and is heard no more */

/*
 * Takes memory that a kexec keeps, and loads a kernel into it: from OFF to LOADED.
 * EBUSY: there is a boat. EPERM: also when this kernel is locked down or runs
 * signed kernels only, for a module cannot check a signature. EOPNOTSUPP: KHO is
 * off, or the host's memory is encrypted. EBADF: no such file. ENOEXEC: the file
 * is not a bzImage that can be started where it lies. EINVAL: also a size that is
 * no power of two from 64 MiB on, CPUs that this host has not, CPU 0, and words on
 * the command line that are the module's to say. EFBIG: kernel and initramfs do
 * not fit into the memory. ENOMEM: also that there is not so much in one piece.
 * ENXIO: the page below 1 MiB by which CPUs are started is not RAM. EIO: the file
 * cannot be read.
 */
#define FDBOX_BOAT_LOAD		_IO(FDBOX_TYPE, FDBOX_BASE + 16)
struct fdbox_boat_load {
	__u32 size;			/* of this struct */
	__u32 flags;			/* none defined: must be 0 */
	__s32 kernel_fd;		/* a bzImage */
	__s32 initramfs_fd;		/* -1: none */
	__u64 cmdline;			/* address of the text */
	__u32 cmdline_len;		/* bytes, without a NUL */
	__u32 memory_mib;
	__u64 cpus;			/* address of numbers of CPUs, a __u32 each */
	__u32 nr_cpus;
	__u32 pad;			/* must be 0 */
};

/*
 * Starts it and waits for its first beat: from LOADED to RUNNING. EINVAL: it is
 * not LOADED. EBUSY: one of its CPUs is online. EOPNOTSUPP: this kernel sends
 * interrupts to all CPUs at once. EIO: a CPU does not answer. ETIMEDOUT: the boat
 * was not heard in time. After EIO, ETIMEDOUT and EINTR there is no boat any
 * more, but for one whose CPU cannot be had back, which is LOST.
 */
#define FDBOX_BOAT_START	_IO(FDBOX_TYPE, FDBOX_BASE + 17)
struct fdbox_boat_start {
	__u32 size;			/* of this struct */
	__u32 flags;			/* none defined: must be 0 */
	__u32 start_ms;			/* how long to wait; 0: a minute */
	__u32 silence_ms;		/* after how much silence it is LOST; 0: 10 s */
};

/*
 * Has it park its CPUs, takes these back and frees its memory: to OFF, whatever
 * it was. EINVAL: there is none. ETIMEDOUT: a RUNNING boat did not park in time; it
 * is LOST by that, and the next STOP takes its CPUs without asking. EIO: a CPU does
 * not answer; the boat is LOST and its memory stays.
 */
#define FDBOX_BOAT_STOP		_IO(FDBOX_TYPE, FDBOX_BASE + 18)
struct fdbox_boat_stop {
	__u32 size;			/* of this struct */
	__u32 flags;			/* none defined: must be 0 */
	__u32 limit_ms;			/* how long to wait; 0: 10 s */
	__u32 pad;			/* must be 0 */
};

/* What there is. */
#define FDBOX_BOAT_STATUS	_IO(FDBOX_TYPE, FDBOX_BASE + 19)
struct fdbox_boat_status {
	__u32 size;			/* of this struct */
	__u32 flags;			/* none defined: must be 0 */
	__u32 state;			/* FDBOX_BOAT_OFF to _LOST */
	__u32 nr_cpus;
	__u64 memory;			/* physical address; 0: none */
	__u64 memory_bytes;
	__u64 life;			/* a number that the boat drew when it began */
	__u64 beats;			/* since it began */
	__u64 largest_gap_ns;		/* between two of them, by its own clock */
	__u64 host_beats;		/* of all kernels that watched it */
	__u64 kernels;			/* how many these are, this one included */
};

/*
 * Whether a kernel with this command line would leave the boat alone, by the
 * numbers of its CPUs. ENXIO: there is no boat. EINVAL: also that it would not.
 */
#define FDBOX_BOAT_CHECK	_IO(FDBOX_TYPE, FDBOX_BASE + 20)
struct fdbox_boat_check {
	__u32 size;			/* of this struct */
	__u32 flags;			/* none defined: must be 0 */
	__u64 cmdline;			/* address of the text */
	__u32 cmdline_len;		/* bytes, without a NUL */
	__u32 pad;			/* must be 0 */
};

/* Why the last command of anybody was refused. */
#define FDBOX_BOAT_MESSAGE	_IO(FDBOX_TYPE, FDBOX_BASE + 21)
struct fdbox_boat_message {
	__u32 size;			/* of this struct */
	__u32 flags;			/* none defined: must be 0 */
	__u32 error;			/* an errno; 0: nothing was refused yet */
	__u32 pad;
	__u8 message[FDBOX_BOAT_MESSAGE_LEN];
};

#endif /* _UAPI_LINUX_FDBOX_BOAT_H */
