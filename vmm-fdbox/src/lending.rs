//! Boxes that a host lends to its lifeboat.

use crate::abi;

/// Who may use a box. `FDBOX_HOLDER_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// The host; the boat must not use it.
    Host,
    /// The host; the boat may map it.
    Shown,
    /// Nobody: whoever takes it first has it.
    Offered,
    /// The boat.
    Boat,
}

impl Holder {
    /// Whether this kernel, a host, has to wait for it or take it.
    #[must_use]
    pub fn is_away(self) -> bool {
        matches!(self, Self::Offered | Self::Boat)
    }
}

/// What is done to the lease of a box. `FDBOX_LEND_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LendAct {
    /// Nothing.
    Look,
    /// In the host: the boat may map the box, and an offer ends.
    Show,
    /// In the host: the boat may take it.
    Offer,
    /// In the host: it is the host's again, or the boat is asked for it.
    Recall,
    /// In the boat: the host is told that somebody waits for it.
    Ready,
}

impl LendAct {
    pub(crate) fn number(self) -> u32 {
        match self {
            Self::Look => abi::FDBOX_LEND_LOOK,
            Self::Show => abi::FDBOX_LEND_SHOW,
            Self::Offer => abi::FDBOX_LEND_OFFER,
            Self::Recall => abi::FDBOX_LEND_RECALL,
            Self::Ready => abi::FDBOX_LEND_READY,
        }
    }
}

/// The lease of a box.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lending {
    /// Who may use it.
    pub holder: Holder,
    /// Whether the host asks the boat for it.
    pub wanted: bool,
    /// Whether somebody in the boat waits for it.
    pub ready: bool,
    /// Increases when it is lent anew.
    pub generation: u64,
    /// Whether the boat is lost, in the host.
    pub lost: bool,
}

impl Lending {
    /// `None`: a holder that this library does not know.
    pub(crate) fn of(lend: &abi::Lend) -> Option<Self> {
        Some(Self {
            holder: match lend.holder {
                abi::FDBOX_HOLDER_HOST => Holder::Host,
                abi::FDBOX_HOLDER_SHOWN => Holder::Shown,
                abi::FDBOX_HOLDER_OFFERED => Holder::Offered,
                abi::FDBOX_HOLDER_BOAT => Holder::Boat,
                _ => return None,
            },
            wanted: lend.wanted != 0,
            ready: lend.ready != 0,
            generation: lend.generation,
            lost: lend.lost != 0,
        })
    }
}
