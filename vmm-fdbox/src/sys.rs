//! The system calls that have no safe wrapper. The only `unsafe` code in this crate.

#![allow(
    unsafe_code,
    reason = "raw ioctls, kexec_file_load, mmap, a timer and the cycle counter"
)]

pub(crate) mod boat;
mod ioctl;
mod kexec;
mod luo;
mod mapping;
mod ticks;
mod timer;

pub(crate) use ioctl::{
    borrow_box, create_box, delete_box, get_fd, info, is_box, lend, next_box, next_fd, next_lost,
    put_fd, salvage, seal, seal_error, unseal,
};
pub(crate) use kexec::{kexec_file_load, kexec_file_unload};
pub(crate) use luo::{luo_create, luo_finish, luo_preserve, luo_retrieve, luo_take};
pub(crate) use mapping::SharedMapping;
pub(crate) use ticks::ticks;
pub(crate) use timer::KillTimer;
