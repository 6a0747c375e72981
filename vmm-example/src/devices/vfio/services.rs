//! PCI Express services that a device requests from its IOMMU: address translation (ATS), page
//! requests (PRI), process address spaces (PASID).
//!
//! Each is a capability in extended configuration space (PCI Express base specification, chapter 10
//! "ATS specification" and section 7.8.9), and is enabled by a bit of its control register.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::Path;

/// The start of extended configuration space, and its end.
const BEGIN: usize = 0x100;
const END: usize = 0x1000;
/// Capabilities are at least this far apart, which limits their number.
const MAX_CAPABILITIES: usize = (END - BEGIN) / 8;

/// A service that a device may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Service {
    /// Address translation services: the device caches translations.
    Ats,
    /// Page request interface.
    Pri,
    /// Process address space IDs.
    Pasid,
}

impl Service {
    const ALL: [Self; 3] = [Self::Ats, Self::Pri, Self::Pasid];

    /// Capability ID, offset of the control register in it, and the enable bit (`PCI_ATS_CTRL` and
    /// the like in linux/pci_regs.h).
    fn control(self) -> (u16, usize, u16) {
        match self {
            Self::Ats => (0x0f, 6, 1 << 15),
            Self::Pri => (0x13, 4, 1),
            Self::Pasid => (0x1b, 6, 1),
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ats => "address translation services (ATS)",
            Self::Pri => "page requests (PRI)",
            Self::Pasid => "process address spaces (PASID)",
        }
    }
}

/// The services that are enabled in the device with this directory in sysfs.
///
/// The kernel shows configuration space beyond the first 64 bytes to root only; not seeing it is an
/// error here, because then nothing is known.
pub(super) fn switched_on(device: &Path) -> io::Result<Vec<Service>> {
    let mut config = Vec::with_capacity(END);
    let file = File::open(device.join("config"))?;
    file.take(END as u64).read_to_end(&mut config)?;
    if config.len() < BEGIN {
        let what = "its configuration space is not shown: that takes root";
        return Err(io::Error::new(ErrorKind::PermissionDenied, what));
    }
    let is_on = |service: &Service| is_on(&config, *service);
    Ok(Service::ALL.into_iter().filter(is_on).collect())
}

fn is_on(config: &[u8], service: Service) -> bool {
    let (id, control, bit) = service.control();
    find(config, id)
        .and_then(|at| word(config, at + control))
        .is_some_and(|value| value & bit != 0)
}

/// The offset of a capability, if the device has it. The list of a device that is gone, or a list
/// that never ends, has none.
fn find(config: &[u8], id: u16) -> Option<usize> {
    let mut at = BEGIN;
    for _ in 0..MAX_CAPABILITIES {
        let (found, next) = (word(config, at)?, word(config, at + 2)?);
        if found == id {
            return Some(at);
        }
        at = usize::from(next >> 4) & !3;
        if at < BEGIN {
            return None;
        }
    }
    None
}

fn word(config: &[u8], at: usize) -> Option<u16> {
    let bytes = config.get(at..at + 2)?;
    Some(u16::from_le_bytes([bytes[0], bytes[1]]))
}

/// A configuration space with these capabilities, each at its offset and with these bytes.
#[cfg(test)]
pub(super) fn config_with(capabilities: &[(usize, u16, &[u8])]) -> Vec<u8> {
    let mut config = vec![0; END];
    for (index, (at, id, body)) in capabilities.iter().enumerate() {
        let next = capabilities.get(index + 1).map_or(0, |(next, ..)| *next);
        let header = u32::from(*id) | 1 << 16 | (next as u32) << 20;
        config[*at..at + 4].copy_from_slice(&header.to_le_bytes());
        config[at + 4..at + 4 + body.len()].copy_from_slice(body);
    }
    config
}

/// Capabilities for [`config_with`]: all three, ATS and PASID on.
#[cfg(test)]
pub(super) const ATS_AND_PASID: [(usize, u16, &[u8]); 3] = [
    (0x100, 0x0f, &[0, 0, 0, 0x80]),
    (0x148, 0x13, &[0, 0]),
    (0x150, 0x1b, &[0, 0, 1, 0]),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn read(config: &[u8]) -> io::Result<Vec<Service>> {
        let device = tempfile::tempdir().unwrap();
        std::fs::write(device.path().join("config"), config).unwrap();
        switched_on(device.path())
    }

    #[test]
    fn a_service_counts_when_it_is_on() {
        let on = read(&config_with(&ATS_AND_PASID)).unwrap();
        assert_eq!(on, [Service::Ats, Service::Pasid]);
        let pri: (usize, u16, &[u8]) = (0x180, 0x13, &[1, 0]);
        let other: (usize, u16, &[u8]) = (0x100, 0x01, &[0xff; 16]);
        assert_eq!(read(&config_with(&[other, pri])).unwrap(), [Service::Pri]);
    }

    #[test]
    fn a_device_without_them_has_none() {
        for config in [&vec![0; 256], &vec![0; 4096], &vec![0xff; 4096]] {
            assert_eq!(read(config).unwrap(), []);
        }
    }

    #[test]
    fn a_list_that_bites_its_tail_ends() {
        let mut config = config_with(&[(0x100, 0x01, &[]), (0x140, 0x02, &[])]);
        config[0x142..0x144].copy_from_slice(&0x1001u16.to_le_bytes());
        assert_eq!(read(&config).unwrap(), []);
    }

    #[test]
    fn a_capability_at_the_very_end_is_no_way_out() {
        let config = config_with(&[(0x100, 0x01, &[]), (0xffc, 0x0f, &[])]);
        assert_eq!(read(&config).unwrap(), []);
    }

    #[test]
    fn what_the_kernel_hides_is_not_taken_for_none() {
        let error = read(&[0; 64]).unwrap_err();
        assert!(error.to_string().contains("root"), "{error}");
        assert!(switched_on(Path::new("/nowhere")).is_err());
    }
}
