//! What a VMM drops before its guest runs: user, capabilities, files and system calls.
//!
//! | module | content |
//! |---|---|
//! | `privileges` | user, capabilities, limits, core dumps |
//! | `paths` | Landlock: no file can be opened any more |
//! | `folders` | directories from which a VMM can remove its sockets |
//! | `syscalls`, `filter` | seccomp: what each kind of thread may call |
//!
//! All files are open by then, and there is only one thread: threads started later inherit
//! everything. Each of them then narrows its own system calls further, with [`confine`].

mod filter;
mod folders;
mod paths;
mod privileges;
mod syscalls;

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

use thiserror::Error;

use crate::error::{chain, warn};

pub(crate) use privileges::User;

/// Why a VMM could not drop its privileges. It does not run then.
#[derive(Debug, Error)]
pub(crate) enum SandboxError {
    #[error("Cannot give up privileges: this process has {0} threads")]
    Threads(usize),
    #[error("Cannot read /proc/self/task")]
    CountThreads(#[source] std::io::Error),
    #[error("{what} failed")]
    Call {
        what: &'static str,
        source: rustix::io::Errno,
    },
    #[error("Cannot run as user {0}: this process is not root")]
    NotRoot(User),
    #[error("Cannot make a folder for {}", socket.display())]
    MakeFolder {
        socket: PathBuf,
        source: std::io::Error,
    },
    #[error("Cannot build a filter of system calls")]
    BuildFilter(#[source] seccompiler::BackendError),
    #[error("Cannot apply a filter of system calls")]
    ApplyFilter(#[source] seccompiler::Error),
}

/// How much a VMM drops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Level {
    /// Everything that it does not need.
    #[default]
    On,
    /// The same, but the kernel only logs unexpected system calls.
    Log,
    /// Nothing, unless it is to run as another user.
    Off,
}

/// What a VMM needs permanently.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sandbox {
    pub(crate) level: Level,
    pub(crate) user: Option<User>,
    /// Its sockets in the file system, which it removes at its end.
    pub(crate) sockets: Vec<PathBuf>,
    /// The prefix of the sockets that it connects to, for a guest's vsock.
    pub(crate) connects: Option<PathBuf>,
    /// Whether it locks memory for devices.
    pub(crate) locks_memory: bool,
}

/// The kinds of threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Thread {
    Vcpu,
    /// A virtio device's thread.
    Device,
    /// A thread that answers a client, or waits for clients.
    Api,
}

static FILTERS: OnceLock<filter::Filters> = OnceLock::new();

impl Sandbox {
    /// Creates missing directories for the sockets of a VMM that switches to another user. A group
    /// may enter them.
    pub(crate) fn make_folders(&self, group: Option<u32>) -> Result<(), SandboxError> {
        let Some(user) = self.user else {
            return Ok(());
        };
        self.sockets.iter().try_for_each(|socket| {
            let failed = |source| SandboxError::MakeFolder {
                socket: socket.clone(),
                source,
            };
            folders::make(socket, user, group).map_err(failed)
        })
    }

    /// Switches to the user, before a state written by a VMM is read and what it names is opened.
    /// There is no second thread yet.
    pub(crate) fn become_user(&self) -> Result<(), SandboxError> {
        let Some(user) = self.user else {
            return Ok(());
        };
        only_thread()?;
        // Whether it locks memory for devices is not known yet.
        privileges::set_limits(true)?;
        if self.level != Level::Off {
            privileges::drop_bounding_set()?;
        }
        privileges::become_user(user)
    }

    /// Drops everything. All that the VMM needs is open; it has no second thread yet.
    pub(crate) fn enter(&self) -> Result<(), SandboxError> {
        if self.level == Level::Off && self.user.is_none() {
            return Ok(());
        }
        only_thread()?;
        self.confine_thread()
    }

    /// The same for the calling thread, and for all that it starts.
    fn confine_thread(&self) -> Result<(), SandboxError> {
        privileges::set_limits(self.locks_memory)?;
        if self.level == Level::Off {
            return self.user.map_or(Ok(()), privileges::become_user);
        }
        // While /proc can still be read to find out whether there is seccomp.
        let filters = filter::Filters::build(self)?;
        privileges::drop_bounding_set()?;
        privileges::forbid_new()?;
        if let Some(user) = self.user {
            privileges::become_user(user)?;
        }
        privileges::drop_capabilities()?;
        privileges::refuse_dumps()?;
        if let Err(error) = paths::restrict(self) {
            let why = chain(&error);
            warn(&format!("Landlock does not keep the VMM from files: {why}"));
        }
        match filters {
            Some(filters) => {
                filters.enter()?;
                let _ = FILTERS.set(filters);
            }
            None => warn("Nothing keeps the VMM from system calls: this kernel has no seccomp"),
        }
        Ok(())
    }
}

/// Drops what a keeper does not need. All its files are open; it has no second thread yet.
pub(crate) fn enter_keeper() -> Result<(), SandboxError> {
    only_thread()?;
    // While /proc can still be read to find out whether there is seccomp.
    let filters = filter::of_keeper()?;
    privileges::refuse_core()?;
    privileges::drop_bounding_set()?;
    privileges::forbid_new()?;
    privileges::drop_capabilities()?;
    privileges::refuse_dumps()?;
    if let Err(error) = paths::restrict(&Sandbox::default()) {
        let why = chain(&error);
        warn(&format!(
            "Landlock does not keep the keeper from files: {why}"
        ));
    }
    match filters {
        Some(filters) => filter::enter(&filters),
        None => {
            warn("Nothing keeps the keeper from system calls: this kernel has no seccomp");
            Ok(())
        }
    }
}

/// Restricts the calling thread, which is new, to what its kind does.
pub(crate) fn confine(kind: Thread) {
    let Some(filters) = FILTERS.get() else {
        return;
    };
    if let Err(error) = filters.confine(kind) {
        // It still has the process's filter.
        warn(&chain(&error));
    }
}

/// Whether this process has a seccomp filter.
pub(crate) fn is_entered() -> bool {
    FILTERS.get().is_some()
}

fn only_thread() -> Result<(), SandboxError> {
    let threads = fs::read_dir("/proc/self/task").map_err(SandboxError::CountThreads)?;
    match threads.count() {
        1 => Ok(()),
        count => Err(SandboxError::Threads(count)),
    }
}

#[cfg(test)]
mod tests;
