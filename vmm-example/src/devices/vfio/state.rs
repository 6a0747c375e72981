//! The state of a device that crosses an update, besides the device itself.

use serde::{Deserialize, Serialize};

use super::bars::BarStateV1;
use super::msix::MsixStateV1;
use super::spec::PciAddress;

/// A passed-through device, version 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VfioStateV1 {
    /// Its slot on the guest's bus.
    pub(crate) slot: u8,
    /// Its address in the host.
    pub(crate) address: PciAddress,
    /// Its id in the iommufd.
    pub(crate) device_id: u32,
    /// The id of the page table that it is attached to.
    pub(crate) page_table_id: u32,
    /// Configuration space as the guest sees it, 256 bytes; bytes that are read from the device on
    /// each access have their initial values.
    #[serde(with = "serde_bytes")]
    pub(crate) config: Vec<u8>,
    /// Its BARs. Their addresses in the guest are in `config`.
    pub(crate) bars: Vec<BarStateV1>,
    pub(crate) msix: MsixStateV1,
}

/// A made-up device, for tests: every field has a different value. Never change it: add another
/// one.
#[cfg(test)]
pub(crate) fn sample(slot: u8, address: &str) -> VfioStateV1 {
    use super::msix::VectorStateV1;

    let vector = |address, data, masked| VectorStateV1 {
        address,
        data,
        masked,
    };
    VfioStateV1 {
        slot,
        address: address.parse().expect("an address"),
        device_id: 2,
        page_table_id: 3,
        config: (0..=255).collect(),
        bars: vec![
            BarStateV1 {
                index: 0,
                wide: false,
                prefetchable: false,
                size: 0x2_0000,
            },
            BarStateV1 {
                index: 3,
                wide: true,
                prefetchable: true,
                size: 0x4000,
            },
        ],
        msix: MsixStateV1 {
            vectors: vec![
                vector(0xfee0_1000, 0x4041, false),
                vector(0x1_fee0_2000, 0, true),
            ],
        },
    }
}

#[cfg(test)]
impl VfioStateV1 {
    /// Extends it to this many vectors.
    pub(crate) fn grow_to(&mut self, vectors: usize) {
        let vector = self.msix.vectors[1];
        self.msix.vectors = vec![
            super::msix::VectorStateV1 {
                address: u64::MAX,
                data: u32::MAX,
                ..vector
            };
            vectors
        ];
    }
}
