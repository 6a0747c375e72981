//! User, capabilities, limits and core dumps of this process.

use std::fmt;
use std::str::FromStr;

use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets, Gid, Uid};

use super::SandboxError;

/// More than a guest with every device has open, and as many clients again.
const OPEN_FILES: u64 = 4096;

/// Memory that a process without devices of the host keeps in place: the kernel's own default.
const LOCKED_BYTES: u64 = 8 << 20;

/// A user and a group to run as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.uid, self.gid)
    }
}

impl FromStr for User {
    type Err = String;

    /// `UID` or `UID:GID`. Without a group it is the one of the user's number.
    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| match text.parse() {
            // The last number means "leave it as it is" to the kernel.
            Ok(id) if id < u32::MAX => Ok(id),
            _ => Err(format!("{text:?} is not the number of a user or a group")),
        };
        let (uid, gid) = text.split_once(':').unwrap_or((text, text));
        Ok(Self {
            uid: number(uid)?,
            gid: number(gid)?,
        })
    }
}

fn call<T>(what: &'static str, result: Result<T, Errno>) -> Result<T, SandboxError> {
    result.map_err(|source| SandboxError::Call { what, source })
}

/// Limits what the process can take of the host. While it is root it may raise what it must have.
pub(super) fn set_limits(locks_memory: bool) -> Result<(), SandboxError> {
    let most = |limit: u64| Rlimit {
        current: Some(limit),
        maximum: Some(limit),
    };
    // No core dump at all: vCPUs' registers and what devices have in hand would be in it.
    call("setrlimit(RLIMIT_CORE)", setrlimit(Resource::Core, most(0)))?;
    let files = getrlimit(Resource::Nofile).maximum.unwrap_or(OPEN_FILES);
    let files = setrlimit(Resource::Nofile, most(files.min(OPEN_FILES)));
    call("setrlimit(RLIMIT_NOFILE)", files)?;
    if locks_memory {
        // What the kernel counts is the sum of all VMMs of this user. Who may not have no limit has
        // one, and is told by the device.
        let none = Rlimit {
            current: None,
            maximum: None,
        };
        let _ = setrlimit(Resource::Memlock, none);
        return Ok(());
    }
    let locked = getrlimit(Resource::Memlock).maximum;
    let locked = most(locked.unwrap_or(LOCKED_BYTES).min(LOCKED_BYTES));
    let locked = setrlimit(Resource::Memlock, locked);
    call("setrlimit(RLIMIT_MEMLOCK)", locked)
}

/// Makes sure that no program and no user change brings a capability back.
pub(super) fn drop_bounding_set() -> Result<(), SandboxError> {
    let capabilities = call("capget", rustix::thread::capabilities(None))?;
    if !capabilities.effective.contains(CapabilitySet::SETPCAP) {
        // It has none to lose, or may not; no_new_privs holds all the same.
        return Ok(());
    }
    for bit in 0..u64::BITS {
        let one = CapabilitySet::from_bits_retain(1 << bit);
        match rustix::thread::remove_capability_from_bounding_set(one) {
            // The kernel has no capability of this number.
            Err(Errno::INVAL) => break,
            done => call("prctl(PR_CAPBSET_DROP)", done)?,
        }
    }
    Ok(())
}

pub(super) fn forbid_new() -> Result<(), SandboxError> {
    let set = rustix::thread::set_no_new_privs(true);
    call("prctl(PR_SET_NO_NEW_PRIVS)", set)
}

/// Becomes a user for good. There is one thread only.
pub(super) fn become_user(user: User) -> Result<(), SandboxError> {
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    if rustix::process::getuid() == uid && rustix::process::geteuid() == uid {
        return Ok(());
    }
    let denied = |result: Result<(), Errno>, what| match result {
        Err(Errno::PERM) => Err(SandboxError::NotRoot(user)),
        result => call(what, result),
    };
    denied(rustix::thread::set_thread_groups(&[]), "setgroups")?;
    denied(
        rustix::thread::set_thread_res_gid(gid, gid, gid),
        "setresgid",
    )?;
    denied(
        rustix::thread::set_thread_res_uid(uid, uid, uid),
        "setresuid",
    )
}

pub(super) fn drop_capabilities() -> Result<(), SandboxError> {
    // A kernel without ambient capabilities has none to clear.
    let _ = rustix::thread::clear_ambient_capability_set();
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    call("capset", rustix::thread::set_capabilities(None, none))
}

/// Another process of this user neither traces this one nor reads its memory.
pub(super) fn refuse_dumps() -> Result<(), SandboxError> {
    let set = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
    call("prctl(PR_SET_DUMPABLE)", set)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_numbers() {
        assert_eq!("7".parse(), Ok(User { uid: 7, gid: 7 }));
        assert_eq!("7:9".parse(), Ok(User { uid: 7, gid: 9 }));
        for wrong in ["", "root", "7:", ":7", "-1", "4294967295", "7:9:1"] {
            assert!(wrong.parse::<User>().is_err(), "{wrong}");
        }
    }
}
