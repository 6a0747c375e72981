//! The host's part of the lab's network: its card, a tap for each guest, and the routing between
//! them.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use fdbox_lab::{interface, net};

/// Sets up the card, and guest `number`'s tap and drive, which belong to its VMM's user, as an
/// operator would with `ip tuntap` and udev rules. This is done before the guest arrives, which
/// finds everything unchanged.
pub(crate) fn set_up(number: u8) -> Result<()> {
    interface::configure(net::CARD, net::HOST).context("Set up the host's network card")?;
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("Switch on routing")?;
    let tap = net::tap(number);
    let user = net::user(number);
    interface::make_tap(&tap, user).with_context(|| format!("Make {tap}"))?;
    fs::set_permissions("/dev/net/tun", fs::Permissions::from_mode(0o666))?;
    chown(drive(number), Some(user), None).context("Give the drive to the guest's user")?;
    interface::configure(&tap, net::gateway(number)).with_context(|| format!("Set up {tap}"))
}

/// A network of the host's that takes what fits into its queues, and nothing more. It goes with what is returned.
pub(crate) fn stuck() -> Result<File> {
    let never_read = interface::make_tun(net::STUCK).context("Make a network")?;
    interface::configure(net::STUCK, net::STUCK_GATEWAY).context("Set up a network")?;
    Ok(never_read)
}

/// A guest's disk and network card as named on the host, for its VMM.
#[derive(Debug)]
pub(crate) struct Links {
    pub(crate) disk: String,
    pub(crate) net: String,
    /// Open as long as this exists, for the VMM that is started meanwhile.
    tap: Option<File>,
}

impl Links {
    /// Guest `number`'s drive and tap, by name.
    pub(crate) fn by_name(number: u8) -> Result<Self> {
        set_up(number)?;
        Ok(Self {
            disk: format!("path={}", drive(number).display()),
            net: format!("tap={}", net::tap(number)),
            tap: None,
        })
    }

    /// The same with a tap that is already open.
    pub(crate) fn handed_in(number: u8) -> Result<Self> {
        let links = Self::by_name(number)?;
        let tap = interface::open_tap(&net::tap(number)).context("Open the tap")?;
        rustix::io::fcntl_setfd(&tap, rustix::io::FdFlags::empty())?;
        Ok(Self {
            net: format!("fd={}", tap.as_raw_fd()),
            tap: Some(tap),
            ..links
        })
    }

    /// The same with another disk, as an argument of `--disk`.
    pub(crate) fn with_disk(self, disk: String) -> Self {
        Self { disk, ..self }
    }

    /// The same with a regular file of the same size instead of the drive.
    pub(crate) fn on_file(self, number: u8, path: &Path) -> Result<Self> {
        let bytes = File::open(drive(number))?.seek(SeekFrom::End(0))?;
        File::create(path)?.set_len(bytes)?;
        Ok(Self {
            disk: format!("path={}", path.display()),
            ..self
        })
    }

    /// `--net` for a resume, which finds devices that can be opened by name without it.
    pub(crate) fn net_for_resume(&self) -> Vec<String> {
        let net = self.tap.as_ref().map(|_| format!("--net={}", self.net));
        net.into_iter().collect()
    }
}

/// Guest `number`'s drive.
pub(crate) fn drive(number: u8) -> PathBuf {
    format!("/dev/vd{}", char::from(b'a' + number)).into()
}

/// Adds arguments for guest `number`'s drive and tap, and its kernel's command line, to a command
/// that starts a guest. It is one of `guests` guests on the host.
pub(crate) fn give(run: &mut Command, cmdline: &str, number: Option<u8>, guests: u8) -> Result<()> {
    let links = number.map(Links::by_name).transpose()?;
    give_links(run, cmdline, number.zip(links.as_ref()), guests);
    Ok(())
}

/// The same with given names of the disk and the card.
pub(crate) fn give_links(
    run: &mut Command,
    cmdline: &str,
    links: Option<(u8, &Links)>,
    guests: u8,
) {
    let mut cmdline = format!("{cmdline} {}={}", net::PACE_WORD, net::pace_among(guests));
    if let Some((number, links)) = links {
        run.arg(format!("--disk={}", links.disk));
        run.arg(format!("--net={}", links.net));
        cmdline += &format!(" {}={number}", net::GUEST_WORD);
    }
    run.arg("--cmdline").arg(cmdline);
}
