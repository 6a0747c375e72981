//! The saved state of an iommufd, and of a VFIO PCI device attached to it.

use super::{Out, golden};
use crate::abi::dma::{self, Device, Item, Mapping};

fn items() -> [Item<'static>; 4] {
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
    let both = dma::PROT_READ | dma::PROT_WRITE;
    [
        Item::Ioas(1),
        mapping(0x1000_0000, 0x210_0000, 0, both, &b"ring"[..]),
        mapping(0x4000_0000, 0x1000, 0x3000, dma::PROT_READ, b"firmware0"),
        Item::Ioas(5),
    ]
}

fn device() -> Device<'static> {
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
    let mut out = Out::default();
    for item in items() {
        item.put(&mut out).unwrap();
    }
    assert_eq!(out.0, golden::IOMMUFD);
    let read: Result<Vec<_>, _> = dma::items(golden::IOMMUFD).collect();
    assert_eq!(read.unwrap(), items());

    let mut out = Out::default();
    device().put(&mut out).unwrap();
    assert_eq!(out.0, golden::VFIO_PCI);
    assert_eq!(Device::decode(golden::VFIO_PCI), Ok(device()));
}

#[test]
fn a_cut_off_iommufd_is_refused_or_lacks_its_last_items() {
    for len in 0..golden::IOMMUFD.len() {
        let read: Vec<_> = dma::items(&golden::IOMMUFD[..len]).collect();
        let whole = read.iter().filter(|item| item.is_ok()).count();
        assert!(whole < 4, "{len} bytes are no whole iommufd");
        let at_an_end = [0, 8, 56, 112].contains(&len);
        assert_eq!(read.iter().all(Result::is_ok), at_an_end, "{len} bytes");
    }
    for len in 0..golden::VFIO_PCI.len() {
        assert!(Device::decode(&golden::VFIO_PCI[..len]).is_err());
    }
}

#[test]
fn impossible_passthrough_is_refused() {
    let item = |at: usize, bytes: &[u8]| {
        let mut changed = golden::IOMMUFD.to_vec();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        dma::items(&changed).all(|item| item.is_ok())
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
        let mut changed = golden::VFIO_PCI.to_vec();
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
