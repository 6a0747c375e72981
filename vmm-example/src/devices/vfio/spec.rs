//! Parses `vfio=BDF`, which selects a device of the host.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::spec::SpecError;

/// The address of a PCI function in the host, as sysfs writes it: `0000:01:00.0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct PciAddress {
    domain: u16,
    bus: u8,
    device: u8,
    function: u8,
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            domain,
            bus,
            device,
            function,
        } = self;
        write!(f, "{domain:04x}:{bus:02x}:{device:02x}.{function}")
    }
}

impl From<PciAddress> for String {
    fn from(address: PciAddress) -> Self {
        address.to_string()
    }
}

impl TryFrom<String> for PciAddress {
    type Error = SpecError;

    fn try_from(value: String) -> Result<Self, SpecError> {
        value.parse()
    }
}

impl FromStr for PciAddress {
    type Err = SpecError;

    fn from_str(value: &str) -> Result<Self, SpecError> {
        let parse = || {
            let (rest, function) = value.rsplit_once('.')?;
            let (rest, device) = rest.rsplit_once(':')?;
            let (domain, bus) = rest.rsplit_once(':').unwrap_or(("0", rest));
            Some(Self {
                domain: hex(domain, 4)? as u16,
                bus: hex(bus, 2)? as u8,
                device: hex(device, 2).filter(|device| *device < 32)? as u8,
                function: hex(function, 1).filter(|function| *function < 8)? as u8,
            })
        };
        parse().ok_or_else(|| SpecError::BadValue {
            what: "PCI address",
            value: value.into(),
            expected: "like 0000:01:00.0, as lspci -D shows it",
        })
    }
}

/// Parses hexadecimal digits, with a maximum number.
fn hex(value: &str, digits: usize) -> Option<u32> {
    let plain = value.len() <= digits && value.bytes().all(|byte| byte.is_ascii_hexdigit());
    plain.then(|| u32::from_str_radix(value, 16).ok())?
}

/// `vfio=BDF`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VfioSpec(pub(crate) PciAddress);

impl FromStr for VfioSpec {
    type Err = SpecError;

    fn from_str(value: &str) -> Result<Self, SpecError> {
        match value.split_once('=') {
            Some(("vfio", address)) => Ok(Self(address.parse()?)),
            Some((key, _)) => Err(SpecError::UnknownKey {
                key: key.into(),
                known: "vfio",
            }),
            None => Err(SpecError::NotKeyValue { part: value.into() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_parse_with_and_without_a_domain() {
        for (value, full) in [
            ("vfio=0000:01:00.0", "0000:01:00.0"),
            ("vfio=01:1f.7", "0000:01:1f.7"),
            ("vfio=abcd:FF:02.1", "abcd:ff:02.1"),
        ] {
            let spec: VfioSpec = value.parse().unwrap();
            assert_eq!(spec.0.to_string(), full);
            assert_eq!(full.parse(), Ok(spec.0));
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for bad in [
            "",
            "vfio=",
            "0000:01:00.0",
            "vdpa=0000:01:00.0",
            "vfio=01:20.0",
            "vfio=01:00.8",
            "vfio=01:00",
            "vfio=00000:01:00.0",
            "vfio=1:2:3:4.0",
            "vfio=+1:00.0",
            "vfio=:00.0",
        ] {
            assert!(bad.parse::<VfioSpec>().is_err(), "{bad:?}");
        }
    }
}
