use super::*;

fn khz() -> NonZeroU32 {
    NonZeroU32::new(1_000_000).unwrap()
}

fn sample() -> Timeline {
    let mut timeline = Timeline::new(khz());
    for (name, ticks) in [
        (phase::PREPARE, 10),
        (phase::PAUSE, 100),
        (phase::JUMP, 110),
        (phase::TAKE_OUT, 400),
        (phase::KERNEL, 200),
        (phase::RUNNING, 500),
    ] {
        timeline.mark(name, ticks).unwrap();
    }
    timeline
}

fn named(phases: &[Phase]) -> Vec<(&str, u64)> {
    phases
        .iter()
        .map(|phase| (phase.name.as_str(), phase.ns))
        .collect()
}

#[test]
fn late_marks_fall_into_place() {
    let report = Timeline::decode(&sample().encode())
        .unwrap()
        .report()
        .unwrap();
    assert_eq!(report.total_ns, 400);
    assert_eq!(
        named(&report.phases),
        [
            ("pause", 10),
            ("jump", 90),
            ("kernel-boot", 200),
            ("take-out", 100)
        ]
    );
    assert_eq!(named(&report.before), [("prepare", 90)]);
}

#[test]
fn a_torn_mark_is_left_out() {
    let mut page = sample().encode();
    page[HEADER_BYTES + MARK_BYTES + 25] ^= 1;
    let timeline = Timeline::decode(&page).unwrap();
    assert_eq!(timeline.marks().len(), 5);
    let name = phase::PAUSE.to_owned();
    assert_eq!(timeline.report(), Err(TimelineError::MissingMark { name }));
}

#[test]
fn any_corruption_is_survived() {
    let page = sample().encode();
    for at in 0..HEADER_BYTES + 7 * MARK_BYTES {
        let mut page = page;
        page[at] ^= 0xff;
        let _ = Timeline::decode(&page).map(|timeline| timeline.report());
    }
    for length in 0..TIMELINE_BYTES {
        assert!(Timeline::decode(&page[..length]).is_err());
    }
}

#[test]
fn a_counter_that_went_back_is_reported() {
    let mut timeline = Timeline::new(khz());
    timeline.mark(phase::PAUSE, 100).unwrap();
    timeline.mark(phase::RUNNING, 99).unwrap();
    assert_eq!(timeline.report(), Err(TimelineError::CounterReset));
}

#[test]
fn capacity_and_names_are_checked() {
    let mut timeline = Timeline::new(khz());
    assert!(matches!(
        timeline.mark("", 0),
        Err(TimelineError::BadName { .. })
    ));
    assert!(matches!(
        timeline.mark("a b", 0),
        Err(TimelineError::BadName { .. })
    ));
    assert!(timeline.mark(&"x".repeat(20), 0).is_ok());
    assert!(matches!(
        timeline.mark(&"x".repeat(21), 0),
        Err(TimelineError::BadName { .. })
    ));
    for ticks in 1..MAX_MARKS as u64 {
        timeline.mark("x", ticks).unwrap();
    }
    assert_eq!(timeline.mark("x", 0), Err(TimelineError::Full));
    assert_eq!(Timeline::decode(&timeline.encode()).unwrap(), timeline);
}

#[test]
fn fuzz_timeline() {
    crate::fuzz::run("timeline", &[&sample().encode()], |input| {
        let mut page = input.to_vec();
        page.resize(TIMELINE_BYTES.max(page.len()), 0);
        // The checksums that its marks should have.
        for slot in page[HEADER_BYTES..].chunks_exact_mut(MARK_BYTES) {
            let checksum = mark_checksum(slot);
            slot[20..24].copy_from_slice(&checksum.to_le_bytes());
        }
        for bytes in [input, &page] {
            if let Ok(timeline) = Timeline::decode(bytes) {
                let _ = timeline.report();
                assert_eq!(
                    Timeline::decode(&timeline.encode()).unwrap().marks(),
                    timeline.marks()
                );
            }
        }
    });
}
