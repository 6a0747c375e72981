//! A device that the guest drove through an update: the guest's count of what came, the host's look
//! at the device's registers, and when the lab sent what.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use fdbox_lab::device::{DESCRIPTOR_BYTES, FRAMES, NOTED, Noted, RING_FRAMES};
use fdbox_lab::frame::Counted;
use fdbox_lab::witness::Report;
use serde::Serialize;

use super::{Blackout, Resume};
use crate::frames::{self, Sent};
use crate::run::Record;

/// The phases of a blackout before the new kernel's clock starts.
const BEFORE_THE_KERNEL: [&str; 3] = ["pause", "save", "jump"];

/// What a machine reads of it, too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Device {
    pub(crate) kind: &'static str,
    /// Whether its registers, its bus mastering or a kernel's log tell of a reset after the first note.
    pub(crate) reset: bool,
    /// From the first that the guest counted to the last.
    pub(crate) frames_sent: u64,
    pub(crate) frames_received: u64,
    /// Sent while the guest stood still.
    pub(crate) frames_during_blackout: u64,
    pub(crate) frames_lost: u64,
    pub(crate) frames_repeated: u64,
    pub(crate) frames_torn: u64,
}

/// All that is known of it.
struct Evidence<'a> {
    before: &'a Counted,
    after: &'a Counted,
    end: Counted,
    noted: Vec<Noted>,
    sent: &'a Sent,
    /// When the guest stood still, by the lab's clock.
    blackout: (Duration, Duration),
    /// Frames that may have been sent and not taken by the device.
    most_on_the_way: u64,
}

/// What became of it with the last update of a record; `None` for a guest without a device.
pub(super) fn of(
    record: &Record,
    (before, after): (&Report, &Report),
    resume: &Resume,
    blackout: &Blackout,
) -> Result<Option<Device>> {
    let (before, after) = match (&before.frames, &after.frames) {
        (None, None) => return Ok(None),
        (Some(before), Some(after)) => (before, after),
        _ => bail!("The guest's device is gone"),
    };
    let named = |name| record.values.iter().filter(move |value| value.name == name);
    let end = named(FRAMES).next_back();
    let end = end.context("The guest was not asked for its frames in the end")?;
    let noted = named(NOTED).map(|value| serde_json::from_value(value.value.clone()));
    let evidence = Evidence {
        before,
        after,
        end: serde_json::from_value(end.value.clone())?,
        noted: noted.collect::<Result<_, _>>()?,
        sent: record.frames.first().context("Nothing was sent")?,
        blackout: when(record, resume, blackout)?,
        most_on_the_way: frames::most_on_the_way()?,
    };
    evidence.judge().map(Some)
}

/// When a blackout was, by the lab's clock: the VMM tells how long each phase took, and the first word of
/// the new kernel's init how long ago its clock started.
fn when(record: &Record, resume: &Resume, blackout: &Blackout) -> Result<(Duration, Duration)> {
    let mut hellos = record.hellos.iter();
    let hello = hellos.find(|(_, hello)| hello.boot_id == resume.host.boot_id);
    let (at, hello) = hello.context("The guest runs in a host that was not seen")?;
    let phases = blackout.phases.iter();
    let old: u64 = phases
        .filter(|phase| BEFORE_THE_KERNEL.contains(&phase.name.as_str()))
        .map(|phase| phase.ns)
        .sum();
    let start = at.saturating_sub(Duration::from_nanos(hello.uptime_ns + old));
    Ok((start, start + Duration::from_nanos(blackout.total_ns)))
}

impl Evidence<'_> {
    fn judge(&self) -> Result<Device> {
        let (end, (from, to)) = (&self.end, self.blackout);
        let (first, last) = end.first.zip(end.last).context("No frame came")?;
        let sent_then = |at: &&Duration| (from..to).contains(*at);
        let device = Device {
            kind: "e1000e",
            reset: self.is_reset()?,
            frames_sent: last - first + 1,
            frames_received: end.received,
            frames_during_blackout: self.sent.0.iter().filter(sent_then).count() as u64,
            frames_lost: end.lost,
            frames_repeated: end.repeated,
            frames_torn: end.torn,
        };
        ensure!(
            !device.reset,
            "The device was reset or switched off: {:?}",
            self.noted
        );
        ensure!(
            (end.lost, end.repeated, end.torn) == (0, 0, 0),
            "Not every frame came once and whole: {end:?}"
        );
        ensure!(
            self.before.first == Some(first)
                && self.before.received < self.after.received
                && self.after.received < end.received,
            "The guest's count does not go on: {:?}, {:?}, {end:?}",
            self.before,
            self.after
        );
        ensure!(
            last < self.sent.0.len() as u64 && self.sent.0[last as usize] > to,
            "The guest's last frame, {last}, is none that was sent after the blackout"
        );
        // A device that does not write to memory holds back what comes, and soon the lab as well.
        ensure!(
            device.frames_during_blackout > self.most_on_the_way,
            "Only {} frames could be sent in the blackout",
            device.frames_during_blackout
        );
        Ok(device)
    }

    /// A reset clears the registers that the driver sets once, and is logged by the kernel that does it.
    fn is_reset(&self) -> Result<bool> {
        let [before, others @ ..] = self.noted.as_slice() else {
            bail!("The device's registers were not read");
        };
        ensure!(
            others.len() == 2,
            "{} notes of the device",
            others.len() + 1
        );
        ensure!(
            before.registers.rdlen == RING_FRAMES * DESCRIPTOR_BYTES
                && before.registers.rdbal != 0
                && before.bus_master,
            "The guest's driver does not drive the device: {before:?}"
        );
        ensure!(
            before.resets_logged > 0,
            "A reset, as when the device is opened first, is not seen in the kernel's log"
        );
        let reset = |noted: &Noted| {
            noted.registers != before.registers || !noted.bus_master || noted.resets_logged > 0
        };
        Ok(others.iter().any(reset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fdbox_lab::device::Registers;

    fn counted(received: u64) -> Counted {
        Counted {
            first: Some(3),
            last: Some(2 + received),
            received,
            ..Counted::default()
        }
    }

    fn noted(resets_logged: usize) -> Noted {
        Noted {
            registers: Registers {
                rctl: 2,
                rdbal: 0x1000,
                rdbah: 0,
                rdlen: RING_FRAMES * DESCRIPTOR_BYTES,
                tdbal: 0x2000,
            },
            bus_master: true,
            resets_logged,
        }
    }

    fn verdict(spoil: impl Fn(&mut Evidence<'_>)) -> Result<Device> {
        let sent = Sent((0..2000).map(|n| Duration::from_millis(5 * n)).collect());
        let mut evidence = Evidence {
            before: &counted(100),
            after: &counted(1200),
            end: counted(1500),
            noted: vec![noted(1), noted(0), noted(0)],
            sent: &sent,
            blackout: (Duration::from_secs(1), Duration::from_secs(5)),
            most_on_the_way: 12,
        };
        spoil(&mut evidence);
        evidence.judge()
    }

    #[test]
    fn a_good_one_passes() {
        let device = verdict(|_| {}).unwrap();
        let expected = serde_json::json!({
            "kind": "e1000e",
            "reset": false,
            "frames_sent": 1500,
            "frames_received": 1500,
            "frames_during_blackout": 800,
            "frames_lost": 0,
            "frames_repeated": 0,
            "frames_torn": 0,
        });
        assert_eq!(serde_json::to_value(device).unwrap(), expected);
    }

    #[test]
    fn each_way_to_go_wrong_is_caught() {
        let spoil: Vec<fn(&mut Evidence<'_>)> = vec![
            |e| e.end.lost = 1,
            |e| e.end.repeated = 1,
            |e| e.end.torn = 1,
            |e| e.end.first = Some(4),
            |e| e.end.received = 1200,
            |e| e.end.last = Some(3000),
            |e| e.end.last = Some(700),
            |e| e.noted[1].registers.rdbal = 0,
            |e| e.noted[1].bus_master = false,
            |e| e.noted[1].resets_logged = 1,
            |e| e.noted[2].resets_logged = 1,
            |e| e.noted[2].registers.tdbal = 0x3000,
            |e| e.noted[0].resets_logged = 0,
            |e| {
                e.noted
                    .iter_mut()
                    .for_each(|noted| noted.registers.rdlen = 4096)
            },
            |e| e.noted.truncate(2),
            |e| e.most_on_the_way = 800,
            |e| e.blackout = (Duration::from_secs(60), Duration::from_secs(64)),
        ];
        for (number, spoil) in spoil.iter().enumerate() {
            assert!(verdict(spoil).is_err(), "number {number} passed");
        }
    }
}
