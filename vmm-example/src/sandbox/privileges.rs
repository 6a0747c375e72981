//! User, capabilities, limits and core dumps of this process.

use std::fmt;
use std::fs;
use std::str::FromStr;

use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets, Gid, Uid};

use super::SandboxError;

/// More than the descriptors of a guest with every device and the maximum of clients.
const OPEN_FILES: u64 = 4096;

/// The locked memory limit for a process without passed-through devices: the kernel's default.
const LOCKED_BYTES: u64 = 8 << 20;

/// Where user names are looked up. A static program has no other source of names.
const USERS: &str = "/etc/passwd";

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

impl User {
    /// `UID` or `UID:GID`. The default group has the user's number.
    fn of_numbers(text: &str) -> Option<Self> {
        // To the kernel, the highest number means "unchanged".
        let number = |text: &str| text.parse().ok().filter(|id| *id < u32::MAX);
        let (uid, gid) = text.split_once(':').unwrap_or((text, text));
        Some(Self {
            uid: number(uid)?,
            gid: number(gid)?,
        })
    }

    /// Looks a name up in lines as in passwd(5).
    fn of_name(name: &str, users: &str) -> Option<Self> {
        let mut users = users.lines().map(|line| line.split(':'));
        let mut fields =
            users.find_map(|mut fields| (fields.next() == Some(name)).then_some(fields))?;
        let _password = fields.next()?;
        let (uid, gid) = (fields.next()?, fields.next()?);
        Self::of_numbers(&format!("{uid}:{gid}"))
    }
}

impl FromStr for User {
    type Err = String;

    /// `UID`, `UID:GID` or a name.
    fn from_str(text: &str) -> Result<Self, String> {
        let named = || Self::of_name(text, &fs::read_to_string(USERS).ok()?);
        let user = Self::of_numbers(text).or_else(named);
        user.ok_or_else(|| {
            format!("{text:?} is neither the number of a user or a group nor in {USERS}")
        })
    }
}

fn call<T>(what: &'static str, result: Result<T, Errno>) -> Result<T, SandboxError> {
    result.map_err(|source| SandboxError::Call { what, source })
}

/// Sets resource limits. While the process is root, it may raise those that it needs.
pub(super) fn set_limits(locks_memory: bool) -> Result<(), SandboxError> {
    let most = |limit: u64| Rlimit {
        current: Some(limit),
        maximum: Some(limit),
    };
    refuse_core()?;
    let files = getrlimit(Resource::Nofile).maximum.unwrap_or(OPEN_FILES);
    let files = setrlimit(Resource::Nofile, most(files.min(OPEN_FILES)));
    call("setrlimit(RLIMIT_NOFILE)", files)?;
    if locks_memory {
        // The kernel counts the sum for all VMMs of this user. If the limit cannot be removed, the
        // device reports an error.
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

/// No core dumps: they would contain vCPU registers and the devices' data.
pub(super) fn refuse_core() -> Result<(), SandboxError> {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    call("setrlimit(RLIMIT_CORE)", setrlimit(Resource::Core, none))
}

/// Ensures that no program and no change of user can bring a capability back.
pub(super) fn drop_bounding_set() -> Result<(), SandboxError> {
    let capabilities = call("capget", rustix::thread::capabilities(None))?;
    if !capabilities.effective.contains(CapabilitySet::SETPCAP) {
        // It has none to drop, or may not drop them; no_new_privs applies anyway.
        return Ok(());
    }
    for bit in 0..u64::BITS {
        let one = CapabilitySet::from_bits_retain(1 << bit);
        match rustix::thread::remove_capability_from_bounding_set(one) {
            // The kernel has no capability with this number.
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

/// Switches to a user for good. There is only one thread.
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
    if call("capget", rustix::thread::capabilities(None))? == none {
        // A service without capabilities may be forbidden to set them.
        return Ok(());
    }
    call("capset", rustix::thread::set_capabilities(None, none))
}

/// Other processes of this user can neither trace this one nor read its memory.
pub(super) fn refuse_dumps() -> Result<(), SandboxError> {
    let set = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
    call("prctl(PR_SET_DUMPABLE)", set)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_have_names() {
        let users = "root:x:0:0:root:/root:/bin/sh\nvms:x:990:991::/:/bin/false\nbad:x:1\n";
        let named = |name| User::of_name(name, users);
        assert_eq!(named("vms"), Some(User { uid: 990, gid: 991 }));
        for other in ["", "vm", "vms:x", "bad", "x"] {
            assert_eq!(named(other), None, "{other:?}");
        }
    }

    #[test]
    fn users_are_numbers() {
        assert_eq!("7".parse(), Ok(User { uid: 7, gid: 7 }));
        assert_eq!("7:9".parse(), Ok(User { uid: 7, gid: 9 }));
        for wrong in ["", "nobody-here", "7:", ":7", "-1", "4294967295", "7:9:1"] {
            assert!(wrong.parse::<User>().is_err(), "{wrong}");
        }
    }
}
