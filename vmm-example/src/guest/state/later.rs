//! The additions of a build with the feature `later-build`: another version number, and a section
//! that releases do not know. Used by tests that need two builds of which one is newer.

use serde::Serialize;
use vmm_fdbox::frame::{FrameError, FrameWriter, KnownSection, Need};

const IS_LATER: bool = cfg!(feature = "later-build");

/// This program's version.
pub(crate) const VERSION: &str = if IS_LATER {
    concat!(env!("CARGO_PKG_VERSION"), "+later-build")
} else {
    env!("CARGO_PKG_VERSION")
};

/// The same with the source revision, if known.
pub(crate) const SHOWN_VERSION: &str = if IS_LATER {
    concat!(
        env!("CARGO_PKG_VERSION"),
        "+later-build",
        env!("VMM_EXAMPLE_REVISION")
    )
} else {
    concat!(env!("CARGO_PKG_VERSION"), env!("VMM_EXAMPLE_REVISION"))
};

/// The producer in the frame.
pub(crate) const PRODUCER: &str = if IS_LATER {
    concat!("vmm-example ", env!("CARGO_PKG_VERSION"), "+later-build")
} else {
    concat!("vmm-example ", env!("CARGO_PKG_VERSION"))
};

/// The number of sections here.
pub(super) const SECTIONS: usize = if IS_LATER { 1 } else { 0 };
const SECTION: &str = "later-build";

pub(super) const fn known() -> [KnownSection; SECTIONS] {
    [KnownSection::new(SECTION, 1, 1); SECTIONS]
}

pub(super) const WRITTEN: [(&str, u32, Need); SECTIONS] = [(SECTION, 1, Need::Optional); SECTIONS];

/// Stands for anything that a later release might add and an older one need not know.
#[derive(Serialize)]
struct LaterStateV1 {
    version: &'static str,
}

pub(super) fn write(frame: &mut FrameWriter<'_>) -> Result<(), FrameError> {
    let state = LaterStateV1 { version: VERSION };
    WRITTEN
        .iter()
        .try_for_each(|(name, version, need)| frame.add(name, *version, *need, &state))
}
