//! An NVMe drive that the guest drove through an update: compares the guest's account of its
//! writes, the drive's image, the times at which the writes reached it, and the drive's registers
//! as seen by the host.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use fdbox_lab::device::{NVME, NVME_DEPTH, Noted, NvmeRegisters};
use fdbox_lab::witness::NvmeIo;
use serde::Serialize;

use super::device::{Evidence, Standstill, is_reset};
use super::io::check_disk;
use crate::drive::{self, Checked};
use crate::landings::Landed;

/// Also part of the machine-readable report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Nvme {
    pub(crate) kind: &'static str,
    /// Whether its registers, its bus mastering or a kernel's log show a reset after the first
    /// note.
    pub(crate) reset: bool,
    /// Blocks that the guest wrote.
    pub(crate) writes: u64,
    /// Blocks that were compared, by the guest and in the image.
    pub(crate) verified: u64,
    /// Blocks that were not as written, and requests that failed.
    pub(crate) bad: u64,
    /// Writes that were in flight when the guest was stopped.
    pub(crate) in_flight: u64,
    /// Those of them that reached the image during the blackout.
    pub(crate) written_during_blackout: u64,
    /// Those of them that reached it after the new kernel had started.
    pub(crate) written_under_the_new_kernel: u64,
    /// All writes that reached it during the kexec, of a guest that was in a lifeboat.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) written_during_kexec: Option<u64>,
}

/// Everything known about the drive.
struct Seen<'a> {
    before: NvmeIo,
    after: NvmeIo,
    end: NvmeIo,
    noted: Vec<Noted<NvmeRegisters>>,
    image: Checked,
    landed: &'a Landed,
    standstill: Standstill,
    was_in_lifeboat: bool,
}

/// The result; `None` for a guest without such a drive.
pub(super) fn of(evidence: &Evidence<'_>) -> Result<Option<Nvme>> {
    let mut reports = evidence.named(NVME)?.into_iter();
    let (before, after, end) = match (
        reports.next(),
        reports.next(),
        reports.next(),
        reports.next(),
    ) {
        (None, ..) => return Ok(None),
        (Some(before), Some(after), Some(end), None) => (before, after, end),
        _ => bail!("The guest was to be asked three times for what it does with its drive"),
    };
    let end: NvmeIo = end;
    let image = drive::nvme_image(&evidence.record.dir);
    let seen = Seen {
        before,
        after,
        image: drive::check(&image, &end.disk)?,
        end,
        noted: evidence.noted()?,
        landed: &evidence.record.landed,
        standstill: evidence.standstill()?,
        was_in_lifeboat: evidence.resume.lifeboat.is_some(),
    };
    seen.judge().map(Some)
}

impl Seen<'_> {
    fn judge(&self) -> Result<Nvme> {
        let (disk, Standstill { from, kernel, to }) = (&self.end.disk, self.standstill);
        let nvme = Nvme {
            kind: "nvme",
            reset: is_reset(&self.noted, is_driven)?,
            writes: disk.writes,
            verified: disk.verified + self.image.blocks,
            bad: disk.bad + self.image.bad,
            in_flight: self.end.in_flight.len() as u64,
            written_during_blackout: self.landed_between(from, to),
            written_under_the_new_kernel: self.landed_between(kernel, to),
            written_during_kexec: self.was_in_lifeboat.then(|| self.all_between(from, to)),
        };
        ensure!(
            !nvme.reset,
            "The drive was reset or switched off: {:?}",
            self.noted
        );
        check_disk(disk, &self.image)?;
        ensure!(
            0 < self.before.disk.writes
                && self.before.disk.writes < self.after.disk.writes
                && self.after.disk.writes < disk.writes,
            "The guest does not go on writing: {:?}, {:?}, {disk:?}",
            self.before.disk,
            self.after.disk
        );
        if let Some(written) = nvme.written_during_kexec {
            // More than were in flight: the guest's driver has used the drive meanwhile.
            ensure!(
                written > u64::from(NVME_DEPTH),
                "No more than {written} writes came to the image during the kexec, from {from:?} to {to:?}"
            );
            return Ok(nvme);
        }
        ensure!(
            nvme.in_flight > 1,
            "The guest had no more than {} writes in flight when it was stopped",
            nvme.in_flight
        );
        // They were in flight at the jump, and the drive continued with them while no kernel
        // controlled it.
        ensure!(
            nvme.written_under_the_new_kernel > 1,
            "Of the writes in flight no more than {} came to the image between {kernel:?}, when the new kernel began, \
             and {to:?}, when the guest went on. When each did: {:?}",
            nvme.written_under_the_new_kernel,
            self.arrivals()
        );
        Ok(nvme)
    }

    /// How many of the writes in flight reached the image in this period.
    fn landed_between(&self, from: Duration, to: Duration) -> u64 {
        let arrivals = self.arrivals().into_iter();
        arrivals.filter(|(_, at)| (from..to).contains(at)).count() as u64
    }

    /// How many writes reached the image in this period.
    fn all_between(&self, from: Duration, to: Duration) -> u64 {
        let landed = self.landed.0.values();
        landed.filter(|at| (from..to).contains(at)).count() as u64
    }

    /// When each of the writes in flight reached the image.
    fn arrivals(&self) -> Vec<(u64, Duration)> {
        let numbers = self.end.in_flight.iter();
        let seen = numbers.filter_map(|number| Some((*number, *self.landed.0.get(number)?)));
        seen.collect()
    }
}

/// Enabled and ready, with admin queues configured.
fn is_driven(registers: &NvmeRegisters) -> bool {
    registers.cc & registers.csts & 1 == 1
        && registers.aqa != 0
        && registers.asq != 0
        && registers.acq != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use fdbox_lab::witness::DiskIo;

    fn reports(writes: u64, in_flight: &[u64]) -> NvmeIo {
        NvmeIo {
            disk: DiskIo {
                seed: 1,
                writes,
                flushes: 3,
                verified: 50,
                ..DiskIo::default()
            },
            in_flight: in_flight.to_vec(),
        }
    }

    fn noted(resets_logged: usize) -> Noted<NvmeRegisters> {
        Noted {
            registers: NvmeRegisters {
                cc: 0x46_0001,
                csts: 1,
                aqa: 0x1f_001f,
                asq: 0x10_0000,
                acq: 0x10_1000,
            },
            bus_master: true,
            resets_logged,
        }
    }

    /// The guest was paused for four seconds from second 10 on, and a write landed every second.
    fn verdict(spoil: impl Fn(&mut Seen<'_>)) -> Result<Nvme> {
        let landed = (1..=30).map(|number| (number, Duration::from_millis(1000 * number + 500)));
        verdict_of(&Landed(landed.collect()), spoil)
    }

    /// The same with writes that landed at these times.
    fn verdict_of(landed: &Landed, spoil: impl Fn(&mut Seen<'_>)) -> Result<Nvme> {
        let mut seen = Seen {
            before: reports(5, &[]),
            after: reports(15, &[9, 10]),
            end: reports(30, &[9, 10, 11, 12, 13, 14]),
            noted: vec![noted(1), noted(0), noted(0)],
            image: Checked {
                blocks: 30,
                bad: 0,
                examples: Vec::new(),
            },
            landed,
            standstill: Standstill {
                from: Duration::from_secs(10),
                kernel: Duration::from_secs(11),
                to: Duration::from_secs(14),
            },
            was_in_lifeboat: false,
        };
        spoil(&mut seen);
        seen.judge()
    }

    #[test]
    fn a_good_one_passes() {
        let expected = Nvme {
            kind: "nvme",
            reset: false,
            writes: 30,
            verified: 80,
            bad: 0,
            in_flight: 6,
            written_during_blackout: 4,
            written_under_the_new_kernel: 3,
            written_during_kexec: None,
        };
        assert_eq!(verdict(|_| {}).unwrap(), expected);
    }

    #[test]
    fn in_a_lifeboat_more_is_written_than_was_in_flight() {
        let depth = u64::from(NVME_DEPTH);
        let of = |writes: u64| {
            let landed = (1..=writes).map(|number| (number, Duration::from_secs(12)));
            verdict_of(&Landed(landed.collect()), |seen| {
                seen.was_in_lifeboat = true;
                seen.end.in_flight.clear();
            })
        };
        let nvme = of(depth + 1).unwrap();
        assert_eq!(nvme.written_during_kexec, Some(depth + 1));
        let error = of(depth).unwrap_err().to_string();
        assert!(error.contains("No more than 64 writes"), "{error}");
    }

    #[test]
    fn each_way_to_go_wrong_is_caught() {
        let spoil: Vec<fn(&mut Seen<'_>)> = vec![
            |s| s.end.disk.bad = 1,
            |s| s.end.disk.verified = 0,
            |s| s.image.bad = 1,
            |s| s.image.blocks = 0,
            |s| s.before.disk.writes = 0,
            |s| s.after.disk.writes = 5,
            |s| s.end.disk.writes = 15,
            |s| s.end.in_flight.clear(),
            |s| s.end.in_flight = vec![8, 9],
            |s| s.standstill.kernel = Duration::from_secs(13),
            |s| s.noted[1].registers.cc = 0,
            |s| s.noted[1].registers.asq = 0,
            |s| s.noted[1].bus_master = false,
            |s| s.noted[1].resets_logged = 1,
            |s| s.noted[2].registers.csts = 3,
            |s| s.noted[0].registers.csts = 0,
            |s| s.noted[0].resets_logged = 0,
            |s| s.noted.truncate(2),
        ];
        for (number, spoil) in spoil.iter().enumerate() {
            assert!(verdict(spoil).is_err(), "number {number} passed");
        }
    }
}
