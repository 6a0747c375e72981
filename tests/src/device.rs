//! The host's view of a device that a guest drives, recorded by a scenario for the lab to compare.

use serde::{Deserialize, Serialize};

/// The name of the value with a [`Noted`]: sent before the first update, in each next kernel before
/// anything opens the device, and at the end. With several guests, each guest's name is appended.
pub const NOTED: &str = "device";
/// The name of the value with the guest's final count; with a suffix as above.
pub const FRAMES: &str = "frames";
/// The name of the value with how the last kernel translated for the device: `legacy` or `scalable`.
pub const IOMMU: &str = "iommu";
/// The name of the value with the guest's results for an NVMe drive: sent before the update, after
/// it, and at the end.
pub const NVME: &str = "nvme";

/// The length of the ring that the guest's driver is configured with: it holds all frames that
/// arrive during a blackout under emulation.
pub const RING_FRAMES: u32 = 4096;
/// Bytes of the ring per frame.
pub const DESCRIPTOR_BYTES: u32 = 16;

/// How many requests a guest keeps in flight on its own disk.
pub const DISK_DEPTH: u32 = 32;
/// The serial number of the host's drive that completes few requests per second.
pub const SLOW_DRIVE: &str = "slow";
/// The serial number of the drive that completes requests in parallel, each after a delay.
pub const LATENT_DRIVE: &str = "latent";
/// How many requests per second the slow drive completes.
pub const SLOW_REQUESTS_PER_SECOND: u32 = 5;

/// How many writes the guest keeps in flight on an NVMe drive.
pub const NVME_DEPTH: u32 = 64;

/// The state of a device at one time, with the registers of its kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Noted<Registers> {
    pub registers: Registers,
    /// Whether the device may do DMA, according to PCI_COMMAND.
    pub bus_master: bool,
    /// Lines of this kernel's log that report a reset of a device.
    pub resets_logged: usize,
}

/// Registers of an 82574 that its driver sets once, when the interface goes up, and that a reset
/// clears (datasheet, chapter 10).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CardRegisters {
    /// Receive control.
    pub rctl: u32,
    /// Address of the receive ring, and its length in bytes.
    pub rdbal: u32,
    pub rdbah: u32,
    pub rdlen: u32,
    /// Address of the transmit ring.
    pub tdbal: u32,
}

/// Registers of an NVMe controller that its driver sets once, and the controller's status: a reset
/// disables the controller (NVM Express Base Specification, "Controller Properties").
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NvmeRegisters {
    /// Configuration; bit 0: enabled.
    pub cc: u32,
    /// Status; bit 0: ready.
    pub csts: u32,
    /// Lengths of the admin queues.
    pub aqa: u32,
    /// Addresses of the admin queues.
    pub asq: u64,
    pub acq: u64,
}
