//! Another build of this VMM takes the guest over, in the same kernel.
//!
//! The old process starts the new one and talks to it over a socket, in packets of JSON that
//! may carry descriptors. The new one finds the socket as its standard input.
//!
//! ```text
//! old                                     new
//!   PATH check-state --sections -     ─▶    exits with 0 or 10         (its own process)
//!   PATH resume --handover ...        ─▶    starts
//!   hello, API and console sockets    ─▶    opens KVM and boxes
//!                                     ◀─  ready
//!   (fills the box)
//!   prebuild                          ─▶    takes VM and memory out, builds all but the state
//!                                     ◀─  prebuilt
//!   (stops the guest, writes its state: the blackout begins)
//!   go, console's client, devices     ─▶    reads the state, restores it
//!                                     ◀─  restored
//!   commit                            ─▶    takes the state out of the box, runs the guest
//!                                     ◀─  running, with the report     (the blackout is over)
//!   clients                           ─▶    serves them
//!   exits
//! ```
//!
//! Until `commit` the old process can give up at any time: it kills the new one and runs the
//! guest on. From then on only the box tells whose the guest is: whoever takes the state out.
//! If the old process dies after `go`, the new one goes on without `commit`.
//!
//! Both sides ignore fields they do not know, so that old and new may differ in age.

mod ask;
mod child;
mod link;
mod successor;

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use vmm_fdbox::Finding;

use crate::devices::console::TerminalModes;
use crate::devices::virtio::Place;
use crate::guest::state::MachineStateV1;

pub(crate) use link::{Link, LinkError};
pub(crate) use successor::Successor;

/// The version of what is said here. A VMM takes over from one of the same version.
pub(crate) const VERSION: u32 = 1;

/// How long each answer of the new process may take, unless the operator says otherwise.
pub(crate) const DEFAULT_LIMIT: Duration = Duration::from_secs(10);

/// The longest that the operator may say, in seconds.
pub(crate) const MAX_LIMIT_SECS: u64 = 3600;

/// Which binary, and how patient to be with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Heir {
    pub(crate) binary: PathBuf,
    pub(crate) limit: Duration,
    /// The step that the new process is made to fail at.
    pub(crate) fail_at: Option<&'static str>,
}

/// What `check-state` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Verdict {
    /// Name and version of the program.
    pub(crate) program: String,
    /// Its [`VERSION`].
    pub(crate) handover: u32,
    pub(crate) findings: Vec<Finding>,
}

/// What the old process says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "kebab-case")]
pub(crate) enum Order {
    Hello(Hello),
    Prebuild,
    Go {
        /// What the descriptors are.
        fds: Vec<String>,
    },
    Commit,
    /// The descriptors are clients of the API.
    Clients,
}

/// What is known of the guest before it stops.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) machine: MachineStateV1,
    pub(crate) vcpus: usize,
    /// Where its virtio devices are; what is not told is found in the state.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) places: Vec<Place>,
    /// What the descriptors are.
    pub(crate) fds: Vec<String>,
    /// How the terminal was before a VMM had it.
    #[serde(default)]
    pub(crate) terminal: Option<TerminalModes>,
}

/// What the new process says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "kebab-case")]
pub(crate) enum Word {
    Ready,
    Prebuilt,
    Restored,
    Running(Running),
    /// It gives up; everything is as it was.
    Failed {
        message: String,
    },
}

/// The guest runs in the new process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Running {
    /// As `resume --json` prints it.
    pub(crate) report: Value,
    /// The same for a person.
    pub(crate) text: String,
}

#[cfg(test)]
mod tests;
