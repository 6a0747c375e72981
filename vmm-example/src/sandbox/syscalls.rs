//! The system calls of a VMM once all its files are open, by kind of thread.

/// What the language and its library need in every thread: memory, locks, time, signals, exit.
pub(super) const EVERYWHERE: &[libc::c_long] = &[
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fstat,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_read,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    libc::SYS_write,
    libc::SYS_writev,
];

/// What devices do with their disks, taps and sockets. A vCPU does this too when it writes to a
/// register.
pub(super) const DEVICES: &[libc::c_long] = &[
    libc::SYS_accept4,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_wait,
    libc::SYS_fallocate,
    libc::SYS_fdatasync,
    libc::SYS_fstatfs,
    libc::SYS_fsync,
    libc::SYS_getsockopt,
    libc::SYS_io_uring_enter,
    libc::SYS_lseek,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_preadv2,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_shutdown,
    libc::SYS_statx,
];

/// Additionally needed for clients, updates, the console and a reboot of the guest.
pub(super) const SERVICE: &[libc::c_long] = &[
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_eventfd2,
    libc::SYS_flock,
    libc::SYS_ftruncate,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_geteuid,
    libc::SYS_getuid,
    libc::SYS_memfd_create,
    libc::SYS_newfstatat,
    libc::SYS_pipe2,
    libc::SYS_seccomp,
    libc::SYS_setsockopt,
    libc::SYS_signalfd4,
    libc::SYS_socketpair,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_uname,
    libc::SYS_unlink,
    libc::SYS_unlinkat,
];

/// What a keeper does with sockets, descriptors and the directories of its boxes.
pub(super) const KEEPER: &[libc::c_long] = &[
    libc::SYS_accept4,
    libc::SYS_dup,
    libc::SYS_dup2,
    libc::SYS_dup3,
    libc::SYS_eventfd2,
    libc::SYS_getsockopt,
    libc::SYS_memfd_create,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_shutdown,
    libc::SYS_socketpair,
    libc::SYS_unlink,
];

/// The allowed commands of fcntl: none that makes the kernel send a signal to another process
/// (F_SETOWN, F_SETSIG, leases).
pub(super) const FCNTL: &[libc::c_int] = &[
    libc::F_DUPFD_CLOEXEC,
    libc::F_GETFD,
    libc::F_SETFD,
    libc::F_GETFL,
    libc::F_SETFL,
    libc::F_OFD_SETLK,
    libc::F_ADD_SEALS,
    libc::F_GET_SEALS,
];

/// For a guest's vsock: the host's end of a connection.
pub(super) const CONNECTING: &[libc::c_long] = &[libc::SYS_connect];

/// Refused with EACCES instead of ending the process: libraries look for files and do without them.
pub(super) const REFUSED: &[libc::c_long] = &[
    libc::SYS_access,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_getdents64,
    libc::SYS_open,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_readlink,
    libc::SYS_readlinkat,
];

/// Reported as missing: libraries fall back to a call whose arguments a filter can see.
pub(super) const MISSING: &[libc::c_long] = &[libc::SYS_clone3];

/// linux/prctl.h: the auxiliary vector.
pub(super) const PR_GET_AUXV: libc::c_int = 0x4155_5856;

/// The types of KVM's ioctls, those of VFIO and iommufd, those of a box, and LUO's.
pub(super) const KVM_TYPE: u64 = 0xae00;
pub(super) const VFIO_TYPE: u64 = 0x3b00;
pub(super) const BOX_TYPE: u64 = 0x2e00;
pub(super) const LUO_TYPE: u64 = 0xba00;
/// The type bits of an ioctl request.
pub(super) const TYPE_MASK: u64 = 0xff00;

/// KVM ioctls of vCPU threads: running, and those for a device's interrupts and memory.
pub(super) const KVM_RUN: u64 = 0xae80;
pub(super) const KVM_IRQ_LINE: u64 = 0x4008_ae61;
pub(super) const KVM_IRQFD: u64 = 0x4020_ae76;
pub(super) const KVM_SET_USER_MEMORY_REGION: u64 = 0x4020_ae46;
pub(super) const KVM_SET_USER_MEMORY_REGION2: u64 = 0x40a0_ae49;
pub(super) const KVM_SET_GSI_ROUTING: u64 = 0x4008_ae6a;

/// Requests to terminals and sockets that only affect those.
pub(super) const HARMLESS: &[u64] = &[
    libc::TCGETS,
    libc::TCSETS,
    libc::TCSETSW,
    libc::TIOCGWINSZ,
    libc::FIONBIO,
    libc::FIOCLEX,
];

/// TUNSETOFFLOAD, which a guest's network driver can cause.
pub(super) const TUN_OFFLOAD: u64 = 0x4004_54d0;

/// Requests to a tap that another VMM has opened: TUNGETIFF, TUNSETVNETHDRSZ, TUNSETOFFLOAD,
/// SIOCGIFHWADDR and SIOCSIFHWADDR.
pub(super) const TAP: &[u64] = &[0x8004_54d2, 0x4004_54d8, TUN_OFFLOAD, 0x8927, 0x8924];
