//! The guest's devices: those that the VMM emulates, and those of the host.

pub(crate) mod console;
mod file_writer;
pub(crate) mod pci;
pub(crate) mod pm;
pub(crate) mod ports;
pub(crate) mod reset;
pub(crate) mod serial;
pub(crate) mod vfio;
pub(crate) mod virtio;
