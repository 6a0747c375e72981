//! The memory of a device, mapped at the guest's addresses: pages that the guest accesses without
//! an exit.
//!
//! The pages with the MSI-X tables are left out, because this program emulates them. So is memory
//! smaller than a page; the guest accesses both by exits.

use std::fmt;
use std::sync::Arc;

use super::VfioError;
use super::bars::{BarStateV1, PAGE};
use super::device::Device;
use super::msix::MsixLayout;
use crate::kvm::passthrough::DeviceSlot;
use crate::kvm::{KvmError, Vm};
use crate::memory::device::DeviceMapping;

/// The maximum number of memory slots of a function: six BARs, two tables that each split one of
/// them.
const SLOTS: u32 = 8;

/// Maps the memory of a device into the guest.
pub(super) trait Windows: fmt::Debug + Send {
    /// Moves a BAR; `None` unmaps it.
    fn place(&mut self, bar: &BarStateV1, address: Option<u64>) -> Result<(), KvmError>;
}

/// A BAR that can be mapped.
#[derive(Debug)]
struct Window {
    bar: u8,
    mapping: Arc<DeviceMapping>,
    /// The parts that the guest may access, and their slot numbers.
    parts: Vec<(u32, Part)>,
    /// Its address, and what keeps it mapped there.
    address: Option<u64>,
    slots: Vec<DeviceSlot>,
}

/// A part of a BAR, in whole pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    start: u64,
    end: u64,
}

/// The windows of a device in a VM.
#[derive(Debug)]
pub(super) struct KvmWindows {
    vm: Arc<Vm>,
    windows: Vec<Window>,
}

impl KvmWindows {
    /// Maps what can be mapped of a device; `index` is its place on the bus.
    pub(super) fn new(
        vm: &Arc<Vm>,
        index: u8,
        device: &Device,
        bars: &[BarStateV1],
        msix: MsixLayout,
    ) -> Result<Self, VfioError> {
        let mut windows = Vec::new();
        for (bar, parts) in bars.iter().zip(numbered(index, bars, msix)) {
            if let Some(mapping) = device.map_bar(bar.index)? {
                windows.push(Window {
                    bar: bar.index,
                    mapping: Arc::new(mapping),
                    parts,
                    address: None,
                    slots: Vec::new(),
                });
            }
        }
        Ok(Self {
            vm: vm.clone(),
            windows,
        })
    }
}

impl Windows for KvmWindows {
    fn place(&mut self, bar: &BarStateV1, address: Option<u64>) -> Result<(), KvmError> {
        let Some(window) = self.windows.iter_mut().find(|own| own.bar == bar.index) else {
            return Ok(());
        };
        if window.address == address {
            return Ok(());
        }
        window.slots.clear();
        window.address = None;
        let Some(start) = address else {
            return Ok(());
        };
        for (number, Part { start: from, end }) in &window.parts {
            window.slots.push(DeviceSlot::new(
                &self.vm,
                *number,
                start + from,
                &window.mapping,
                *from,
                end - from,
            )?);
        }
        window.address = address;
        Ok(())
    }
}

/// The parts of a BAR that the guest may access directly.
fn parts(bar: &BarStateV1, msix: MsixLayout) -> Vec<Part> {
    let mut tables: Vec<Part> = [msix.table, msix.pending]
        .into_iter()
        .filter(|table| table.bar == bar.index)
        .map(|table| Part {
            start: table.offset / PAGE * PAGE,
            end: (table.offset + table.len).next_multiple_of(PAGE),
        })
        .collect();
    tables.sort_by_key(|table| table.start);
    let mut parts = Vec::new();
    let mut start = 0;
    for table in tables {
        if table.start > start {
            parts.push(Part {
                start,
                end: table.start.min(bar.size),
            });
        }
        start = start.max(table.end);
    }
    if start < bar.size / PAGE * PAGE {
        parts.push(Part {
            start,
            end: bar.size / PAGE * PAGE,
        });
    }
    parts
}

/// The parts of each BAR, each with its slot number.
fn numbered(index: u8, bars: &[BarStateV1], msix: MsixLayout) -> Vec<Vec<(u32, Part)>> {
    let mut numbers = u32::from(index) * SLOTS..(u32::from(index) + 1) * SLOTS;
    let parts = |bar: &BarStateV1| {
        // In this order, because the other one would also use up a number at the end of the parts.
        let parts = parts(bar, msix).into_iter().zip(numbers.by_ref());
        parts.map(|(part, number)| (number, part)).collect()
    };
    bars.iter().map(parts).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(index: u8, size: u64) -> BarStateV1 {
        BarStateV1 {
            index,
            wide: false,
            prefetchable: false,
            size,
        }
    }

    fn part(start: u64, end: u64) -> Part {
        Part { start, end }
    }

    #[test]
    fn the_tables_are_left_out() {
        let msix = MsixLayout::new(4, 0x0003, 0x2003);
        assert_eq!(parts(&bar(0, 0x2_0000), msix), [part(0, 0x2_0000)]);
        let around = [part(0x1000, 0x2000), part(0x3000, 0x4000)];
        assert_eq!(parts(&bar(3, 0x4000), msix), around);
        let same_page = MsixLayout::new(4, 0x1003, 0x1803);
        let around = [part(0, 0x1000), part(0x2000, 0x4000)];
        assert_eq!(parts(&bar(3, 0x4000), same_page), around);
    }

    #[test]
    fn every_part_of_a_device_with_all_its_bars_has_a_slot() {
        let msix = MsixLayout::new(4, 0x1000, 0x3000);
        let bars: Vec<_> = (0..6).map(|index| bar(index, 0x5000)).collect();
        let numbered: Vec<u32> = numbered(2, &bars, msix)
            .into_iter()
            .flatten()
            .map(|(number, _)| number)
            .collect();
        assert_eq!(numbered, [16, 17, 18, 19, 20, 21, 22, 23]);
    }

    #[test]
    fn a_bar_that_is_all_table_or_less_than_a_page_has_no_window() {
        let msix = MsixLayout::new(4, 0, 0x800);
        assert_eq!(parts(&bar(0, 0x1000), msix), []);
        assert_eq!(parts(&bar(1, 0x100), msix), []);
    }
}
