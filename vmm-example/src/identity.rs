//! The identity of a process, so that another one can get the same.

#![allow(
    unsafe_code,
    reason = "what a child does between fork and exec, the compiler cannot check"
)]

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use crate::sandbox::Level;

/// A process's user and groups, and its resource accounting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    /// Its control group; only with cgroup v2.
    cgroup: Option<PathBuf>,
    /// Its OOM killer adjustment.
    oom_score_adj: Option<String>,
    /// Whether it has a seccomp filter.
    is_confined: bool,
}

impl Identity {
    /// Reads the identity of a process.
    pub(crate) fn of(pid: u32) -> io::Result<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let oom_score_adj = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).ok();
        let unknown = || io::Error::other(format!("/proc/{pid}/status does not tell its user"));
        let mut identity = Self::parse(&status).ok_or_else(unknown)?;
        let path = cgroup.lines().find_map(|line| line.strip_prefix("0::/"));
        identity.cgroup = path.map(|path| PathBuf::from("/sys/fs/cgroup").join(path));
        identity.oom_score_adj = oom_score_adj;
        Ok(identity)
    }

    fn parse(status: &str) -> Option<Self> {
        let numbers = |name: &str| -> Option<Vec<u32>> {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            let numbers = line.split_whitespace().map(|number| number.parse().ok());
            numbers.collect()
        };
        // Real, effective, saved, file system.
        Some(Self {
            uid: *numbers("Uid:")?.get(1)?,
            gid: *numbers("Gid:")?.get(1)?,
            groups: numbers("Groups:")?,
            cgroup: None,
            oom_score_adj: None,
            // SECCOMP_MODE_FILTER.
            is_confined: numbers("Seccomp:").is_some_and(|mode| mode == [2]),
        })
    }

    pub(crate) fn is(&self, uid: u32, gid: u32) -> bool {
        (self.uid, self.gid) == (uid, gid)
    }

    /// Its sandbox as reported by the kernel, which does not say whether a filter only logs.
    pub(crate) fn sandbox(&self) -> Level {
        match self.is_confined {
            true => Level::On,
            false => Level::Off,
        }
    }

    /// Makes a command run as this user, if it is not this process's user already.
    pub(crate) fn give(&self, command: &mut Command) {
        if rustix::process::geteuid().as_raw() == self.uid {
            return;
        }
        let Self {
            uid, gid, groups, ..
        } = self.clone();
        let change = move || {
            let done = |result| match result {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            };
            // SAFETY: the list has `groups.len()` entries, and lives through the call.
            done(unsafe { libc::setgroups(groups.len(), groups.as_ptr()) })?;
            // SAFETY: the arguments are numbers.
            done(unsafe { libc::setresgid(gid, gid, gid) })?;
            // SAFETY: the arguments are numbers.
            done(unsafe { libc::setresuid(uid, uid, uid) })
        };
        // SAFETY: between fork and exec the closure only makes system calls and reads what it owns:
        // it allocates nothing and takes no lock.
        unsafe { command.pre_exec(change) };
    }

    /// Moves a child to the control group and OOM adjustment of this process. Errors are ignored: a
    /// child elsewhere works as well.
    pub(crate) fn account(&self, child: u32) {
        if let Some(cgroup) = &self.cgroup {
            let _ = fs::write(cgroup.join("cgroup.procs"), child.to_string());
        }
        if let Some(adjustment) = &self.oom_score_adj {
            let _ = fs::write(format!("/proc/{child}/oom_score_adj"), adjustment);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_tells_who_it_is() {
        let own = Identity::of(std::process::id()).unwrap();
        assert_eq!(own.uid, rustix::process::geteuid().as_raw());
        assert_eq!(own.gid, rustix::process::getegid().as_raw());
        let status = "Name:\tx\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t36 107 \n";
        let other = Identity::parse(status).unwrap();
        assert!(other.is(2, 6) && !other.is(2, 7) && !other.is(1, 6));
        assert_eq!(other.sandbox(), Level::Off);
        let confined = Identity::parse(&format!("{status}Seccomp:\t2\nSeccomp_filters:\t3\n"));
        assert_eq!(confined.unwrap().sandbox(), Level::On);
        assert_eq!(other.groups, [36, 107]);
        assert_eq!(Identity::parse("Uid:\t1\n"), None);
    }

    #[test]
    fn a_child_is_who_it_is_told_to_be() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let nobody = Identity {
            uid: 65534,
            gid: 65533,
            groups: vec![36, 107],
            cgroup: None,
            oom_score_adj: None,
            is_confined: false,
        };
        let mut command = Command::new("cat");
        nobody.give(command.arg("/proc/self/status"));
        let status = String::from_utf8(command.output().unwrap().stdout).unwrap();
        assert_eq!(Identity::parse(&status).unwrap(), nobody);
    }
}
