//! The bytes that the module leaves for the next kernel: its own files, built on the host, with
//! golden samples, every way in which they can be wrong, and fuzz targets.

mod fuzz;
mod handover;
mod hugetlb;
mod kvm;
mod labels;
mod memfd;
mod passthrough;
mod poison;

use crate::abi::Sink;

/// What each version writes. Never edit the files: a change of the layout is a new version, or a new
/// compatible string, with a file of its own; what was written before must remain either readable
/// or refused, never misread.
mod golden {
    /// Two boxes.
    pub(super) const HANDOVER_V1: &[u8] = include_bytes!("../../tests/golden/handover-v1.bin");
    /// The same; the second box has a label.
    pub(super) const HANDOVER_V2: &[u8] = include_bytes!("../../tests/golden/handover-v2.bin");
    pub(super) const MEMFD_V1: &[u8] = include_bytes!("../../tests/golden/memfd-v1.bin");
    pub(super) const MEMFD_V2: &[u8] = include_bytes!("../../tests/golden/memfd-v2.bin");
    pub(super) const HUGETLB: &[u8] = include_bytes!("../../tests/golden/hugetlb-v1.bin");
    /// Two IOASs, the first with two mappings.
    pub(super) const IOMMUFD: &[u8] = include_bytes!("../../tests/golden/iommufd-v1.bin");
    /// A device attached to the first.
    pub(super) const VFIO_PCI_V1: &[u8] = include_bytes!("../../tests/golden/vfio-pci-v1.bin");
    /// The same, with its registers.
    pub(super) const VFIO_PCI_V2: &[u8] = include_bytes!("../../tests/golden/vfio-pci-v2.bin");
    pub(super) const VM: &[u8] = b"\x01\x00\x00\x00\x00\x00\x00\x00\x3e\x00\x00\x00";
    pub(super) const GUEST_MEMFD: &[u8] =
        b"\x00\x00\x20\x00\x01\x00\x00\x00\x03\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00vm";
    /// Three broken pages.
    pub(super) const BROKEN: &[u8; crate::abi::poison::LEN] =
        include_bytes!("../../tests/golden/broken-v1.bin");

    /// Writes a sample if `FDBOX_WRITE_GOLDEN` is set: for a new version.
    pub(super) fn write(name: &str, bytes: &[u8]) {
        if std::env::var_os("FDBOX_WRITE_GOLDEN").is_some() {
            std::fs::write(format!("tests/golden/{name}"), bytes).unwrap();
        }
    }
}

/// Collects what is written.
#[derive(Default)]
struct Out(Vec<u8>);

impl Sink for Out {
    type Error = std::convert::Infallible;

    fn put(&mut self, bytes: &[u8]) -> Result<(), Self::Error> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

fn crc(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}
