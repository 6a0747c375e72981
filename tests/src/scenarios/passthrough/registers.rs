//! The registers of a device that is driven by a guest, read at the same time: through sysfs,
//! without opening the device.

use std::path::Path;

use anyhow::Result;
use fdbox_lab::bar::{Bar0, card};
use fdbox_lab::device::{CardRegisters, Noted, NvmeRegisters};

use super::pci;
use crate::host;

/// See the NVM Express Base Specification, "Controller Properties".
mod nvme {
    pub(super) const CC: usize = 0x14;
    pub(super) const CSTS: usize = 0x1c;
    pub(super) const AQA: usize = 0x24;
    pub(super) const ASQ: usize = 0x28;
    pub(super) const ACQ: usize = 0x30;
}

/// Records the state of a card. It must be in D0 with its memory enabled.
pub(crate) fn note_card(place: &Path) -> Result<Noted<CardRegisters>> {
    let bar = Bar0::map(place)?;
    let registers = CardRegisters {
        rctl: bar.read(card::RCTL),
        rdbal: bar.read(card::RDBAL),
        rdbah: bar.read(card::RDBAH),
        rdlen: bar.read(card::RDLEN),
        tdbal: bar.read(card::TDBAL),
    };
    noted(place, registers)
}

/// Up to where a card's driver has filled the receive ring: it moves on as the driver takes frames out.
pub(crate) fn receive_tail(place: &Path) -> Result<u32> {
    Ok(Bar0::map(place)?.read(card::RDT))
}

/// Records the state of an NVMe drive.
pub(crate) fn note_nvme(place: &Path) -> Result<Noted<NvmeRegisters>> {
    let bar = Bar0::map(place)?;
    let registers = NvmeRegisters {
        cc: bar.read(nvme::CC),
        csts: bar.read(nvme::CSTS),
        aqa: bar.read(nvme::AQA),
        asq: bar.read_64(nvme::ASQ),
        acq: bar.read_64(nvme::ACQ),
    };
    noted(place, registers)
}

fn noted<Registers>(place: &Path, registers: Registers) -> Result<Noted<Registers>> {
    let log = host::whole_kernel_log()?;
    let resets = log.iter().filter(|line| line.ends_with(": resetting"));
    Ok(Noted {
        registers,
        bus_master: pci::is_master(place)?,
        resets_logged: resets.count(),
    })
}
