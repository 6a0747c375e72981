//! Coordinator and members over real sockets, with in-memory boxes.

mod fleet;
mod handover;
mod homecoming;
mod keeper;
mod killed;
mod lifeboat;
mod mortal;
mod new_vmm;
mod puppet;
mod resume;
#[cfg(target_arch = "x86_64")]
mod sandbox;
mod stopped;
mod world;
