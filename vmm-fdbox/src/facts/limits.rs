//! Facts about limits of this process that affect guests or updates.

use super::{Fact, HostRoot, Need};

/// More than a VMM with all its devices has open.
const MIN_OPEN_FILES: u64 = 256;

pub(super) fn facts(root: &HostRoot) -> Vec<Fact> {
    vec![locked_memory(root), open_files(root), control_group(root)]
}

/// A soft limit from `/proc/self/limits`; the inner `None` means unlimited.
fn limit(root: &HostRoot, name: &str) -> Option<Option<u64>> {
    let limits = root.read("proc/self/limits")?;
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(None),
        number => number.parse().ok().map(Some),
    }
}

/// Passing a device to a guest pins all of the guest's memory.
fn locked_memory(root: &HostRoot) -> Fact {
    const NAME: &str = "limit.locked-memory";
    match limit(root, "Max locked memory") {
        Some(None) => Fact::ok(NAME, Need::Nothing, "memory may be locked without a limit"),
        Some(Some(bytes)) => Fact::unknown(
            NAME,
            Need::Nothing,
            format!(
                "{} KiB may be locked, or all with CAP_IPC_LOCK",
                bytes >> 10
            ),
            "a VMM whose guest drives a device of the host locks all of the guest's memory: raise the limit \
             (LimitMEMLOCK=, ulimit -l)",
        ),
        None => Fact::unknown(
            NAME,
            Need::Nothing,
            "/proc/self/limits does not say",
            "mount /proc",
        ),
    }
}

fn open_files(root: &HostRoot) -> Fact {
    const NAME: &str = "limit.open-files";
    match limit(root, "Max open files") {
        Some(Some(files)) if files < MIN_OPEN_FILES => Fact::missing(
            NAME,
            Need::Guest,
            format!("{files} files may be open at a time"),
            format!("raise the limit to {MIN_OPEN_FILES} at least (LimitNOFILE=, ulimit -n)"),
        ),
        Some(Some(files)) => Fact::ok(
            NAME,
            Need::Guest,
            format!("{files} files may be open at a time"),
        ),
        Some(None) => Fact::ok(NAME, Need::Guest, "files may be open without a limit"),
        None => Fact::unknown(
            NAME,
            Need::Guest,
            "/proc/self/limits does not say",
            "mount /proc",
        ),
    }
}

/// A box's memory stays charged to the group that allocated it. SEAL needs a little more.
fn control_group(root: &HostRoot) -> Fact {
    const NAME: &str = "limit.control-group";
    let groups = root.read("proc/self/cgroup").unwrap_or_default();
    let Some(group) = groups.lines().find_map(|line| line.strip_prefix("0::/")) else {
        return Fact::ok(NAME, Need::Nothing, "no group of version 2 limits memory");
    };
    let mut folder = std::path::PathBuf::from(group);
    loop {
        let path = std::path::Path::new("sys/fs/cgroup").join(&folder);
        let bytes: Option<u64> = root
            .read(path.join("memory.max"))
            .and_then(|text| text.parse().ok());
        if let Some(bytes) = bytes {
            return Fact::unknown(
                NAME,
                Need::Nothing,
                format!(
                    "the control group /{} may have {} MiB",
                    folder.display(),
                    bytes >> 20
                ),
                "guests started here, and what SEAL allocates for them, must fit: raise memory.max if not",
            );
        }
        if !folder.pop() {
            return Fact::ok(NAME, Need::Nothing, "no control group limits memory");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::FactState;
    use crate::facts::testing::FakeRoot;

    const LIMITS: &str = "\
Limit                     Soft Limit           Hard Limit           Units     
Max locked memory         8388608              8388608              bytes     
Max open files            1024                 524288               files     
";

    #[test]
    fn limits_are_read() {
        let host = FakeRoot::new();
        let root = host.root();
        assert_eq!(locked_memory(&root).state, FactState::Unknown);
        assert_eq!(open_files(&root).state, FactState::Unknown);
        host.set("proc/self/limits", LIMITS);
        assert!(locked_memory(&root).found.starts_with("8192 KiB"));
        assert_eq!(open_files(&root).state, FactState::Ok);
        host.set("proc/self/limits", LIMITS.replace("1024   ", "64     "));
        assert_eq!(open_files(&root).state, FactState::Missing);
        host.set("proc/self/limits", LIMITS.replace("8388608", "unlimited"));
        assert_eq!(locked_memory(&root).state, FactState::Ok);
    }

    #[test]
    fn the_nearest_group_with_a_limit_is_named() {
        let host = FakeRoot::new();
        let found = || control_group(&host.root());
        assert_eq!(found().state, FactState::Ok);
        host.set(
            "proc/self/cgroup",
            "1:name=x:/old\n0::/vms.slice/vm0.service\n",
        );
        host.set("sys/fs/cgroup/vms.slice/vm0.service/memory.max", "max\n");
        assert_eq!(found().state, FactState::Ok);
        host.set("sys/fs/cgroup/vms.slice/memory.max", "1073741824\n");
        let fact = found();
        assert_eq!(fact.state, FactState::Unknown);
        assert!(
            fact.found.contains("/vms.slice may have 1024 MiB"),
            "{fact:?}"
        );
    }
}
