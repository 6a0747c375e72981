//! The sections: round trips, and a frame written by an earlier version.

use vmm_fdbox::frame::{Frame, FrameError, FrameWriter, Need};

use super::sample::guest_v1;
use super::*;
use crate::devices::pci::state as pci_state;
use crate::devices::virtio::state as virtio_state;
use crate::guest::vcpu::GuestEnd;

/// `sample::guest_v1` as written by version 0.1.0.
const GOLDEN_V1: &[u8] = include_bytes!("golden-v1.bin");

/// `guest_that_stands` as written by version 0.1.0.
const GOLDEN_STANDS_V1: &[u8] = include_bytes!("golden-stands-v1.bin");

/// What version 0.1.0 can read: every section that existed, in its version 1. Never change it.
fn known_in_v1() -> Vec<KnownSection> {
    let machine = [
        "machine",
        "vcpus",
        "irqchip",
        "pit",
        "clock",
        "serial",
        "acpi-pm",
        "console",
        "resume-order",
    ];
    let blk = [
        "virtio-blk0",
        "virtio-blk1",
        "virtio-blk2",
        "virtio-blk3",
        "virtio-blk4",
        "virtio-blk5",
        "virtio-blk6",
        "virtio-blk7",
    ];
    let net = [
        "virtio-net0",
        "virtio-net1",
        "virtio-net2",
        "virtio-net3",
        "virtio-net4",
        "virtio-net5",
        "virtio-net6",
        "virtio-net7",
    ];
    let others = ["virtio-console0", "virtio-rng0", "virtio-vsock0", "pci-bus"];
    let vfio = [
        "vfio0", "vfio1", "vfio2", "vfio3", "vfio4", "vfio5", "vfio6", "vfio7",
    ];
    let names = machine.into_iter().chain(blk).chain(net).chain(others);
    let names = names.chain(vfio);
    names.map(|name| KnownSection::new(name, 1, 1)).collect()
}

/// A guest with every kind of device.
fn guest_with_everything() -> GuestState {
    GuestState {
        virtio: virtio_state::tests::every_device(),
        pci: Some(pci_state::tests::two_devices()),
        ..guest_v1()
    }
}

/// A guest that was paused, that reset itself before that, and whose power button was pressed.
fn guest_that_stands() -> GuestState {
    let v1 = guest_v1();
    GuestState {
        pm: PmStateV1 {
            status: 0x100,
            ..v1.pm
        },
        boot: Some(BootStateV1 {
            kernel: "/boot/vmlinuz".into(),
            initramfs: Some("/guest.cpio".into()),
            cmdline: "console=ttyS0".into(),
        }),
        life: LifeStateV1::new(true, Some(&GuestEnd::Reset)),
        ..v1
    }
}

fn encode(state: &GuestState) -> Vec<u8> {
    let mut buffer = vec![0; frame_capacity(state.vcpus.len())];
    let mut frame = FrameWriter::new(&mut buffer, "vmm-example test").unwrap();
    state.write(&mut frame).unwrap();
    let len = frame.finish().unwrap();
    buffer.truncate(len);
    buffer
}

#[test]
fn what_is_written_is_read() {
    let bytes = encode(&guest_v1());
    let frame = Frame::parse(bytes.as_slice()).unwrap();
    assert!(frame.check(&KNOWN).is_ok());
    let state = GuestState::read(&frame).unwrap();
    assert_eq!(state.vcpus[1].msrs.len(), 3);
    assert_eq!(state.vcpus[1].xsave.len(), 5000);
    assert_eq!(state.console.unsent, b"not read yet");
    assert_eq!(encode(&state), bytes);
}

#[test]
fn the_state_of_version_0_1_0_is_read() {
    let frame = Frame::parse(GOLDEN_V1).unwrap();
    assert!(frame.check(&KNOWN).is_ok());
    let state = GuestState::read(&frame).unwrap();
    assert_eq!(encode(&state), encode(&guest_v1()));
}

#[test]
fn a_guest_that_stands_is_read_as_it_was_written() {
    let frame = Frame::parse(GOLDEN_STANDS_V1).unwrap();
    assert!(frame.check(&KNOWN).is_ok());
    let state = GuestState::read(&frame).unwrap();
    assert_eq!(encode(&state), encode(&guest_that_stands()));
    assert!(state.life.paused);
    assert_eq!(state.life.end(), Some(GuestEnd::Reset));
}

/// It would run a guest that should stay paused.
#[test]
fn version_0_1_0_refuses_a_guest_that_stands() {
    let known = known_in_v1();
    let bytes = encode(&guest_that_stands());
    let error = Frame::parse(bytes.as_slice()).unwrap().check(&known);
    assert!(format!("{error:?}").contains(LIFE), "{error:?}");
    let found = description(&[LIFE]).check(&known);
    assert!(format!("{found:?}").contains(LIFE), "{found:?}");
    // It can run a guest that can merely be booted again.
    let moves = GuestState {
        life: LifeStateV1::default(),
        ..guest_that_stands()
    };
    let bytes = encode(&moves);
    Frame::parse(bytes.as_slice())
        .unwrap()
        .check(&known)
        .unwrap();
}

/// A section that 0.1.0 does not know must be optional, and one that it knows must have its
/// version. A change that cannot meet this prevents guests from going back to it, and belongs in
/// the changelog before it does in this test.
#[test]
fn version_0_1_0_reads_what_is_written_today() {
    let known = known_in_v1();
    let bytes = encode(&guest_with_everything());
    let frame = Frame::parse(bytes.as_slice()).unwrap();
    frame.check(&known).unwrap();
    let needed = frame
        .sections()
        .filter(|section| section.need == Need::Required);
    assert!(needed.count() >= 7 + 7 + 3);
    let devices = KNOWN.iter().map(|section| section.name);
    let devices = devices.filter(|name| name.starts_with("virtio") || name.starts_with("vfio"));
    let described = description(&devices.chain(["pci-bus"]).collect::<Vec<_>>());
    assert_eq!(described.check(&known), []);
    assert!(
        !described.check(&known[1..]).is_empty(),
        "It refuses nothing"
    );
}

/// Byte by byte, so that no payload loses or renames what 0.1.0 looks for in it.
#[test]
#[cfg_attr(feature = "later-build", ignore = "it has a section more")]
fn today_writes_what_version_0_1_0_wrote() {
    assert_eq!(encode(&guest_v1()), GOLDEN_V1);
}

#[test]
fn what_is_described_is_what_is_written() {
    let bytes = encode(&guest_v1());
    let frame = Frame::parse(bytes.as_slice()).unwrap();
    let written = frame
        .sections()
        .map(|section| (section.name, section.version, section.need));
    let written: Vec<_> = written.collect();
    let written = written
        .iter()
        .map(|(name, version, need)| (name.as_str(), *version, *need));
    assert_eq!(description(&[]), Description::new(PRODUCER, written));
    assert!(description(&[]).check(&KNOWN).is_empty());
}

#[test]
fn a_frame_without_a_console_is_read() {
    let bytes = encode(&guest_v1());
    let full = Frame::parse(bytes.as_slice()).unwrap();
    let mut buffer = vec![0; bytes.len()];
    let mut partial = FrameWriter::new(&mut buffer, "test").unwrap();
    for section in full.sections().filter(|section| section.name != CONSOLE) {
        let payload = full.payload(&section.name).unwrap();
        partial
            .add_bytes(&section.name, section.version, section.need, payload)
            .unwrap();
    }
    partial.finish().unwrap();
    let state = GuestState::read(&Frame::parse(buffer.as_slice()).unwrap()).unwrap();
    assert_eq!(state.console, ConsoleStateV1::default());
}

#[test]
fn a_frame_without_vcpus_is_refused() {
    let mut buffer = vec![0; 4096];
    let mut frame = FrameWriter::new(&mut buffer, "test").unwrap();
    frame
        .add(MACHINE, 1, Need::Required, &guest_v1().machine)
        .unwrap();
    frame.finish().unwrap();
    let frame = Frame::parse(buffer.as_slice()).unwrap();
    let error = GuestState::read(&frame).unwrap_err();
    assert!(matches!(error, FrameError::MissingSection { name } if name == VCPUS));
}

/// The CBOR of a vCPU with one of its byte strings changed.
fn with_field(field: &str, change: impl Fn(&mut Vec<u8>)) -> Result<VcpuStateV1, String> {
    fn bytes(value: &mut ciborium::Value) -> &mut Vec<u8> {
        match value {
            ciborium::Value::Bytes(bytes) => bytes,
            // The first element of a list, or the value in an enum.
            ciborium::Value::Array(list) => bytes(&mut list[0]),
            ciborium::Value::Map(map) => bytes(&mut map[0].1),
            other => panic!("{other:?}"),
        }
    }
    let vcpu = guest_v1().vcpus.remove(0);
    let mut value = ciborium::Value::serialized(&vcpu).unwrap();
    let fields = value.as_map_mut().unwrap();
    let found = fields
        .iter_mut()
        .find(|(name, _)| name.as_text() == Some(field));
    change(bytes(&mut found.unwrap().1));
    value.deserialized().map_err(|error| error.to_string())
}

/// kvm-bindings would pad and truncate.
#[test]
fn a_struct_of_another_length_is_refused() {
    let fields = [
        "mp_state",
        "regs",
        "sregs",
        "xcrs",
        "debug_regs",
        "lapic",
        "cpuid",
        "msrs",
        "events",
    ];
    for field in fields {
        assert!(with_field(field, |_| {}).is_ok(), "{field}");
        for change in [
            |bytes: &mut Vec<u8>| bytes.push(0),
            |bytes: &mut Vec<u8>| {
                bytes.truncate(bytes.len() - 1);
            },
        ] {
            let error = with_field(field, change).unwrap_err();
            assert!(error.contains("a struct of KVM's"), "{field}: {error}");
        }
    }
}

#[test]
fn the_largest_guest_fits() {
    let capacity = frame_capacity(1);
    // XSAVE with AMX tiles, a nested guest, 300 MSRs of 20 bytes and 256 leaves of 50.
    let vcpu = 11_008 + 8_320 + 300 * 20 + 256 * 50 + 4_096;
    assert!(capacity >= vcpu + (64 << 10) + (64 << 10), "{capacity}");
}

/// Writes the golden files. Only for new files: those of releases must not change.
#[test]
#[ignore = "writes a file into the source tree"]
fn write_golden() {
    let folder = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src/guest/state"));
    for (name, guest) in [
        ("golden-v1.bin", guest_v1()),
        ("golden-stands-v1.bin", guest_that_stands()),
    ] {
        std::fs::write(folder.join(name), encode(&guest)).unwrap();
    }
}

/// A frame like this one, with another payload of one section.
fn with_payload(frame: &Frame<&[u8]>, section: usize, payload: &[u8]) -> Vec<u8> {
    let mut buffer = vec![0; frame.size() + payload.len() + 4096];
    let mut changed = FrameWriter::new(&mut buffer, "test").unwrap();
    for (at, section_of) in frame.sections().enumerate() {
        let payload = match at == section {
            true => payload,
            false => frame.payload(&section_of.name).unwrap(),
        };
        let (name, version) = (&section_of.name, section_of.version);
        let added = changed.add_bytes(name, version, section_of.need, payload);
        added.unwrap();
    }
    changed.finish().unwrap();
    buffer
}

/// The first byte says which section the others are in.
#[test]
fn fuzz_state() {
    let state = GuestState {
        boot: guest_that_stands().boot,
        life: guest_that_stands().life,
        ..guest_with_everything()
    };
    let bytes = encode(&state);
    let whole = Frame::parse(bytes.as_slice()).unwrap();
    let count = whole.sections().count();
    let payload = |(at, section): (usize, vmm_fdbox::frame::Section)| {
        [&[at as u8], whole.payload(&section.name).unwrap()].concat()
    };
    let seeds: Vec<Vec<u8>> = whole.sections().enumerate().map(payload).collect();
    let seeds: Vec<&[u8]> = seeds.iter().map(Vec::as_slice).collect();
    crate::fuzz::run("state", &seeds, |input| {
        let Some((section, payload)) = input.split_first() else {
            return;
        };
        let frame = with_payload(&whole, usize::from(*section) % count, payload);
        let frame = Frame::parse(frame.as_slice()).unwrap();
        let Ok(read) = GuestState::read(&frame) else {
            return;
        };
        let _ = (read.life.end(), position(&frame));
        // Nothing is lost when it is written again, if it fits.
        let mut buffer = vec![0; 2 * frame.size() + (64 << 10)];
        let mut writer = FrameWriter::new(&mut buffer, "test").unwrap();
        if read.write(&mut writer).is_err() {
            return;
        }
        let len = writer.finish().unwrap();
        let again = GuestState::read(&Frame::parse(&buffer[..len]).unwrap()).unwrap();
        assert_eq!(format!("{again:?}"), format!("{read:?}"));
    });
}
