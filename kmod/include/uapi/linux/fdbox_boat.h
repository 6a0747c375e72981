/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * The lifeboat: a second kernel that runs on CPUs of its own next to the
 * host's, and continues while the host kexecs. There is at most one.
 *
 * The node is /dev/fdbox-boat. Opening it, and every command, requires
 * CAP_SYS_BOOT in the first user namespace.
 *
 * poll() returns POLLPRI if the state differs from the one that the last STATUS
 * on this descriptor returned.
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
 *   ENXIO       the command is for the other kernel, the host's or the boat's
 *   EPERM       the caller has no CAP_SYS_BOOT
 *
 * Errors specific to an ioctl are listed with it. FDBOX_BOAT_MESSAGE explains
 * why the last command was refused, and what to do.
 */
#ifndef _UAPI_LINUX_FDBOX_BOAT_H
#define _UAPI_LINUX_FDBOX_BOAT_H

#include <linux/fdbox.h>

/* Maximum number of CPUs of a boat. */
#define FDBOX_BOAT_MAX_CPUS		64
/* Size of the message in struct fdbox_boat_message, including its NUL. */
#define FDBOX_BOAT_MESSAGE_LEN		256

/* States of a boat. */
#define FDBOX_BOAT_OFF			0	/* there is none */
#define FDBOX_BOAT_LOADED		1	/* it has memory with a kernel */
#define FDBOX_BOAT_RUNNING		2	/* its kernel runs, and sends beats */
#define FDBOX_BOAT_LOST			3	/* it was started, and is silent */
/* In the boat's own kernel, where only STATUS and MESSAGE are possible. */
#define FDBOX_BOAT_ABOARD		4	/* the host beats */
#define FDBOX_BOAT_ALONE		5	/* the host is silent, or has panicked */

/*
 * Allocates memory that survives a kexec, and loads a kernel into it: from OFF
 * to LOADED. EBUSY: there is a boat. EPERM: also if this kernel is locked down
 * or accepts only signed kernels, because a module cannot check a signature.
 * EOPNOTSUPP: KHO is off, or the host's memory is encrypted. EBADF: no such
 * file. ENOEXEC: the file is not a bzImage that can be started in place.
 * EINVAL: also a size that is not a power of two of at least 64 MiB, CPUs that
 * this host does not have, CPU 0, a start with more CPUs than these, or with
 * fewer if a rescue kernel is taken along, and words on the command line that
 * are reserved for the module. EFBIG: kernel and initramfs do not fit into the
 * memory. ENOMEM: also not enough contiguous memory. ENXIO: the page below 1
 * MiB in which CPUs are started is not RAM. ETXTBSY: a file is open for writing.
 * Other errors of reading a file are returned unchanged.
 */
/*
 * Take the kernel along that is loaded for a kexec now: by it the boat can restart the
 * host. ENOENT: no kernel is loaded. EBUSY: also a kernel that is being loaded.
 * ENOEXEC: also one that was not loaded by kexec_file_load(2). EOPNOTSUPP: also a
 * kernel without patch 0023 or with liveupdate=on, a host with UEFI, more than 256
 * CPUs or 64 I/O APICs, or a rescue kernel above 4 GiB. EFBIG: it does not fit into
 * the boat's memory.
 */
#define FDBOX_BOAT_LOAD_RESCUE		1
#define FDBOX_BOAT_LOAD		_IO(FDBOX_TYPE, FDBOX_BASE + 16)
struct fdbox_boat_load {
	__u32 size;			/* of this struct */
	__u32 flags;			/* FDBOX_BOAT_LOAD_* */
	__s32 kernel_fd;		/* a bzImage */
	__s32 initramfs_fd;		/* -1: none */
	__u64 cmdline;			/* address of the text */
	__u32 cmdline_len;		/* bytes, without a NUL */
	__u32 memory_mib;
	__u64 cpus;			/* address of numbers of CPUs, a __u32 each */
	__u32 nr_cpus;
	__u32 nr_start;			/* how many START gives it, the first ones; 0: all */
};

/*
 * Starts the boat and waits for its first beat: from LOADED to RUNNING. EINVAL:
 * it is not LOADED. EBUSY: one of the CPUs that it starts with is online. EOPNOTSUPP: this kernel
 * broadcasts interrupts to all CPUs. EIO: a CPU does not respond. ETIMEDOUT:
 * there was no beat in time. After EIO, ETIMEDOUT and EINTR there is no boat
 * any more; but if a CPU cannot be taken back, the boat is LOST.
 */
#define FDBOX_BOAT_START	_IO(FDBOX_TYPE, FDBOX_BASE + 17)
struct fdbox_boat_start {
	__u32 size;			/* of this struct */
	__u32 flags;			/* none defined: must be 0 */
	__u32 start_ms;			/* how long to wait; 0: a minute */
	__u32 silence_ms;		/* how long it may be silent; 0: 10 s */
};

/*
 * Makes the boat park its CPUs, takes them back and frees its memory: from any
 * state to OFF. EINVAL: there is no boat. ETIMEDOUT: a RUNNING boat did not
 * park in time; it is LOST then, and the next STOP takes its CPUs without
 * asking. EBUSY: a RUNNING boat has a box of this host's. EIO: a CPU does not
 * respond; the boat is LOST and its memory stays.
 */
#define FDBOX_BOAT_STOP		_IO(FDBOX_TYPE, FDBOX_BASE + 18)
struct fdbox_boat_stop {
	__u32 size;			/* of this struct */
	__u32 flags;			/* none defined: must be 0 */
	__u32 limit_ms;			/* how long to wait; 0: 10 s */
	__u32 pad;			/* must be 0 */
};

/* Returns the state of the boat. */
#define FDBOX_BOAT_STATUS	_IO(FDBOX_TYPE, FDBOX_BASE + 19)
struct fdbox_boat_status {
	__u32 size;			/* of this struct */
	__u32 flags;			/* none defined: must be 0 */
	__u32 state;			/* FDBOX_BOAT_OFF to _ALONE */
	__u32 nr_cpus;
	__u64 memory;			/* physical address; 0: none */
	__u64 memory_bytes;
	__u64 life;			/* random number of this run of the boat */
	__u64 beats;			/* since its start */
	__u64 largest_gap_ns;		/* between two beats, by its own clock */
	__u64 host_beats;		/* of all kernels that have watched it */
	__u64 kernels;			/* how many these are, including this one */
	__u32 host_panicked;		/* in the boat: 1 if the host has said so */
	__u32 pad;
	__u64 host_silent_ms;		/* in the boat: since the host's last beat */
};

/*
 * Checks whether a kernel with this command line would leave the boat's CPUs
 * alone. ENXIO: there is no boat. EINVAL: also if it would not.
 */
#define FDBOX_BOAT_CHECK	_IO(FDBOX_TYPE, FDBOX_BASE + 20)
struct fdbox_boat_check {
	__u32 size;			/* of this struct */
	__u32 flags;			/* none defined: must be 0 */
	__u64 cmdline;			/* address of the text */
	__u32 cmdline_len;		/* bytes, without a NUL */
	__u32 pad;			/* must be 0 */
};

/* Returns why the last command of any caller was refused. */
#define FDBOX_BOAT_MESSAGE	_IO(FDBOX_TYPE, FDBOX_BASE + 21)
struct fdbox_boat_message {
	__u32 size;			/* of this struct */
	__u32 flags;			/* none defined: must be 0 */
	__u32 error;			/* an errno; 0: nothing was refused yet */
	__u32 pad;
	__u8 message[FDBOX_BOAT_MESSAGE_LEN];
};

/*
 * In the boat: stops all CPUs of a host that does not come back, and starts it
 * in the rescue kernel that was taken along. EBUSY: the host beats, or was
 * heard within the time. ENOENT: there is no rescue kernel. ESTALE: the host's
 * next kernel has taken over what the rescue kernel needs. EIO: the host's first
 * CPU does not respond; the host is dead then.
 */
#define FDBOX_BOAT_RESTART	_IO(FDBOX_TYPE, FDBOX_BASE + 22)
struct fdbox_boat_restart {
	__u32 size;			/* of this struct */
	__u32 flags;			/* none defined: must be 0 */
	__u32 silent_ms;		/* for how long the host has been silent at least */
	__u32 pad;			/* must be 0 */
};

/*
 * Gives a RUNNING boat more of the CPUs that it was loaded with, and waits until
 * it has brought them up. EINVAL: it is not RUNNING, has as many already, or was
 * loaded with fewer. EBUSY: one of them is online. EOPNOTSUPP: as for START.
 * ETIMEDOUT: the boat has not brought up all in time. After ETIMEDOUT and EINTR
 * they stay with the boat until STOP.
 */
#define FDBOX_BOAT_LEND		_IO(FDBOX_TYPE, FDBOX_BASE + 23)
struct fdbox_boat_lend {
	__u32 size;			/* of this struct */
	__u32 flags;			/* none defined: must be 0 */
	__u32 nr_cpus;			/* how many it has then, from the first on */
	__u32 limit_ms;			/* how long to wait; 0: 10 s */
};

#endif /* _UAPI_LINUX_FDBOX_BOAT_H */
