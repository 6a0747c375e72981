//! What the host sees of a device that a guest drives, noted by a scenario for the lab to compare.

use serde::{Deserialize, Serialize};

/// The name under which a scenario hands a [`Noted`] to the lab: before the update, in the next
/// kernel before anybody has the device, and at the end. Of several guests each adds its name.
pub const NOTED: &str = "device";
/// The name under which it hands over what the guest has counted in the end; as above.
pub const FRAMES: &str = "frames";
/// The name under which it hands over what the guest has done with an NVMe drive: before the update, after it,
/// and at the end.
pub const NVME: &str = "nvme";

/// The depth of the ring that the guest's driver is told to have: it holds all that arrives in a
/// blackout under emulation.
pub const RING_FRAMES: u32 = 4096;
/// Bytes of the ring for each frame.
pub const DESCRIPTOR_BYTES: u32 = 16;

/// How many requests of its own disk a guest has in flight.
pub const DISK_DEPTH: u32 = 32;
/// The serial number of the host's drive that carries out few requests a second.
pub const SLOW_DRIVE: &str = "slow";
/// That of one that carries out as many as it gets, each of which takes its time.
pub const LATENT_DRIVE: &str = "latent";
/// How many requests a second the slow one carries out.
pub const SLOW_REQUESTS_PER_SECOND: u32 = 5;

/// How many writes to an NVMe drive the guest has in flight.
pub const NVME_DEPTH: u32 = 64;

/// A device at one time, with the registers of its kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Noted<Registers> {
    pub registers: Registers,
    /// Whether it may do DMA, by its PCI_COMMAND.
    pub bus_master: bool,
    /// Lines of this kernel's log that tell of a reset of a device.
    pub resets_logged: usize,
}

/// Registers of an 82574 that its driver sets once, when it goes up, and that a reset clears (datasheet,
/// chapter 10).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CardRegisters {
    /// Receive control.
    pub rctl: u32,
    /// Where the receive ring is, and its bytes.
    pub rdbal: u32,
    pub rdbah: u32,
    pub rdlen: u32,
    /// Where the transmit ring is.
    pub tdbal: u32,
}

/// Registers of an NVMe controller that its driver sets once, and what the controller says of itself: a reset
/// disables it (NVM Express Base Specification, "Controller Properties").
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NvmeRegisters {
    /// Configuration; bit 0: enabled.
    pub cc: u32,
    /// Status; bit 0: ready.
    pub csts: u32,
    /// Lengths of the admin queues.
    pub aqa: u32,
    /// Where the admin queues are.
    pub asq: u64,
    pub acq: u64,
}
