//! A guest's way to the lifeboat and back, as far as it has come. Only for reports.

use serde::{Deserialize, Serialize};
use vmm_fdbox::Clock;
use vmm_fdbox::frame::{Frame, FrameError, FrameWriter, KnownSection, Need};
use vmm_fdbox::timeline::{Report, Timeline, phase};

const JOURNEY: &str = "lifeboat";

pub(super) const JOURNEY_V1: KnownSection = KnownSection::new(JOURNEY, 1, 1);

/// Where a guest can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum PlaceV1 {
    Host,
    Lifeboat,
}

/// A move from one VMM to another, version 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HandoverV1 {
    pub(crate) from: PlaceV1,
    pub(crate) to: PlaceV1,
    /// From the stop of its vCPUs to the first that ran.
    pub(crate) stop_to_run_ns: u64,
    /// The same by phase.
    #[serde(default)]
    pub(crate) phases: Vec<PhaseV1>,
}

/// A part of a move, version 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PhaseV1 {
    pub(crate) name: String,
    pub(crate) ns: u64,
}

impl HandoverV1 {
    fn new(from: PlaceV1, to: PlaceV1, moved: Report) -> Self {
        let phases = moved.phases.into_iter();
        Self {
            from,
            to,
            stop_to_run_ns: moved.total_ns,
            phases: phases
                .map(|phase| PhaseV1 {
                    name: phase.name,
                    ns: phase.ns,
                })
                .collect(),
        }
    }
}

/// What a lifeboat tells of a guest that it has had, version 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct JourneyV1 {
    pub(crate) handovers: Vec<HandoverV1>,
    /// When the guest was stopped in the host, by the time stamp counter.
    pub(crate) left_at_tsc: u64,
    /// The CPU time of its VMM in the lifeboat, nearly all of it in the guest.
    pub(crate) cpu_time_ns: u64,
}

/// The whole of it, in the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LifeboatReport {
    pub(crate) handovers: Vec<HandoverV1>,
    /// From the stop in the old host to the run in the new one: its devices rested meanwhile.
    pub(crate) io_gap_ns: u64,
    pub(crate) vcpu_time_in_boat_ns: u64,
}

impl JourneyV1 {
    /// In the lifeboat. `None`: the old host's marks could not be read.
    pub(crate) fn begun(timeline: &Timeline) -> Option<Self> {
        let moved = timeline.report().ok()?;
        Some(Self {
            handovers: vec![HandoverV1::new(PlaceV1::Host, PlaceV1::Lifeboat, moved)],
            left_at_tsc: last(timeline, phase::PAUSE)?,
            cpu_time_ns: 0,
        })
    }

    /// In the host.
    pub(crate) fn ended(mut self, timeline: &Timeline) -> Option<LifeboatReport> {
        let moved = timeline.report().ok()?;
        let home = HandoverV1::new(PlaceV1::Lifeboat, PlaceV1::Host, moved);
        self.handovers.push(home);
        let ran = last(timeline, phase::RUNNING)?;
        Some(LifeboatReport {
            handovers: self.handovers,
            io_gap_ns: Clock::tsc(timeline.khz()).to_ns(ran.checked_sub(self.left_at_tsc)?),
            vcpu_time_in_boat_ns: self.cpu_time_ns,
        })
    }
}

/// The last mark of this name.
fn last(timeline: &Timeline, name: &str) -> Option<u64> {
    let mark = timeline.marks().iter().rfind(|mark| mark.name == name);
    Some(mark?.ticks)
}

/// Adds what a lifeboat tells.
pub(crate) fn write_journey(
    frame: &mut FrameWriter<'_>,
    journey: &JourneyV1,
) -> Result<(), FrameError> {
    frame.add(JOURNEY, 1, Need::Optional, journey)
}

/// Reads it; a report is all that suffers if that is not possible.
pub(crate) fn journey<B: AsRef<[u8]>>(frame: &Frame<B>) -> Option<JourneyV1> {
    frame.read_optional(JOURNEY_V1).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    fn moved(stopped: u64, ran: u64) -> Timeline {
        let mut timeline = Timeline::new(NonZeroU32::new(1_000_000).unwrap());
        timeline.mark(phase::PAUSE, stopped).unwrap();
        timeline.mark(phase::SAVE, stopped + 400).unwrap();
        timeline.mark(phase::RUNNING, ran).unwrap();
        timeline
    }

    #[test]
    fn both_moves_and_the_time_between_are_reported() {
        let mut journey = JourneyV1::begun(&moved(1_000, 4_000)).unwrap();
        journey.cpu_time_ns = 70;
        let mut buffer = vec![0; 4096];
        let mut frame = FrameWriter::new(&mut buffer, "test 1").unwrap();
        write_journey(&mut frame, &journey).unwrap();
        let bytes = frame.finish().unwrap();
        let read = super::journey(&Frame::parse(&buffer[..bytes]).unwrap()).unwrap();
        assert_eq!(read, journey);
        let report = read.ended(&moved(50_000, 52_000)).unwrap();
        let moves: Vec<_> = report
            .handovers
            .iter()
            .map(|it| (it.from, it.to, it.stop_to_run_ns))
            .collect();
        assert_eq!(
            moves,
            [
                (PlaceV1::Host, PlaceV1::Lifeboat, 3_000),
                (PlaceV1::Lifeboat, PlaceV1::Host, 2_000)
            ]
        );
        let phases: Vec<_> = report
            .handovers
            .iter()
            .map(|it| {
                it.phases
                    .iter()
                    .map(|phase| (&*phase.name, phase.ns))
                    .collect::<Vec<_>>()
            })
            .collect();
        let expected: [Vec<_>; 2] = [
            vec![("pause", 400), ("save", 2_600)],
            vec![("pause", 400), ("save", 1_600)],
        ];
        assert_eq!(phases, expected);
        assert_eq!(
            (report.io_gap_ns, report.vcpu_time_in_boat_ns),
            (51_000, 70)
        );
    }

    #[test]
    fn marks_that_are_missing_are_no_journey() {
        assert_eq!(JourneyV1::begun(&Timeline::new(NonZeroU32::MIN)), None);
    }
}
