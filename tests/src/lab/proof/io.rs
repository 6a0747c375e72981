//! What a guest did with its disk and its network through an update: compares its own account, the
//! view from outside and the disk's image.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fdbox_lab::witness::{DiskIo, Io};
use serde_json::{Value, json};

use crate::drive::{self, Checked};
use crate::outside::Seen;
use crate::run::Record;

/// The complete results, after the work has ended.
#[derive(Debug, Clone)]
pub(crate) struct Traffic {
    pub(crate) guest: Io,
    pub(crate) outside: Seen,
    pub(crate) image: Checked,
}

/// The results in this record, each checked. Empty for guests without disk and network.
pub(crate) fn all(record: &Record) -> Result<Vec<Traffic>> {
    let ended = record
        .values
        .iter()
        .filter(|value| value.name.split(' ').next() == Some("io"));
    ended.map(|value| of(record, &value.value)).collect()
}

/// The guest's final report, combined with what is known from elsewhere.
pub(super) fn of(record: &Record, ended: &Value) -> Result<Traffic> {
    let guest: Io = serde_json::from_value(ended.clone())?;
    let outside = record.outside.get(usize::from(guest.guest)).cloned();
    let traffic = Traffic {
        outside: outside.context("The outside knows nothing of this guest")?,
        image: drive::check(&drive::image(&record.dir, guest.guest), &guest.disk)?,
        guest,
    };
    traffic.check()?;
    Ok(traffic)
}

/// Whether a guest continued to use both between two of its reports.
pub(super) fn went_on(before: &Io, after: &Io) -> Result<()> {
    let progress = [
        ("writes to its disk", before.disk.writes, after.disk.writes),
        ("bytes sent", before.tcp.sent, after.tcp.sent),
        ("bytes received", before.tcp.received, after.tcp.received),
    ];
    for (what, before, after) in progress {
        ensure!(
            0 < before && before < after,
            "The guest does not go on: {before} {what} before, {after} after"
        );
    }
    Ok(())
}

/// Compares a guest's account of a disk with the disk's image.
pub(super) fn check_disk(disk: &DiskIo, image: &Checked) -> Result<()> {
    ensure!(
        disk.bad == 0,
        "{} times the guest's disk was wrong: {:?}",
        disk.bad,
        disk.examples
    );
    ensure!(
        disk.writes > 0 && disk.flushes > 0 && disk.verified > 0,
        "The guest did not use its disk: {disk:?}"
    );
    ensure!(
        image.bad == 0 && image.blocks > 0,
        "{} of {} blocks in the disk's image are bad: {:?}",
        image.bad,
        image.blocks,
        image.examples
    );
    Ok(())
}

impl Traffic {
    fn check(&self) -> Result<()> {
        let tcp = &self.guest.tcp;
        check_disk(&self.guest.disk, &self.image)?;
        let outside = &self.outside.tcp;
        ensure!(
            outside.connected && !self.is_reset(),
            "The connection was lost: the guest says {:?}, the outside {outside:?}",
            tcp.error
        );
        ensure!(
            outside.ended && tcp.ended,
            "The connection did not end in good order: guest {tcp:?}, outside {outside:?}"
        );
        ensure!(
            self.bytes_lost() == 0 && self.bytes_repeated() == 0,
            "{} bytes were lost and {} came twice: guest {tcp:?}, outside {outside:?}",
            self.bytes_lost(),
            self.bytes_repeated()
        );
        ensure!(
            self.outside.ping.answered > 0,
            "The guest answered no echo request"
        );
        Ok(())
    }

    pub(crate) fn is_reset(&self) -> bool {
        self.outside.tcp.reset || self.guest.tcp.error.is_some()
    }

    /// Both directions together, as in the other counts.
    pub(crate) fn bytes_sent(&self) -> u64 {
        self.guest.tcp.sent + self.outside.tcp.sent
    }

    /// Data that was skipped, or that never arrived.
    pub(crate) fn bytes_lost(&self) -> u64 {
        let (guest, outside) = (&self.guest.tcp, &self.outside.tcp);
        let never_came =
            guest.sent.abs_diff(outside.received) + outside.sent.abs_diff(guest.received);
        guest.lost + outside.lost + never_came
    }

    pub(crate) fn bytes_repeated(&self) -> u64 {
        self.guest.tcp.repeated + self.outside.tcp.repeated
    }

    /// Adds the machine-readable form, as members `disk`, `tcp` and `ping` of a guest.
    pub(crate) fn describe(&self, guest: &mut Value) {
        let (disk, ping) = (&self.guest.disk, &self.outside.ping);
        guest["disk"] = json!({
            "writes": disk.writes,
            "flushes": disk.flushes,
            "verified": disk.verified + self.image.blocks,
            "bad": disk.bad + self.image.bad,
            "image_blocks": self.image.blocks,
            "image_bad": self.image.bad,
        });
        guest["tcp"] = json!({
            "reset": self.is_reset(),
            "bytes_sent": self.bytes_sent(),
            "bytes_to_guest": self.outside.tcp.sent,
            "bytes_from_guest": self.guest.tcp.sent,
            "bytes_lost": self.bytes_lost(),
            "bytes_repeated": self.bytes_repeated(),
            "largest_gap_ns": nanos(self.outside.tcp.largest_gap),
        });
        guest["ping"] = json!({
            "sent": ping.sent,
            "answered": ping.answered,
            "largest_gap_ns": nanos(ping.largest_gap),
        });
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
pub(super) use tests::good as sample;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outside::{Pinged, Talked};
    use fdbox_lab::witness::TcpIo;

    pub(in super::super) fn good() -> Traffic {
        Traffic {
            guest: Io {
                guest: 0,
                disk: DiskIo {
                    seed: 1,
                    writes: 100,
                    flushes: 12,
                    verified: 150,
                    ..DiskIo::default()
                },
                tcp: TcpIo {
                    sent: 512,
                    received: 256,
                    ended: true,
                    ..TcpIo::default()
                },
            },
            outside: Seen {
                tcp: Talked {
                    connected: true,
                    sent: 256,
                    received: 512,
                    ended: true,
                    ..Talked::default()
                },
                ping: Pinged {
                    sent: 9,
                    answered: 8,
                    largest_gap: Duration::from_secs(1),
                },
            },
            image: Checked {
                blocks: 100,
                bad: 0,
                examples: Vec::new(),
            },
        }
    }

    #[test]
    fn a_good_one_passes() {
        good().check().unwrap();
        let mut guest = json!({});
        good().describe(&mut guest);
        assert_eq!(guest["disk"]["verified"], 250);
        assert_eq!(guest["tcp"]["bytes_sent"], 768);
        assert_eq!(guest["tcp"]["reset"], false);
    }

    #[test]
    fn each_way_to_go_wrong_is_caught() {
        let spoil: Vec<fn(&mut Traffic)> = vec![
            |t| t.guest.disk.bad = 1,
            |t| t.guest.disk.writes = 0,
            |t| t.guest.disk.flushes = 0,
            |t| t.image.bad = 1,
            |t| t.image.blocks = 0,
            |t| t.outside.tcp.connected = false,
            |t| t.outside.tcp.reset = true,
            |t| t.guest.tcp.error = Some("Connection reset by peer".into()),
            |t| t.outside.tcp.ended = false,
            |t| t.guest.tcp.ended = false,
            |t| t.outside.tcp.lost = 8,
            |t| t.guest.tcp.repeated = 8,
            |t| t.outside.tcp.received = 511,
            |t| t.guest.tcp.received = 255,
            |t| t.outside.ping.answered = 0,
        ];
        for (number, spoil) in spoil.iter().enumerate() {
            let mut traffic = good();
            spoil(&mut traffic);
            assert!(traffic.check().is_err(), "number {number} passed");
        }
    }

    #[test]
    fn a_guest_that_stands_still_does_not_go_on() {
        let before = good().guest;
        let mut after = before.clone();
        assert!(went_on(&before, &after).is_err());
        after.disk.writes += 1;
        after.tcp.sent += 1;
        assert!(went_on(&before, &after).is_err());
        after.tcp.received += 1;
        went_on(&before, &after).unwrap();
    }
}
