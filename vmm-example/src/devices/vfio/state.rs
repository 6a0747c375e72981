//! What of a device crosses an update beside the device itself.

use serde::{Deserialize, Serialize};

use super::bars::BarStateV1;
use super::msix::MsixStateV1;
use super::spec::PciAddress;

/// A device of the host that the guest drives, version 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VfioStateV1 {
    /// Its place on the guest's bus.
    pub(crate) slot: u8,
    /// Its place in the host.
    pub(crate) address: PciAddress,
    /// Its number in the iommufd.
    pub(crate) device_id: u32,
    /// The number of the page table that it is attached to.
    pub(crate) page_table_id: u32,
    /// Configuration space as the guest sees it, 256 bytes; what is read from the device each
    /// time is as it was when the guest got it.
    #[serde(with = "serde_bytes")]
    pub(crate) config: Vec<u8>,
    /// Its memory. Where the guest has put it is in `config`.
    pub(crate) bars: Vec<BarStateV1>,
    pub(crate) msix: MsixStateV1,
}

/// A made-up device, for tests: every field has a value of its own. Never change it: add another.
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
    /// With so many vectors.
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
