//! A guest: built to boot, or restored; its vCPUs, and its state as sections of a frame.

pub(crate) mod boot;
pub(crate) mod cpuid;
pub(crate) mod machine;
pub(crate) mod state;
pub(crate) mod vcpu;
