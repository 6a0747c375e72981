//! The handover ABI, built on the host from the module's own file: golden bytes, and every way in
//! which they can be wrong.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "the file belongs to the kernel module, which uses all of it"
)]

#[path = "../../kmod/abi/mod.rs"]
mod abi;

use abi::box_record::{AccessRecord, LabelRecord, box_len, put_box};
use abi::dma::{self as abi_dma, Device, Item, Mapping};
use abi::{Body, Extent, FdRecord, Malformed, Root, Sink};

/// A handover of two boxes as version 1 writes it. Never edit it: a change of the layout is a new
/// version with a file of its own, and this one must remain either readable or refused, never
/// misread.
const GOLDEN: &[u8] = include_bytes!("golden/handover-v1.bin");
/// The same as version 2 writes it: the second box has a label.
const GOLDEN_LABELLED: &[u8] = include_bytes!("golden/handover-v2.bin");

const LABEL: LabelRecord<'_> = LabelRecord {
    lsm: 101,
    text: b"system_u:object_r:svirt_t:s0:c1,c2",
};

/// An iommufd with two IOASs, the first with two mappings, and a device attached to the first.
const GOLDEN_IOMMUFD: &[u8] = include_bytes!("golden/iommufd-v1.bin");
const GOLDEN_VFIO_PCI: &[u8] = include_bytes!("golden/vfio-pci-v1.bin");

struct Out(Vec<u8>);

impl Sink for Out {
    type Error = std::convert::Infallible;

    fn put(&mut self, bytes: &[u8]) -> Result<(), Self::Error> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

fn crc(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

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

    let mut out = Out(Vec::new());
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

fn access(mode: u32, (uid, gid): (u32, u32), label: Option<LabelRecord<'_>>) -> AccessRecord<'_> {
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

fn split(golden: &'static [u8]) -> (Root, &'static [u8]) {
    let (root, body) = golden.split_at(abi::ROOT_LEN);
    (Root::decode(root, crc).unwrap(), body)
}

fn split_golden() -> (Root, &'static [u8]) {
    split(GOLDEN)
}

#[test]
fn writes_the_golden_bytes() {
    for (version, label, name, golden) in [
        (abi::VERSION_WITHOUT_LABELS, None, "handover-v1.bin", GOLDEN),
        (
            abi::VERSION,
            Some(LABEL),
            "handover-v2.bin",
            GOLDEN_LABELLED,
        ),
    ] {
        let body = body(label);
        let mut bytes = root(version, &body).encode(crc).to_vec();
        bytes.extend_from_slice(&body);
        if std::env::var_os("FDBOX_WRITE_GOLDEN").is_some() {
            std::fs::write(format!("tests/golden/{name}"), &bytes).unwrap();
        }
        assert!(
            bytes == golden,
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
    let (root, bytes) = split_golden();
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
fn reads_a_label_and_what_follows_it() {
    let (root, bytes) = split(GOLDEN_LABELLED);
    let body = Body::check(root, bytes, crc).unwrap();
    let boxes: Vec<_> = body.boxes().map(Result::unwrap).collect();
    assert_eq!(boxes[0].access, access(0o600, (0, 0), None));
    assert_eq!(boxes[1].access, access(0o640, (1000, 100), Some(LABEL)));
    let fds: Vec<_> = boxes[1].fds().map(Result::unwrap).collect();
    assert_eq!((fds.len(), fds[0].name), (1, &b"notes"[..]));
}

/// The word that is the length of a label in version 2 has no meaning in version 1.
#[test]
fn a_label_is_not_looked_for_in_version_1() {
    let (mut root, good) = split_golden();
    let mut bytes = good.to_vec();
    bytes[24 + 20] = 8;
    root.body_crc = crc(&bytes);
    let body = Body::check(root, &bytes, crc).unwrap();
    assert_eq!(body.boxes().next().unwrap().unwrap().access.label, None);
}

#[test]
fn impossible_labels_are_refused() {
    let (root, good) = split(GOLDEN_LABELLED);
    let labelled = good.len() - labelled_len();
    let checked = |at: usize, word: &[u8]| {
        let mut bytes = good.to_vec();
        bytes[labelled + at..labelled + at + word.len()].copy_from_slice(word);
        let mut root = root;
        root.body_crc = crc(&bytes);
        Body::check(root, &bytes, crc).map(drop)
    };
    assert_eq!(
        checked(20, &(LABEL.text.len() as u32).to_le_bytes()),
        Ok(())
    );
    for len in [u32::MAX, u32::MAX - 7, 1 << 16] {
        assert_eq!(
            checked(20, &len.to_le_bytes()),
            Err(Malformed::Box),
            "{len}"
        );
    }
    assert_eq!(checked(280 + 8 + 3, &[0]), Err(Malformed::Box), "a NUL");
    // Without its length, the label is taken for a descriptor.
    assert!(checked(20, &[0; 4]).is_err());
}

/// The length of the second box of the sample.
fn labelled_len() -> usize {
    let notes = FdRecord::encoded_len(41);
    box_len(LABEL.text.len(), notes).unwrap() as usize
}

/// The length of a box has 32 bits: a longer box must be refused, not written with a truncated
/// length.
#[test]
fn a_box_that_is_too_long_has_no_length() {
    let most = u32::MAX as usize - 280;
    assert_eq!(box_len(0, 0), Some(280));
    assert_eq!(box_len(0, most), Some(u32::MAX));
    for fds_len in [most + 1, 1 << 32, (1 << 32) + 8, usize::MAX] {
        assert_eq!(box_len(0, fds_len), None, "{fds_len}");
    }
    assert_eq!(box_len(1, 0), Some(280 + 8 + 8));
    assert_eq!(box_len(8, most - 16), Some(u32::MAX));
    for (label_len, fds_len) in [(9, most - 16), (most, 8), (usize::MAX, 0)] {
        assert_eq!(box_len(label_len, fds_len), None, "{label_len}");
    }
}

#[test]
fn any_changed_byte_is_refused() {
    for (golden, at) in [GOLDEN, GOLDEN_LABELLED].into_iter().flat_map(places) {
        let mut bytes = golden.to_vec();
        bytes[at] ^= 0x10;
        let (root, body) = bytes.split_at(abi::ROOT_LEN);
        let read = Root::decode(root, crc).and_then(|root| Body::check(root, body, crc).map(drop));
        assert!(read.is_err(), "byte {at}");
    }
}

fn places(golden: &[u8]) -> impl Iterator<Item = (&[u8], usize)> {
    (0..golden.len()).map(move |at| (golden, at))
}

#[test]
fn any_truncation_is_refused() {
    for (golden, len) in [GOLDEN, GOLDEN_LABELLED].into_iter().flat_map(places) {
        let (root, body) = golden[..len].split_at(len.min(abi::ROOT_LEN));
        let read = Root::decode(root, crc).and_then(|root| Body::check(root, body, crc).map(drop));
        assert!(read.is_err(), "{len} bytes");
    }
}

/// The structure is checked even if the checksums match: the writer may have made a mistake.
#[test]
fn impossible_structure_is_refused_and_never_panics() {
    never_panics(GOLDEN_LABELLED);
    never_panics(GOLDEN);
    let (root, good) = split_golden();
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
fn never_panics(golden: &'static [u8]) {
    let (root, good) = split(golden);
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
    let (mut root, good) = split_golden();
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

fn passthrough_items() -> [Item<'static>; 4] {
    let mapping = |iova, length, start, prot, file| {
        Item::Mapping(Mapping {
            ioas: 1,
            iova,
            length,
            start,
            prot,
            file,
        })
    };
    let both = abi_dma::PROT_READ | abi_dma::PROT_WRITE;
    [
        Item::Ioas(1),
        mapping(0x1000_0000, 0x210_0000, 0, both, &b"ring"[..]),
        mapping(
            0x4000_0000,
            0x1000,
            0x3000,
            abi_dma::PROT_READ,
            b"firmware0",
        ),
        Item::Ioas(5),
    ]
}

fn passthrough_device() -> Device<'static> {
    Device {
        segment: 0,
        bdf: 0x100,
        device: 2,
        hwpt: 3,
        ioas: 1,
        auto_domain: true,
        iommufd: b"iommufd",
    }
}

#[test]
fn passthrough_is_written_as_the_golden_bytes_and_read_back() {
    let mut out = Out(Vec::new());
    for item in passthrough_items() {
        item.put(&mut out).unwrap();
    }
    assert_eq!(out.0, GOLDEN_IOMMUFD);
    let read: Result<Vec<_>, _> = abi_dma::items(GOLDEN_IOMMUFD).collect();
    assert_eq!(read.unwrap(), passthrough_items());

    let mut out = Out(Vec::new());
    passthrough_device().put(&mut out).unwrap();
    assert_eq!(out.0, GOLDEN_VFIO_PCI);
    assert_eq!(Device::decode(GOLDEN_VFIO_PCI), Ok(passthrough_device()));
}

#[test]
fn a_cut_off_iommufd_is_refused_or_lacks_its_last_items() {
    for len in 0..GOLDEN_IOMMUFD.len() {
        let read: Vec<_> = abi_dma::items(&GOLDEN_IOMMUFD[..len]).collect();
        let whole = read.iter().filter(|item| item.is_ok()).count();
        assert!(whole < 4, "{len} bytes are no whole iommufd");
        let at_an_end = [0, 8, 56, 112].contains(&len);
        assert_eq!(read.iter().all(Result::is_ok), at_an_end, "{len} bytes");
    }
    for len in 0..GOLDEN_VFIO_PCI.len() {
        assert!(Device::decode(&GOLDEN_VFIO_PCI[..len]).is_err());
    }
}

#[test]
fn impossible_passthrough_is_refused() {
    let item = |at: usize, bytes: &[u8]| {
        let mut changed = GOLDEN_IOMMUFD.to_vec();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        abi_dma::items(&changed).all(|item| item.is_ok())
    };
    assert!(item(8, &[2]));
    for (at, bytes, what) in [
        (0, &[3][..], "an item of another kind"),
        (4, &[0], "an IOAS without an id"),
        (
            16,
            &[0xff; 8],
            "a mapping beyond the end of the address space",
        ),
        (24, &[0; 8], "an empty mapping"),
        (32, &[0xff; 8], "a mapping beyond the end of any file"),
        (40, &[4], "a right that nobody knows"),
        (44, &[0], "no name"),
        (44, &[0xff, 0xff, 0xff, 0xff], "a name without an end"),
        (48, b"/", "a name with a slash"),
        (55, &[1], "a name that is not padded with NULs"),
    ] {
        assert!(!item(at, bytes), "{what}");
    }
    let device = |at: usize, byte: u8| {
        let mut changed = GOLDEN_VFIO_PCI.to_vec();
        changed[at] = byte;
        Device::decode(&changed).is_ok()
    };
    assert!(device(4, 8));
    for (at, byte, what) in [
        (28, 1, "a word that is reserved"),
        (2, 1, "a segment beyond 65535"),
        (6, 1, "a requester id beyond 65535"),
        (20, 2, "a flag that nobody knows"),
        (24, 6, "another length of the name"),
        (32, b'/', "a name with a slash"),
    ] {
        assert!(!device(at, byte), "{what}");
    }
}
