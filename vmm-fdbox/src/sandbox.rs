//! What a VMM must let the library do: system calls, ioctls and paths, for its seccomp filters and Landlock rules.
//!
//! By what a VMM uses, without what every program needs for its memory, its threads and its end. Capabilities: none
//! for what a [member](crate::member) does; CAP_SYS_ADMIN for [`Control`](crate::Control) and CAP_SYS_BOOT for
//! [`KexecHost`](crate::update::KexecHost), both in the first namespaces.

use rustix::ioctl::Opcode;

use crate::abi;

/// A system call: its name and its number.
pub type Syscall = (&'static str, libc::c_long);

/// Of a thread that runs [`serve_leaving`](crate::member::serve_leaving), besides [`BOX_SYSCALLS`].
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
    // By whoever cancels.
    ("write", libc::SYS_write),
];

/// Of a thread that runs [`serve_arriving`](crate::member::serve_arriving), besides [`BOX_SYSCALLS`].
pub const ARRIVING_SYSCALLS: &[Syscall] = &[
    ("close", libc::SYS_close),
    ("fstat", libc::SYS_fstat),
    ("ppoll", libc::SYS_ppoll),
    // PR_GET_AUXV, once: where the vDSO is, which has the clocks.
    ("prctl", libc::SYS_prctl),
    ("pread64", libc::SYS_pread64),
    ("recvmsg", libc::SYS_recvmsg),
    ("sendmsg", libc::SYS_sendmsg),
];

/// Of whoever uses a box through its descriptor: duplicates of it, its kind, its claim, its commands.
pub const BOX_SYSCALLS: &[Syscall] = &[
    ("close", libc::SYS_close),
    ("fcntl", libc::SYS_fcntl),
    ("flock", libc::SYS_flock),
    ("fstat", libc::SYS_fstat),
    ("ioctl", libc::SYS_ioctl),
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

/// The ioctls of the control node, of whoever makes boxes.
pub const CONTROL_IOCTLS: &[Opcode] = &[
    abi::FDBOX_CREATE_BOX,
    abi::FDBOX_DELETE_BOX,
    abi::FDBOX_INFO,
    abi::FDBOX_NEXT_BOX,
];

/// Of whoever opens the control node and boxes by their paths, besides [`BOX_SYSCALLS`].
pub const CONTROL_SYSCALLS: &[Syscall] = &[("open", libc::SYS_open)];

/// Where those are: read and written.
pub const CONTROL_PATHS: &[&str] = &["/dev/fdbox"];

/// Of a [`KexecHost`](crate::update::KexecHost): what it reads of the host and of the next kernel's files, and how it
/// leaves. The last three are not used by preflight.
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

/// What a [`KexecHost`](crate::update::KexecHost) reads besides the files that it is given. Those that are not there are
/// passed over.
pub const KEXEC_PATHS: &[&str] = &[
    "/boot",
    "/lib/modules",
    "/proc",
    "/sys/firmware/efi/efivars",
    "/sys/kernel",
];

/// Of a coordinator, besides those of boxes, of the control node and of the kexec: its members, its VMMs and its
/// timer. What starts a program is that of the standard library.
pub const COORDINATOR_SYSCALLS: &[Syscall] = &[
    ("kill", libc::SYS_kill),
    ("pidfd_open", libc::SYS_pidfd_open),
    ("ppoll", libc::SYS_ppoll),
    ("recvmsg", libc::SYS_recvmsg),
    ("sendmsg", libc::SYS_sendmsg),
    ("socketpair", libc::SYS_socketpair),
    ("timer_create", libc::SYS_timer_create),
    ("timer_delete", libc::SYS_timer_delete),
    ("timer_settime", libc::SYS_timer_settime),
    ("wait4", libc::SYS_wait4),
];
