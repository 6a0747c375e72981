//! A card that the guest drove through an update: compares the guest's count of frames, the card's
//! registers as seen by the host, and the times at which the lab sent the frames.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use fdbox_lab::device::{CardRegisters, DESCRIPTOR_BYTES, FRAMES, Noted, RING_FRAMES};
use fdbox_lab::frame::Counted;
use fdbox_lab::witness::Report;
use serde::Serialize;

use super::device::{Evidence, Standstill, is_reset};
use crate::frames::{self, Sent};

/// Also part of the machine-readable report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Card {
    pub(crate) kind: &'static str,
    /// Which of the host's devices it is, according to the frames.
    #[serde(skip)]
    pub(crate) number: u8,
    /// Whether its registers, its bus mastering or a kernel's log show a reset after the first
    /// note.
    pub(crate) reset: bool,
    /// From the first frame that the guest counted to the last.
    pub(crate) frames_sent: u64,
    pub(crate) frames_received: u64,
    /// Frames sent during the blackout, or during the kexec if the guest was in a lifeboat.
    pub(crate) frames_during_blackout: u64,
    pub(crate) frames_lost: u64,
    pub(crate) frames_repeated: u64,
    pub(crate) frames_torn: u64,
}

/// Everything known about the card.
struct Seen<'a> {
    before: &'a Counted,
    after: &'a Counted,
    end: Counted,
    noted: Vec<Noted<CardRegisters>>,
    number: u8,
    sent: &'a Sent,
    standstill: Standstill,
    /// Frames that may have been sent but not taken by the device.
    most_on_the_way: u64,
}

/// The result; `None` for a guest without a card.
pub(super) fn of(
    evidence: &Evidence<'_>,
    (before, after): (&Report, &Report),
) -> Result<Option<Card>> {
    let (before, after) = match (&before.frames, &after.frames) {
        (None, None) => return Ok(None),
        (Some(before), Some(after)) => (before, after),
        _ => bail!("The guest's device is gone"),
    };
    let end: Option<Counted> = evidence.named(FRAMES)?.pop();
    let end = end.context("The guest was not asked for its frames in the end")?;
    let number = end.device.context("No frame came")?;
    let sent = evidence.record.frames.get(usize::from(number));
    let seen = Seen {
        before,
        after,
        end,
        noted: evidence.noted()?,
        number,
        sent: sent.context("Nothing was sent")?,
        standstill: evidence.standstill()?,
        most_on_the_way: frames::most_on_the_way()?,
    };
    seen.judge().map(Some)
}

impl Seen<'_> {
    fn judge(&self) -> Result<Card> {
        let (end, Standstill { from, to, .. }) = (&self.end, self.standstill);
        let (first, last) = end.first.zip(end.last).context("No frame came")?;
        let sent_then = |at: &&Duration| (from..to).contains(*at);
        let card = Card {
            kind: "e1000e",
            number: self.number,
            reset: is_reset(&self.noted, is_driven)?,
            frames_sent: last - first + 1,
            frames_received: end.received,
            frames_during_blackout: self.sent.0.iter().filter(sent_then).count() as u64,
            frames_lost: end.lost,
            frames_repeated: end.repeated,
            frames_torn: end.torn,
        };
        ensure!(
            !card.reset,
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
        // A device that does not write to memory holds back incoming frames, and soon blocks the
        // lab.
        ensure!(
            card.frames_during_blackout > self.most_on_the_way,
            "Only {} frames could be sent in the blackout",
            card.frames_during_blackout
        );
        Ok(card)
    }
}

fn is_driven(registers: &CardRegisters) -> bool {
    registers.rdlen == RING_FRAMES * DESCRIPTOR_BYTES && registers.rdbal != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(received: u64) -> Counted {
        Counted {
            device: Some(1),
            first: Some(3),
            last: Some(2 + received),
            received,
            ..Counted::default()
        }
    }

    fn noted(resets_logged: usize) -> Noted<CardRegisters> {
        Noted {
            registers: CardRegisters {
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

    fn standstill(from_seconds: u64) -> Standstill {
        let from = Duration::from_secs(from_seconds);
        Standstill {
            from,
            kernel: from + Duration::from_secs(1),
            to: from + Duration::from_secs(4),
        }
    }

    fn verdict(spoil: impl Fn(&mut Seen<'_>)) -> Result<Card> {
        let sent = Sent((0..2000).map(|n| Duration::from_millis(5 * n)).collect());
        let mut seen = Seen {
            before: &counted(100),
            after: &counted(1200),
            end: counted(1500),
            noted: vec![noted(1), noted(0), noted(0)],
            sent: &sent,
            number: 1,
            standstill: standstill(1),
            most_on_the_way: 12,
        };
        spoil(&mut seen);
        seen.judge()
    }

    #[test]
    fn a_good_one_passes() {
        let card = verdict(|_| {}).unwrap();
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
        assert_eq!(serde_json::to_value(card).unwrap(), expected);
    }

    #[test]
    fn each_way_to_go_wrong_is_caught() {
        let spoil: Vec<fn(&mut Seen<'_>)> = vec![
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
            |e| e.standstill = standstill(60),
        ];
        for (number, spoil) in spoil.iter().enumerate() {
            assert!(verdict(spoil).is_err(), "number {number} passed");
        }
    }
}
