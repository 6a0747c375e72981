//! The requested devices, parsed and checked.

use std::fmt;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::str::FromStr;

use super::device_state::{ConsoleTarget, IoMode};
use super::slot::MAX_DEVICES;
use crate::spec::SpecError;

/// A MAC address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mac(pub(crate) [u8; 6]);

impl FromStr for Mac {
    type Err = SpecError;

    fn from_str(value: &str) -> Result<Self, SpecError> {
        let bad = || {
            bad(
                "MAC address",
                value,
                "six bytes like 52:54:00:12:34:56, not a multicast address",
            )
        };
        let mut mac = [0; 6];
        let mut parts = value.split(':');
        for byte in &mut mac {
            let part = parts
                .next()
                .filter(|part| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit()))
                .ok_or_else(bad)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| bad())?;
        }
        if parts.next().is_some() || mac[0] & 1 != 0 {
            return Err(bad());
        }
        Ok(Self(mac))
    }
}

/// `path=FILE[,readonly=on][,direct=on][,io=uring|thread]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DiskSpec {
    pub(crate) path: PathBuf,
    /// Default: off.
    pub(crate) readonly: bool,
    /// Bypasses the host's page cache. Default: off.
    pub(crate) direct: bool,
    /// Default: auto.
    pub(crate) io: IoMode,
}

impl FromStr for IoMode {
    type Err = SpecError;

    fn from_str(value: &str) -> Result<Self, SpecError> {
        match value {
            "auto" => Ok(Self::Auto),
            "uring" => Ok(Self::Uring),
            "thread" => Ok(Self::Thread),
            _ => Err(bad("I/O", value, "auto, uring or thread")),
        }
    }
}

/// The destination of a network device's frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TapSpec {
    Name(String),
    Fd(RawFd),
}

/// `tap=NAME[,mac=MAC]` or `fd=N[,mac=MAC]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NetSpec {
    pub(crate) tap: TapSpec,
    /// Default: a random one, which the device keeps.
    pub(crate) mac: Option<Mac>,
}

/// `fd=N`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FdSpec(pub(crate) RawFd);

impl FromStr for FdSpec {
    type Err = SpecError;

    fn from_str(value: &str) -> Result<Self, SpecError> {
        match value.parse::<NetSpec>()? {
            NetSpec {
                tap: TapSpec::Fd(fd),
                mac: None,
            } => Ok(Self(fd)),
            _ => Err(bad(
                "Network",
                value,
                "fd=N: everything else stays as it was",
            )),
        }
    }
}

/// `cid=N,socket=PATH`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VsockSpec {
    pub(crate) cid: u64,
    pub(crate) socket: PathBuf,
}

/// `file=PATH` or `socket=PATH`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HvcSpec(pub(crate) ConsoleTarget);

impl HvcSpec {
    /// The socket that it listens on.
    pub(crate) fn socket(&self) -> Option<&PathBuf> {
        match &self.0 {
            ConsoleTarget::Socket(path) => Some(path),
            ConsoleTarget::File(_) => None,
        }
    }
}

/// All devices of a new guest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DeviceSpecs {
    pub(crate) disks: Vec<DiskSpec>,
    pub(crate) nets: Vec<NetSpec>,
    pub(crate) console: Option<HvcSpec>,
    pub(crate) rng: bool,
    pub(crate) vsock: Option<VsockSpec>,
}

impl DeviceSpecs {
    /// The number of devices.
    pub(crate) fn count(&self) -> usize {
        self.disks.len()
            + self.nets.len()
            + usize::from(self.console.is_some())
            + usize::from(self.rng)
            + usize::from(self.vsock.is_some())
    }

    /// Whether a machine has enough slots for them.
    pub(crate) fn fits(&self) -> bool {
        self.count() <= MAX_DEVICES
    }
}

fn bad(what: &'static str, value: &str, expected: &'static str) -> SpecError {
    SpecError::BadValue {
        what,
        value: value.into(),
        expected,
    }
}

/// A number in decimal digits, without a sign.
fn digits<T: FromStr>(value: &str) -> Option<T> {
    let parsed = value.parse().ok();
    parsed.filter(|_| value.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Splits `key=value,key=value` and passes each pair to `set`, which returns whether it knows the
/// key. No key may be repeated.
fn each_pair<'v>(
    value: &'v str,
    known: &'static str,
    mut set: impl FnMut(&str, &'v str) -> Result<bool, SpecError>,
) -> Result<(), SpecError> {
    let mut seen = Vec::new();
    for part in value.split(',') {
        let (key, value) = part
            .split_once('=')
            .filter(|(_, value)| !value.is_empty())
            .ok_or_else(|| SpecError::NotKeyValue { part: part.into() })?;
        if !set(key, value)? {
            let key = key.into();
            return Err(SpecError::UnknownKey { key, known });
        }
        if seen.contains(&key) {
            return Err(SpecError::RepeatedKey { key: key.into() });
        }
        seen.push(key);
    }
    Ok(())
}

/// Sets a value of which only one key may be given.
fn only<T>(to: &mut Option<T>, value: T, keys: &'static str) -> Result<(), SpecError> {
    match to.replace(value) {
        None => Ok(()),
        Some(_) => Err(SpecError::RepeatedKey { key: keys.into() }),
    }
}

fn missing(key: &'static str) -> SpecError {
    SpecError::MissingKey { key }
}

fn on_off(value: &str) -> Result<bool, SpecError> {
    match value {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(bad("Switch", value, "on or off")),
    }
}

impl FromStr for DiskSpec {
    type Err = SpecError;

    fn from_str(value: &str) -> Result<Self, SpecError> {
        let mut path = None;
        let (mut readonly, mut direct, mut io) = (false, false, IoMode::default());
        each_pair(value, "path, readonly, direct, io", |key, value| {
            match key {
                "path" => path = Some(value.into()),
                "readonly" => readonly = on_off(value)?,
                "direct" => direct = on_off(value)?,
                "io" => io = value.parse()?,
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        let path = path.ok_or_else(|| missing("path"))?;
        Ok(Self {
            path,
            readonly,
            direct,
            io,
        })
    }
}

impl FromStr for NetSpec {
    type Err = SpecError;

    fn from_str(value: &str) -> Result<Self, SpecError> {
        let (mut tap, mut mac) = (None, None);
        each_pair(value, "tap, fd, mac", |key, value| {
            match key {
                "tap" => only(&mut tap, TapSpec::Name(value.into()), "tap or fd")?,
                "fd" => only(&mut tap, TapSpec::Fd(parse_fd(value)?), "tap or fd")?,
                "mac" => mac = Some(value.parse()?),
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        let tap = tap.ok_or_else(|| missing("tap or fd"))?;
        Ok(Self { tap, mac })
    }
}

fn parse_fd(value: &str) -> Result<RawFd, SpecError> {
    let fd = digits(value).filter(|fd| *fd > 2);
    fd.ok_or_else(|| bad("Descriptor", value, "the number of an open one, above 2"))
}

impl FromStr for VsockSpec {
    type Err = SpecError;

    fn from_str(value: &str) -> Result<Self, SpecError> {
        let (mut cid, mut socket) = (None, None);
        each_pair(value, "cid, socket", |key, value| {
            match key {
                "cid" => cid = Some(parse_cid(value)?),
                "socket" => socket = Some(value.into()),
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(Self {
            cid: cid.ok_or_else(|| missing("cid"))?,
            socket: socket.ok_or_else(|| missing("socket"))?,
        })
    }
}

/// 0 to 2 are the hypervisor, loopback and the host; the maximum means any.
fn parse_cid(value: &str) -> Result<u64, SpecError> {
    let cid = digits::<u32>(value);
    cid.filter(|cid| (3..u32::MAX).contains(cid))
        .map(u64::from)
        .ok_or_else(|| bad("CID", value, "a number from 3 to 4294967294"))
}

impl FromStr for HvcSpec {
    type Err = SpecError;

    fn from_str(value: &str) -> Result<Self, SpecError> {
        let mut target = None;
        each_pair(value, "file, socket", |key, value| {
            let found = match key {
                "file" => ConsoleTarget::File(value.into()),
                "socket" => ConsoleTarget::Socket(value.into()),
                _ => return Ok(false),
            };
            only(&mut target, found, "file or socket").map(|()| true)
        })?;
        target.map(Self).ok_or_else(|| missing("file or socket"))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = self.0.map(|byte| format!("{byte:02x}"));
        f.write_str(&parts.join(":"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_parse() {
        let disk: DiskSpec = "path=/d,readonly=on".parse().unwrap();
        assert_eq!((disk.path, disk.readonly), ("/d".into(), true));
        assert_eq!((disk.direct, disk.io), (false, IoMode::Auto));
        let disk: DiskSpec = "path=/d,direct=on,io=thread".parse().unwrap();
        assert_eq!((disk.direct, disk.io), (true, IoMode::Thread));
        let net: NetSpec = "tap=tap0,mac=52:54:00:12:34:56".parse().unwrap();
        assert_eq!(net.tap, TapSpec::Name("tap0".into()));
        assert_eq!(net.mac.unwrap().to_string(), "52:54:00:12:34:56");
        let net: NetSpec = "fd=7".parse().unwrap();
        assert_eq!((net.tap, net.mac), (TapSpec::Fd(7), None));
        let vsock: VsockSpec = "cid=3,socket=/v".parse().unwrap();
        assert_eq!((vsock.cid, vsock.socket), (3, "/v".into()));
        let hvc: HvcSpec = "file=/log".parse().unwrap();
        assert_eq!(hvc.0, ConsoleTarget::File("/log".into()));
    }

    #[test]
    fn what_is_wrong_is_refused() {
        for bad in [
            "",
            "path=",
            "readonly=on",
            "path=/d,readonly=yes",
            "path=/d,io=aio",
            "path=/d,size=1",
            "path=/d,path=/e",
            "path=/d,readonly=on,readonly=off",
        ] {
            assert!(bad.parse::<DiskSpec>().is_err(), "{bad:?}");
        }
        for bad in [
            "mac=52:54:00:12:34:56",
            "fd=1",
            "fd=x",
            "tap=t,mac=1",
            "tap=t,mac=01:00:00:00:00:00",
            "tap=t,mac=52:54:+0:00:00:00",
            "tap=t,mac=52:54:00:00:00:0g",
            "fd=+7",
            "tap=t,tap=u",
            "tap=t,fd=7",
            "fd=7,mac=52:54:00:12:34:56,mac=52:54:00:12:34:57",
        ] {
            assert!(bad.parse::<NetSpec>().is_err(), "{bad:?}");
        }
        for bad in [
            "cid=3",
            "cid=2,socket=/v",
            "socket=/v",
            "cid=+3,socket=/v",
            "cid=3,socket=/v,cid=4",
        ] {
            assert!(bad.parse::<VsockSpec>().is_err(), "{bad:?}");
        }
        for bad in ["stdio", "file=/a,socket=/b", "file=/a,file=/b"] {
            assert!(bad.parse::<HvcSpec>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_machine_has_so_many_places() {
        let disk = DiskSpec {
            path: "/d".into(),
            ..DiskSpec::default()
        };
        let mut specs = DeviceSpecs {
            disks: vec![disk; 7],
            rng: true,
            ..Default::default()
        };
        assert!(specs.fits());
        specs.vsock = Some(VsockSpec {
            cid: 3,
            socket: "/v".into(),
        });
        assert!(!specs.fits());
    }
}
