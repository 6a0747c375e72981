//! The receive side of an e1000e, polled: one ring in a memfd, one buffer per descriptor, and no
//! buffer is used twice. So the memory records every frame that arrived, and in which order.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use fdbox_lab::frame;

use super::vfio::VfioDevice;
use crate::memory::{self, MIB};

/// The address of the memory for the device, if there is only one memory.
pub(crate) const IOVA: u64 = 0x1000_0000;
/// The size of the ring and its buffers.
pub(crate) const MEMORY_LEN: u64 = MIB + DESCRIPTORS * BUFFER_LEN;

/// Enough for every frame of a scenario.
const DESCRIPTORS: u64 = 16384;
const DESCRIPTOR_LEN: u64 = 16;
const RING_AT: u64 = 64 << 10;
const BUFFERS_AT: u64 = MIB;
const BUFFER_LEN: u64 = 2048;
/// Descriptor done.
const STATUS_DD: u8 = 1;

/// Registers and their bits, see the 82574 datasheet, chapter 10.
const CTRL: u64 = 0x0;
const CTRL_SET_LINK_UP: u32 = 1 << 6;
const RCTL: u64 = 0x100;
const RCTL_ENABLE: u32 = 1 << 1;
const RCTL_BROADCAST: u32 = 1 << 15;
const RCTL_STRIP_CRC: u32 = 1 << 26;
const RDBAL: u64 = 0x2800;
const RDBAH: u64 = 0x2804;
const RDLEN: u64 = 0x2808;
const RDH: u64 = 0x2810;
const RDT: u64 = 0x2818;
/// An entry of the multicast table: only a reset clears it.
const MTA_LAST: u64 = 0x5200 + 127 * 4;
const COMMAND_MEMORY_AND_MASTER: u16 = 2 | 4;

/// Marks a device that has been set up.
pub(crate) const MARK: u32 = 0x600d_f00d;

/// How long frames may take to arrive; one is sent every few milliseconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// New memory with an empty ring, which the device will access at `iova`.
pub(crate) fn memory(iova: u64) -> Result<File> {
    let memory = memory::memfd(c"ring", MEMORY_LEN)?;
    for index in 0..DESCRIPTORS {
        point(&memory, index, iova + BUFFERS_AT + index * BUFFER_LEN)?;
    }
    Ok(memory)
}

/// Makes the descriptor at `index` point to `iova`.
fn point(memory: &File, index: u64, iova: u64) -> Result<()> {
    let at = RING_AT + index * DESCRIPTOR_LEN;
    memory
        .write_all_at(&iova.to_le_bytes(), at)
        .context("Write a descriptor")
}

/// Makes the device receive into the ring that it accesses at `iova`.
pub(crate) fn start(device: &VfioDevice, iova: u64) -> Result<()> {
    device.set_command(COMMAND_MEMORY_AND_MASTER)?;
    device.set_register(CTRL, device.register(CTRL)? | CTRL_SET_LINK_UP)?;
    device.set_register(MTA_LAST, MARK)?;
    device.set_register(RDBAL, (iova + RING_AT) as u32)?;
    device.set_register(RDBAH, 0)?;
    device.set_register(RDLEN, (DESCRIPTORS * DESCRIPTOR_LEN) as u32)?;
    device.set_register(RDH, 0)?;
    device.set_register(RDT, DESCRIPTORS as u32 - 1)?;
    let rctl = RCTL_ENABLE | RCTL_BROADCAST | RCTL_STRIP_CRC;
    device.set_register(RCTL, rctl)
}

/// Checks that the device has not been reset, and that its bus mastering has not been disabled.
pub(crate) fn check_untouched(device: &VfioDevice) -> Result<()> {
    let mark = device.register(MTA_LAST)?;
    ensure!(mark == MARK, "The device was reset: its mark is {mark:#x}");
    let rctl = device.register(RCTL)?;
    ensure!(rctl & RCTL_ENABLE != 0, "It does not receive: {rctl:#x}");
    let command = device.command()?;
    let on = command & COMMAND_MEMORY_AND_MASTER == COMMAND_MEMORY_AND_MASTER;
    ensure!(on, "PCI_COMMAND is {command:#x}");
    Ok(())
}

/// Makes all descriptors from `from` on point to unmapped addresses.
pub(crate) fn misdirect(memory: &File, from: u64) -> Result<()> {
    (from..DESCRIPTORS).try_for_each(|index| point(memory, index, IOVA + 16 * MEMORY_LEN))
}

/// How many descriptors the device has filled.
pub(crate) fn filled(memory: &File) -> Result<u64> {
    let mut ring = vec![0; (DESCRIPTORS * DESCRIPTOR_LEN) as usize];
    memory.read_exact_at(&mut ring, RING_AT)?;
    let done = ring
        .chunks(DESCRIPTOR_LEN as usize)
        .take_while(|descriptor| descriptor[12] & STATUS_DD != 0);
    Ok(done.count() as u64)
}

/// Waits until the device has filled at least `count` descriptors; returns how many.
pub(crate) fn wait_for(memory: &File, count: u64) -> Result<u64> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = filled(memory)?;
        if found >= count {
            return Ok(found);
        }
        if Instant::now() > deadline {
            bail!("{found} frames came, {count} were expected");
        }
        // A polled device does not signal its writes.
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Checks the first `count` frames: each is intact, follows the one before and was sent to the same
/// device. Returns the number of the first.
pub(crate) fn check_frames(memory: &File, count: u64) -> Result<u64> {
    let mut first = None;
    for index in 0..count {
        let mut bytes = [0; frame::FRAME_LEN];
        memory.read_exact_at(&mut bytes, BUFFERS_AT + index * BUFFER_LEN)?;
        let Some((device, number)) = frame::identify(&bytes) else {
            bail!("Frame {index} is torn: it begins {:x?}", &bytes[..32]);
        };
        let (first_device, first_number) = *first.get_or_insert((device, number));
        let expected = (first_device, first_number + index);
        ensure!(
            (device, number) == expected,
            "Frame {number} to device {device} came where {expected:?} was expected: lost, repeated or out of order"
        );
    }
    let (_, number) = first.context("No frame came")?;
    Ok(number)
}
