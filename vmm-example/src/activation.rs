//! What a service manager passes to a service that it starts: sd_listen_fds(3), sd_notify(3).

use std::env;
use std::ffi::OsString;
use std::io;
use std::os::fd::{OwnedFd, RawFd};

use vmm_fdbox::keeper::ServiceManager;

use crate::inherited;

/// The number of the first descriptor.
const FIRST: RawFd = 3;
/// FileDescriptorName= of the socket to listen on.
const LISTENER: &str = "keeper";

/// Empty if no service manager has started this process.
#[derive(Debug, Default)]
pub(crate) struct Activation {
    pub(crate) listener: Option<OwnedFd>,
    pub(crate) manager: Option<ServiceManager>,
    /// What an earlier process of the service has stored, by name.
    pub(crate) stored: Vec<(String, OwnedFd)>,
    /// How many descriptors the manager stores at most.
    pub(crate) most_stored: usize,
}

impl Activation {
    /// May be called once: it takes the descriptors.
    pub(crate) fn of_this_process() -> io::Result<Self> {
        let variable = |name: &str| env::var_os(name);
        let Some(names) = names(std::process::id(), &variable) else {
            return Ok(Self::default());
        };
        let mut passed = Self {
            most_stored: number(&variable, "FDSTORE").unwrap_or(0),
            ..Self::default()
        };
        if let Some(address) = variable("NOTIFY_SOCKET") {
            passed.manager = Some(ServiceManager::connect(&address)?);
        }
        for (number, name) in (FIRST..).zip(names) {
            let fd = inherited::take(number)?;
            match name == LISTENER {
                true => passed.listener = Some(fd),
                false => passed.stored.push((name, fd)),
            }
        }
        Ok(passed)
    }
}

fn number(variable: &impl Fn(&str) -> Option<OsString>, name: &str) -> Option<usize> {
    variable(name)?.to_str()?.parse().ok()
}

/// The names of the descriptors, if they are for this process and not for one that started it.
fn names(process: u32, variable: &impl Fn(&str) -> Option<OsString>) -> Option<Vec<String>> {
    let is_meant = number(variable, "LISTEN_PID") == usize::try_from(process).ok();
    let count = number(variable, "LISTEN_FDS").filter(|_| is_meant)?;
    let names = variable("LISTEN_FDNAMES").unwrap_or_default();
    let names = names.to_string_lossy().into_owned();
    let names = names.split(':').map(str::to_owned);
    Some(
        names
            .chain(std::iter::repeat(String::new()))
            .take(count)
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Option<Vec<String>> {
        let variable = |name: &str| {
            let mut found = variables.iter().filter(|(known, _)| *known == name);
            found.next().map(|(_, value)| OsString::from(value))
        };
        names(7, &variable)
    }

    #[test]
    fn only_what_is_meant_for_this_process_is_taken() {
        let (fds, names) = (
            ("LISTEN_FDS", "2"),
            ("LISTEN_FDNAMES", "keeper:vmm-fdbox.0.0"),
        );
        let mine = of(&[("LISTEN_PID", "7"), fds, names]).unwrap();
        assert_eq!(mine, ["keeper", "vmm-fdbox.0.0"]);
        assert_eq!(of(&[("LISTEN_PID", "8"), fds, names]), None);
        assert_eq!(of(&[fds, names]), None);
        assert_eq!(of(&[("LISTEN_PID", "7"), names]), None);
        // The number counts, not the names.
        assert_eq!(of(&[("LISTEN_PID", "7"), fds]).unwrap(), ["", ""]);
        assert_eq!(
            of(&[("LISTEN_PID", "7"), ("LISTEN_FDS", "1"), names]).unwrap(),
            ["keeper"]
        );
    }
}
