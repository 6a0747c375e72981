//! What a VMM must allow the library to do: system calls, ioctls and paths, for its seccomp filters
//! and Landlock rules.
//!
//! Grouped by what a VMM uses, without what every program needs for its memory, its threads and its
//! exit. As for capabilities, a [member](crate::member) needs none, [`Control`](crate::Control)
//! needs CAP_SYS_ADMIN and [`KexecHost`](crate::update::KexecHost) CAP_SYS_BOOT, both in the
//! initial namespaces.

use rustix::ioctl::Opcode;

use crate::abi;

/// A system call: its name and its number.
pub type Syscall = (&'static str, libc::c_long);

/// For a thread that runs [`serve_leaving`](crate::member::serve_leaving), in addition to
/// [`BOX_SYSCALLS`].
pub const LEAVING_SYSCALLS: &[Syscall] = &[
    ("close", libc::SYS_close),
    ("eventfd2", libc::SYS_eventfd2),
    ("ftruncate", libc::SYS_ftruncate),
    ("getpid", libc::SYS_getpid),
    ("memfd_create", libc::SYS_memfd_create),
    ("mmap", libc::SYS_mmap),
    ("munmap", libc::SYS_munmap),
    ("ppoll", libc::SYS_ppoll),
    ("recvmsg", libc::SYS_recvmsg),
    ("sendmsg", libc::SYS_sendmsg),
    // Called by the thread that cancels.
    ("write", libc::SYS_write),
];

/// For a thread that runs [`serve_arriving`](crate::member::serve_arriving), in addition to
/// [`BOX_SYSCALLS`].
pub const ARRIVING_SYSCALLS: &[Syscall] = &[
    ("close", libc::SYS_close),
    ("fstat", libc::SYS_fstat),
    ("ppoll", libc::SYS_ppoll),
    // PR_GET_AUXV, once: to find the vDSO, which has the clocks.
    ("prctl", libc::SYS_prctl),
    ("pread64", libc::SYS_pread64),
    ("recvmsg", libc::SYS_recvmsg),
    ("sendmsg", libc::SYS_sendmsg),
];

/// The same for a guest that moves to a lifeboat or comes home: its state is erased, and whether the
/// host has revoked it is found out.
pub const LIFEBOAT_SYSCALLS: &[Syscall] = &[
    ("pread64", libc::SYS_pread64),
    ("pwrite64", libc::SYS_pwrite64),
];

/// For using a box through its descriptor: duplicating it, checking its kind, claiming it, its
/// commands.
pub const BOX_SYSCALLS: &[Syscall] = &[
    ("close", libc::SYS_close),
    ("fcntl", libc::SYS_fcntl),
    ("flock", libc::SYS_flock),
    ("fstat", libc::SYS_fstat),
    ("ioctl", libc::SYS_ioctl),
];

/// The same of a box that a [keeper](crate::keeper) has: its descriptor is a socket, and takes no ioctls.
pub const KEEPER_BOX_SYSCALLS: &[Syscall] = &[
    ("close", libc::SYS_close),
    ("fcntl", libc::SYS_fcntl),
    ("fstat", libc::SYS_fstat),
    ("getsockopt", libc::SYS_getsockopt),
    ("ppoll", libc::SYS_ppoll),
    ("recvmsg", libc::SYS_recvmsg),
    ("sendmsg", libc::SYS_sendmsg),
    // When the keeper gives no answer in time.
    ("shutdown", libc::SYS_shutdown),
    ("socketpair", libc::SYS_socketpair),
];

/// The ioctls of a box, for [`BOX_SYSCALLS`].
pub const BOX_IOCTLS: &[Opcode] = &[
    abi::FDBOX_PUT_FD,
    abi::FDBOX_GET_FD,
    abi::FDBOX_SEAL,
    abi::FDBOX_UNSEAL,
    abi::FDBOX_NEXT_FD,
    abi::FDBOX_SEAL_ERROR,
    abi::FDBOX_NEXT_LOST,
    abi::FDBOX_SALVAGE,
];

/// The ioctls of [`Control`](crate::Control): the control node's, and the one that lends a box to a
/// lifeboat or asks whether it is lent.
pub const CONTROL_IOCTLS: &[Opcode] = &[
    abi::FDBOX_CREATE_BOX,
    abi::FDBOX_DELETE_BOX,
    abi::FDBOX_INFO,
    abi::FDBOX_NEXT_BOX,
    abi::FDBOX_LEND,
];

/// For opening the control node and boxes by path, in addition to [`BOX_SYSCALLS`].
pub const CONTROL_SYSCALLS: &[Syscall] = &[("open", libc::SYS_open)];

/// The paths of those nodes, for reading and writing.
pub const CONTROL_PATHS: &[&str] = &["/dev/fdbox"];

/// For a [`KexecHost`](crate::update::KexecHost): reading the host's and the next kernel's files,
/// and leaving. Preflight does not use the last three.
pub const KEXEC_SYSCALLS: &[Syscall] = &[
    ("close", libc::SYS_close),
    ("lseek", libc::SYS_lseek),
    ("open", libc::SYS_open),
    ("openat", libc::SYS_openat),
    ("pread64", libc::SYS_pread64),
    ("read", libc::SYS_read),
    ("readlink", libc::SYS_readlink),
    ("statx", libc::SYS_statx),
    ("kexec_file_load", libc::SYS_kexec_file_load),
    ("sync", libc::SYS_sync),
    ("reboot", libc::SYS_reboot),
];

/// What a [`KexecHost`](crate::update::KexecHost) reads besides the files that it is given. Missing
/// paths are skipped.
pub const KEXEC_PATHS: &[&str] = &[
    "/boot",
    "/lib/modules",
    "/proc",
    "/sys/firmware/efi/efivars",
    "/sys/kernel",
];

/// For a coordinator, in addition to those for boxes, the control node and the kexec: its members,
/// its VMMs and its timer. Programs are started by the standard library.
pub const COORDINATOR_SYSCALLS: &[Syscall] = &[
    ("close", libc::SYS_close),
    ("kill", libc::SYS_kill),
    // /proc/PID/stat of a VMM that closed its connection.
    ("openat", libc::SYS_openat),
    ("pidfd_open", libc::SYS_pidfd_open),
    ("ppoll", libc::SYS_ppoll),
    ("read", libc::SYS_read),
    ("recvmsg", libc::SYS_recvmsg),
    ("sendmsg", libc::SYS_sendmsg),
    ("socketpair", libc::SYS_socketpair),
    ("timer_create", libc::SYS_timer_create),
    ("timer_delete", libc::SYS_timer_delete),
    ("timer_settime", libc::SYS_timer_settime),
    ("wait4", libc::SYS_wait4),
];
