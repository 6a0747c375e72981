//! A frame of each format that was ever released can still be read, and the current format is still
//! written byte for byte.
//!
//! A new format gets a file of its own next to the old ones. To write it: `cargo test -p vmm-fdbox
//! --test golden -- --ignored`.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use vmm_fdbox::frame::{Frame, FrameWriter, KnownSection, Need, Opaque};
use vmm_fdbox::timeline::{Timeline, phase};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Vcpu {
    id: u32,
    tsc_offset: i64,
    regs: Opaque,
    msrs: Vec<(u32, u64)>,
    nested: Option<Opaque>,
}

fn vcpu() -> Vcpu {
    Vcpu {
        id: 1,
        tsc_offset: -123_456_789,
        regs: Opaque((0..=255).collect()),
        msrs: vec![(0x10, u64::MAX), (0x1b, 0xfee0_0900)],
        nested: None,
    }
}

fn frame() -> Vec<u8> {
    let mut buffer = vec![0; 4096];
    let mut writer = FrameWriter::new(&mut buffer, "golden 1.0")
        .expect("room for a header")
        .architecture("x86_64")
        .generation(1);
    writer
        .add("vcpu/1", 3, Need::Required, &vcpu())
        .expect("a vCPU");
    writer
        .add_bytes("serial", 1, Need::Optional, b"\x01\x02\x03")
        .expect("a serial port");
    let size = writer.finish().expect("a table");
    buffer.truncate(size);
    buffer
}

fn timeline() -> Vec<u8> {
    let mut timeline = Timeline::new(NonZeroU32::new(2_400_000).expect("not 0"));
    for (name, ticks) in [
        (phase::PAUSE, 1_000),
        (phase::JUMP, 2_000),
        (phase::RUNNING, 2_402_000),
    ] {
        timeline.mark(name, ticks).expect("room for a mark");
    }
    timeline.encode().to_vec()
}

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

fn golden(name: &str) -> Vec<u8> {
    std::fs::read(path(name)).expect("read the golden file")
}

#[test]
#[ignore = "writes what the other tests compare with"]
fn write() {
    std::fs::write(path("frame-1.0.bin"), frame()).expect("write the frame");
    std::fs::write(path("timeline-1.bin"), timeline()).expect("write the timeline");
}

#[test]
fn frame_1_0_is_still_written() {
    assert_eq!(golden("frame-1.0.bin"), frame());
}

#[test]
fn frame_1_0_still_reads() {
    let frame = Frame::parse(golden("frame-1.0.bin")).expect("a frame");
    assert_eq!(
        (frame.producer(), frame.architecture()),
        ("golden 1.0", "x86_64")
    );
    assert_eq!((frame.format(), frame.generation()), ((1, 0), 1));
    assert_eq!(frame.version("vcpu/1"), Some(3));
    assert_eq!(frame.read::<Vcpu>("vcpu/1").expect("a vCPU"), vcpu());
    assert_eq!(frame.payload("serial"), Some(&[1, 2, 3][..]));
    if cfg!(target_arch = "x86_64") {
        assert!(frame.check(&[KnownSection::new("vcpu/1", 3, 3)]).is_ok());
    }
}

#[test]
fn timeline_1_is_still_written() {
    assert_eq!(golden("timeline-1.bin"), timeline());
}

#[test]
fn timeline_1_still_reads() {
    let timeline = Timeline::decode(&golden("timeline-1.bin")).expect("a timeline");
    let report = timeline.report().expect("a report");
    assert_eq!(report.total_ns, 1_000_416);
    assert_eq!(report.phases.len(), 2);
}
