//! Taking part in an update that somebody else carries out for many guests.

use serde::{Deserialize, Serialize};

/// What a VMM must know of an update that it joins.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct JoinRequest {
    /// The box to use. Default: the guest's name.
    #[serde(rename = "box")]
    pub(crate) box_name: Option<String>,
    /// The client stays in this kernel: another VMM takes the guest.
    pub(crate) same_kernel: bool,
    /// The guest's place in the order in which guests are resumed.
    pub(crate) position: Option<u32>,
    /// The name of a step that is made to fail.
    pub(crate) fail_at: Option<String>,
}
