//! The handover: its root, its extents and its boxes.

use super::{Out, crc, golden};
use crate::abi::box_record::{AccessRecord, LabelRecord, box_len, put_box};
use crate::abi::{self, Body, Extent, FdRecord, Malformed, Root, Sink};

/// The label of the second box of the sample.
pub(super) const LABEL: LabelRecord<'_> = LabelRecord {
    lsm: 101,
    text: b"system_u:object_r:svirt_t:s0:c1,c2",
};

fn extent(pfn: u64, folios: u64, order: u32) -> Extent {
    Extent {
        pfn,
        folios,
        order,
        down: false,
    }
}

fn down(extent: Extent) -> Extent {
    Extent {
        down: true,
        ..extent
    }
}

/// The sample: a box with a VM and its memory, and a box of another owner with a memfd.
fn body(label: Option<LabelRecord<'_>>) -> Vec<u8> {
    let extents = [
        extent(0x1000, 3, 0),
        down(extent(0x20_0000, 2, 9)),
        extent(0x77, 1, 0),
    ];
    let fd = |name, compatible, first_extent, nr_extents, data| FdRecord {
        name,
        compatible,
        first_extent,
        nr_extents,
        data,
    };
    let vm = fd(b"vm", b"fdbox,kvm-vm-v1", 0, 0, &[0; 12][..]);
    let memory = fd(b"memory0", b"fdbox,guest-memfd-v1", 0, 2, &[7; 22][..]);
    let notes = fd(b"notes", b"fdbox,memfd-v1", 2, 1, &[1; 41][..]);

    let mut out = Out::default();
    for extent in extents {
        out.put(&extent.encode().to_le_bytes()).unwrap();
    }
    let len = |label: Option<LabelRecord<'_>>, fds: &[&FdRecord<'_>]| {
        let fds = fds.iter();
        let fds_len = fds.map(|fd| FdRecord::encoded_len(fd.data.len())).sum();
        box_len(label.map_or(0, |label| label.text.len()), fds_len).unwrap()
    };
    let guests = access(0o600, (0, 0), None);
    put_box(&mut out, b"guest", &guests, 2, len(None, &[&vm, &memory])).unwrap();
    vm.put(&mut out).unwrap();
    memory.put(&mut out).unwrap();
    let others = access(0o640, (1000, 100), label);
    put_box(&mut out, b"other", &others, 1, len(label, &[&notes])).unwrap();
    notes.put(&mut out).unwrap();
    out.0
}

pub(super) fn access(
    mode: u32,
    (uid, gid): (u32, u32),
    label: Option<LabelRecord<'_>>,
) -> AccessRecord<'_> {
    AccessRecord {
        mode,
        uid,
        gid,
        label,
    }
}

fn root(version: u32, body: &[u8]) -> Root {
    let mut producer = [0; abi::PRODUCER_LEN];
    producer[..5].copy_from_slice(b"7.3.4");
    Root {
        version,
        body_len: body.len() as u64,
        body_crc: crc(body),
        nr_boxes: 2,
        nr_extents: 3,
        body_vmalloc: [0xab; 16],
        producer,
    }
}

pub(super) fn split(sample: &'static [u8]) -> (Root, &'static [u8]) {
    let (root, body) = sample.split_at(abi::ROOT_LEN);
    (Root::decode(root, crc).unwrap(), body)
}

pub(super) fn split_v1() -> (Root, &'static [u8]) {
    split(golden::HANDOVER_V1)
}

#[test]
fn writes_the_golden_bytes() {
    for (version, label, name, sample) in [
        (
            abi::VERSION_WITHOUT_LABELS,
            None,
            "handover-v1.bin",
            golden::HANDOVER_V1,
        ),
        (
            abi::VERSION,
            Some(LABEL),
            "handover-v2.bin",
            golden::HANDOVER_V2,
        ),
    ] {
        let body = body(label);
        let mut bytes = root(version, &body).encode(crc).to_vec();
        bytes.extend_from_slice(&body);
        golden::write(name, &bytes);
        assert!(
            bytes == sample,
            "the layout of {name} changed: see docs/handover-abi.md on versions"
        );
    }
}

fn extents(body: &Body<'_>, first: u64, count: u64) -> Result<Vec<Extent>, Malformed> {
    body.raw_extents(first, count)?
        .map(Extent::decode)
        .collect()
}

#[test]
fn reads_the_golden_bytes() {
    let (root, bytes) = split_v1();
    let body = Body::check(root, bytes, crc).unwrap();
    let boxes: Vec<_> = body.boxes().map(Result::unwrap).collect();
    assert_eq!(boxes.len(), 2);
    assert_eq!(boxes[0].name, b"guest");
    assert_eq!(boxes[1].access, access(0o640, (1000, 100), None));
    let fds: Vec<_> = boxes[0].fds().map(Result::unwrap).collect();
    assert_eq!(fds[1].name, b"memory0");
    assert_eq!(fds[1].compatible, b"fdbox,guest-memfd-v1");
    assert_eq!(fds[1].data, [7; 22]);
    assert_eq!((fds[1].first_extent, fds[1].nr_extents), (0, 2));
    let second = down(extent(0x20_0000, 2, 9));
    assert_eq!(extents(&body, 1, 1), Ok(vec![second]));
    assert_eq!(extents(&body, 0, 3).unwrap()[1], second);
    for (first, count) in [(3, 1), (1, 3), (u64::MAX, 2), (1, u64::MAX)] {
        assert_eq!(extents(&body, first, count), Err(Malformed::Extents));
    }
}

#[test]
fn any_changed_byte_is_refused() {
    for (sample, at) in [golden::HANDOVER_V1, golden::HANDOVER_V2]
        .into_iter()
        .flat_map(offsets)
    {
        let mut bytes = sample.to_vec();
        bytes[at] ^= 0x10;
        let (root, body) = bytes.split_at(abi::ROOT_LEN);
        let read = Root::decode(root, crc).and_then(|root| Body::check(root, body, crc).map(drop));
        assert!(read.is_err(), "byte {at}");
    }
}

/// Each offset in a sample.
fn offsets(sample: &[u8]) -> impl Iterator<Item = (&[u8], usize)> {
    (0..sample.len()).map(move |at| (sample, at))
}

#[test]
fn any_truncation_is_refused() {
    for (sample, len) in [golden::HANDOVER_V1, golden::HANDOVER_V2]
        .into_iter()
        .flat_map(offsets)
    {
        let (root, body) = sample[..len].split_at(len.min(abi::ROOT_LEN));
        let read = Root::decode(root, crc).and_then(|root| Body::check(root, body, crc).map(drop));
        assert!(read.is_err(), "{len} bytes");
    }
}

/// The structure is checked even if the checksums match: the writer may have made a mistake.
#[test]
fn impossible_structure_is_refused_and_never_panics() {
    never_panics(golden::HANDOVER_V2);
    never_panics(golden::HANDOVER_V1);
    let (root, good) = split_v1();
    let resealed = |bytes: &[u8]| {
        let mut root = root;
        root.body_crc = crc(bytes);
        root.body_len = bytes.len() as u64;
        Body::check(root, bytes, crc).map(drop)
    };
    let mut bytes = good.to_vec();
    bytes[24 + 24] = b'/';
    assert_eq!(resealed(&bytes), Err(Malformed::Name));
    let mut bytes = good.to_vec();
    bytes[24..28].copy_from_slice(&8u32.to_le_bytes());
    assert_eq!(resealed(&bytes), Err(Malformed::Box));
    let mut bytes = good.to_vec();
    bytes[..8].copy_from_slice(&0u64.to_le_bytes());
    assert_eq!(resealed(&bytes), Err(Malformed::Extents));
    assert_eq!(resealed(&good[..24]), Err(Malformed::Trailing));
}

/// Whatever the result is, there is no panic, and no access outside the buffer.
fn never_panics(sample: &'static [u8]) {
    let (root, good) = split(sample);
    for at in (24..good.len()).step_by(4) {
        for word in [0u32, 1, 7, 8, 0x7fff_ffff, u32::MAX] {
            let mut bytes = good.to_vec();
            bytes[at..at + 4].copy_from_slice(&word.to_le_bytes());
            let mut root = root;
            root.body_crc = crc(&bytes);
            let _ = Body::check(root, &bytes, crc);
        }
    }
}

/// A version unknown to this code: its extents are read, its boxes are ignored.
#[test]
fn extents_of_another_version_are_read() {
    let (mut root, good) = split_v1();
    let mut bytes = good.to_vec();
    bytes[24..].fill(0xff);
    root.version = 99;
    root.body_crc = crc(&bytes);
    let decoded = Root::decode(&root.encode(crc), crc).unwrap();
    let body = Body::check(decoded, &bytes, crc).unwrap();
    assert_eq!(extents(&body, 0, 1), Ok(vec![extent(0x1000, 3, 0)]));
}

#[test]
fn extents_survive_packing_at_their_limits() {
    for sample in [
        extent(1, 1, 0),
        extent((1 << 40) - 1, Extent::MAX_FOLIOS, 0),
        extent(1 << 30, Extent::MAX_FOLIOS, 30),
        down(extent(Extent::MAX_FOLIOS, Extent::MAX_FOLIOS, 0)),
    ] {
        assert_eq!(Extent::decode(sample.encode()), Ok(sample));
    }
    // Misaligned for its order, page 0, a range down to page 0, an order larger than KHO keeps.
    for raw in [
        extent(0x1001, 1, 1).encode(),
        0,
        down(extent(9, 10, 0)).encode(),
        extent(1 << 31, 1, 31).encode(),
    ] {
        assert_eq!(Extent::decode(raw), Err(Malformed::Extents));
    }
}
