//! The sections: round trips, and a frame written by an earlier version.

use super::*;
use crate::devices::vfio::sample;

/// [`two_devices`] as written by version 0.1.0.
const GOLDEN_V1: &[u8] = include_bytes!("golden-v1.bin");

/// A bus with two devices. Never change it: add another one.
pub(crate) fn two_devices() -> PciState {
    PciState {
        bus: PciBusStateV1 {
            config_address: 0x8000_0810,
            ioas_id: 1,
        },
        devices: vec![sample(0, "0000:01:00.0"), sample(3, "abcd:ef:1f.7")],
    }
}

fn encode(state: &PciState) -> Vec<u8> {
    let mut buffer = vec![0; 64 << 10];
    let mut frame = FrameWriter::new(&mut buffer, "vmm-example test").unwrap();
    write(state, &mut frame).unwrap();
    let len = frame.finish().unwrap();
    buffer.truncate(len);
    buffer
}

#[test]
fn bus_and_devices_have_sections_that_are_read_again() {
    let bytes = encode(&two_devices());
    let frame = Frame::parse(bytes.as_slice()).unwrap();
    assert!(frame.check(&known()).is_ok());
    let refused = frame.check(&[]);
    assert!(refused.is_err(), "a reader without devices takes it");
    assert_eq!(read(&frame).unwrap(), Some(two_devices()));
}

#[test]
fn the_devices_of_version_0_1_0_are_read() {
    let frame = Frame::parse(GOLDEN_V1).unwrap();
    assert!(frame.check(&known()).is_ok());
    assert_eq!(read(&frame).unwrap(), Some(two_devices()));
    assert_eq!(encode(&two_devices()), GOLDEN_V1);
}

/// Writes the golden file. Only for a new file: those of releases must not change.
#[test]
#[ignore = "writes a file into the source tree"]
fn write_golden() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/pci/state/golden-v1.bin");
    std::fs::write(path, encode(&two_devices())).unwrap();
}

#[test]
fn sections_are_named_as_they_are_written() {
    let bytes = encode(&two_devices());
    let frame = Frame::parse(bytes.as_slice()).unwrap();
    let written: Vec<_> = frame.sections().map(|section| section.name).collect();
    assert_eq!(written, sections(2).collect::<Vec<_>>());
    assert!(sections(MAX_DEVICES).all(|name| known().iter().any(|known| known.name == name)));
}

#[test]
fn a_guest_without_a_bus_has_none() {
    let mut buffer = vec![0; 4096];
    let frame = FrameWriter::new(&mut buffer, "test").unwrap();
    let len = frame.finish().unwrap();
    let frame = Frame::parse(&buffer[..len]).unwrap();
    assert_eq!(read(&frame).unwrap(), None);
}

#[test]
fn the_largest_devices_fit() {
    let mut largest = sample(0, "0000:01:00.0");
    largest.grow_to(2048);
    let state = PciState {
        devices: vec![largest; MAX_DEVICES],
        ..two_devices()
    };
    let vectors = state.devices.iter().map(|_| 2048);
    let mut buffer = vec![0; capacity(vectors)];
    let mut frame = FrameWriter::new(&mut buffer, "test").unwrap();
    write(&state, &mut frame).unwrap();
    assert!(frame.finish().is_ok());
}

#[test]
fn devices_without_a_bus_are_refused() {
    let mut buffer = vec![0; 64 << 10];
    let mut frame = FrameWriter::new(&mut buffer, "test").unwrap();
    let device = sample(3, "0000:01:00.0");
    frame
        .add("vfio3", VERSION, Need::Required, &device)
        .unwrap();
    let len = frame.finish().unwrap();
    let frame = Frame::parse(&buffer[..len]).unwrap();
    let error = read(&frame).unwrap_err();
    assert!(matches!(error, FrameError::MissingSection { name } if name == BUS));
}
