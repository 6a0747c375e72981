//! The sections: round trips, and a frame written by an earlier version.

use virtio_queue::QueueT;

use super::*;
use crate::devices::virtio::device_state::{
    BlockStateV1, ConsoleDeviceStateV1, ConsoleTarget, IoMode, NetStateV1, RngStateV1, TapSource,
    VsockStateV1,
};
use crate::devices::virtio::{VirtioError, reopen};
use crate::socket::Ownership;

/// [`every_device`] as written by version 0.1.0.
const GOLDEN_V1: &[u8] = include_bytes!("golden-v1.bin");

/// One device of each kind. Never change it: add another one.
pub(crate) fn every_device() -> Vec<VirtioStateV1> {
    let devices = [
        DeviceStateV1::Block(BlockStateV1 {
            path: "/dev/vda".into(),
            readonly: false,
            sectors: 2048,
            id: "fdbox-disk0".into(),
            direct: false,
            io: IoMode::Auto,
        }),
        DeviceStateV1::Block(BlockStateV1 {
            path: "/images/readonly".into(),
            readonly: true,
            sectors: 7,
            id: "fdbox-disk1".into(),
            direct: false,
            io: IoMode::Auto,
        }),
        DeviceStateV1::Net(NetStateV1 {
            tap: TapSource::Name("tap0".into()),
            mac: [2, 3, 4, 5, 6, 7],
            tap_mac: Some([6, 5, 4, 3, 2, 1]),
            waiting: vec![9; 100],
        }),
        DeviceStateV1::Net(NetStateV1 {
            tap: TapSource::Descriptor,
            mac: [2, 8, 8, 8, 8, 8],
            tap_mac: None,
            waiting: Vec::new(),
        }),
        DeviceStateV1::Console(ConsoleDeviceStateV1 {
            target: ConsoleTarget::Socket("/run/hvc".into()),
        }),
        DeviceStateV1::Rng(RngStateV1 {}),
        DeviceStateV1::Vsock(VsockStateV1 {
            cid: 3,
            socket: "/run/v".into(),
            reset_due: true,
        }),
    ];
    (0..)
        .zip(devices)
        .map(|(slot, device)| sample(slot, device))
        .collect()
}

fn sample(slot: u8, device: DeviceStateV1) -> VirtioStateV1 {
    let queue = |index: u16| QueueStateV1 {
        max_size: 256,
        size: 128,
        ready: true,
        desc_table: 0x1000 + u64::from(index),
        avail_ring: 0x2000,
        used_ring: 0x3000,
        next_avail: 40_000,
        next_used: 39_999,
        event_idx: true,
    };
    VirtioStateV1 {
        slot,
        transport: TransportStateV1 {
            device_features: 1 << 40,
            driver_features: 1 << 32,
            device_features_sel: 1,
            driver_features_sel: 2,
            queue_sel: 3,
            status: 15,
            interrupt_status: 1,
            config_generation: 4,
            queues: vec![queue(0), queue(1)],
        },
        device,
    }
}

fn encode(devices: &[VirtioStateV1]) -> Vec<u8> {
    let mut buffer = vec![0; 64 << 10];
    let mut frame = FrameWriter::new(&mut buffer, "vmm-example test").unwrap();
    write(devices, &mut frame).unwrap();
    let len = frame.finish().unwrap();
    buffer.truncate(len);
    buffer
}

#[test]
fn every_device_has_a_section_that_is_read_again() {
    let bytes = encode(&every_device());
    let frame = Frame::parse(bytes.as_slice()).unwrap();
    assert!(frame.check(&known()).is_ok());
    assert!(
        frame.check(&[]).is_err(),
        "a reader without devices takes it"
    );
    assert_eq!(read(&frame).unwrap(), every_device());
    assert!(frame.payload("virtio-net1").is_some());
}

#[test]
fn the_devices_of_version_0_1_0_are_read() {
    let frame = Frame::parse(GOLDEN_V1).unwrap();
    assert!(frame.check(&known()).is_ok());
    assert_eq!(read(&frame).unwrap(), every_device());
    // It matches what is written today.
    assert_eq!(encode(&every_device()), GOLDEN_V1);
}

/// Writes the golden file. Only for a new file: those of releases must not change.
#[test]
#[ignore = "writes a file into the source tree"]
fn write_golden() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/src/virtio/state/golden-v1.bin"
    );
    std::fs::write(path, encode(&every_device())).unwrap();
}

#[test]
fn sections_are_named_as_they_are_written() {
    let devices = every_device();
    let names = sections(devices.iter().map(|device| device.device.kind()));
    let bytes = encode(&devices);
    let frame = Frame::parse(bytes.as_slice()).unwrap();
    let written: Vec<_> = frame.sections().map(|section| section.name).collect();
    let names: Vec<_> = names.into_iter().flatten().collect();
    assert_eq!(written, names);
    let third = [Kind::Rng, Kind::Rng].into_iter();
    assert_eq!(sections(third), [Some("virtio-rng0"), None]);
}

#[test]
fn places_are_used_once() {
    let ownership = Ownership::new(true);
    let rng = |slot| sample(slot, DeviceStateV1::Rng(RngStateV1 {}));
    let twice = reopen(&[rng(1), rng(1)], &[], &ownership).unwrap_err();
    assert!(matches!(twice, VirtioError::BadSlot { slot: 1 }));
    let beyond = reopen(&[rng(8)], &[], &ownership).unwrap_err();
    assert!(matches!(beyond, VirtioError::BadSlot { slot: 8 }));
    let unwanted = reopen(&[rng(0)], &[7], &ownership).unwrap_err();
    assert!(matches!(unwanted, VirtioError::NotWanted { fd: 7 }));
}

#[test]
fn a_queue_of_a_state_is_the_queue() {
    let mut queue = Queue::new(64).unwrap();
    queue.set_ready(true);
    queue.set_event_idx(true);
    queue.set_next_avail(7);
    let state = QueueStateV1::from(&queue);
    assert_eq!(Queue::try_from(&state).unwrap().state(), queue.state());
}
