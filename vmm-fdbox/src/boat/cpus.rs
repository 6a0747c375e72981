//! The CPUs of the host.

use std::fs;

use super::BoatError;

const DIRECTORY: &str = "/sys/devices/system/cpu";

/// Takes a CPU online or offline.
///
/// # Errors
/// [`BoatError::Cpu`].
pub fn set_online(cpu: u32, online: bool) -> Result<(), BoatError> {
    let path = format!("{DIRECTORY}/cpu{cpu}/online");
    fs::write(path, if online { "1" } else { "0" }).map_err(|source| BoatError::Cpu {
        cpu,
        online,
        source,
    })
}

/// The CPUs that are online.
#[must_use]
pub fn online_cpus() -> Vec<u32> {
    listed("online")
}

/// The CPUs that are there, and offline.
#[must_use]
pub fn offline_cpus() -> Vec<u32> {
    let online = online_cpus();
    let mut offline = listed("present");
    offline.retain(|cpu| !online.contains(cpu));
    offline
}

fn listed(name: &str) -> Vec<u32> {
    let list = fs::read_to_string(format!("{DIRECTORY}/{name}"));
    parse(list.unwrap_or_default().trim()).unwrap_or_default()
}

/// A list as the kernel writes it: `0-2,4`.
fn parse(list: &str) -> Option<Vec<u32>> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    let ranges = list.split(',').filter(|part| !part.is_empty()).map(range);
    let ranges: Option<Vec<_>> = ranges.collect();
    Some(ranges?.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn lists_of_the_kernel_are_read() {
        assert_eq!(parse("0-2,4"), Some(vec![0, 1, 2, 4]));
        assert_eq!(parse(""), Some(vec![]));
        assert_eq!(parse("0-x"), None);
    }
}
