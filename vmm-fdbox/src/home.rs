//! What keeps boxes.

use std::fmt;

/// Code of `Info`: only the keeper holds the descriptors.
pub(crate) const HOME_HOLDER: u32 = 1;
/// Code of `Info`: sealed boxes are in LUO.
pub(crate) const HOME_LUO: u32 = 2;

/// A home of boxes.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Home {
    /// The module.
    #[default]
    Fdbox,
    /// The kernel's Live Update Orchestrator, through a keeper.
    Luo,
    /// A keeper alone.
    Holder,
}

impl Home {
    pub(crate) fn of_wire(number: u32) -> Option<Self> {
        match number {
            HOME_HOLDER => Some(Self::Holder),
            HOME_LUO => Some(Self::Luo),
            _ => None,
        }
    }

    /// Whether it is the module, which is the default.
    pub(crate) fn is_fdbox(&self) -> bool {
        *self == Self::Fdbox
    }

    /// The name of its keeper.
    pub(crate) fn keeper(self) -> &'static str {
        match self {
            Self::Fdbox => "the fdbox module",
            Self::Luo | Self::Holder => "the keeper",
        }
    }
}

impl fmt::Display for Home {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fdbox => "fdbox",
            Self::Luo => "luo",
            Self::Holder => "holder",
        })
    }
}
