//! The saved state of an iommufd, and of a VFIO PCI device attached to it.

use super::{Out, golden};
use crate::abi::dma::{self, BARS, Device, Item, Mapping, Range, Registers};

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

/// A BAR of 128 KiB, one of ports, one of 16 KiB, and one that is 64 bits wide.
fn registers() -> Registers {
    let none = Range {
        start: 0,
        length: 0,
    };
    let mut bars = [none; BARS];
    for (bar, start, length) in [
        (0, 0xfe00_0000, 0x2_0000),
        (2, 0xfe02_0000, 0x4000),
        (4, 0x38_0000_0000, 0x10_0000),
    ] {
        bars[bar] = Range { start, length };
    }
    Registers {
        config: 0xb010_0000,
        bars,
    }
}

/// Changes registers, so that they are impossible or not.
type Change = fn(&mut Registers);

fn device() -> Device<'static> {
    Device {
        segment: 0,
        bdf: 0x100,
        device: 2,
        hwpt: 3,
        ioas: 1,
        auto_domain: true,
        registers: Some(registers()),
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
    golden::write("vfio-pci-v2.bin", &out.0);
    assert_eq!(out.0, golden::VFIO_PCI_V2);
    assert_eq!(Device::decode(golden::VFIO_PCI_V2), Ok(device()));
}

#[test]
fn a_device_of_version_1_is_read_as_one_without_registers() {
    let without = Device {
        registers: None,
        ..device()
    };
    assert_eq!(Device::decode(golden::VFIO_PCI_V1), Ok(without));
    assert_eq!(dma::VFIO_PCI_V1, b"fdbox,vfio-pci-v1");
    assert_eq!(dma::VFIO_PCI, b"fdbox,vfio-pci-v2");
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
    for golden in [golden::VFIO_PCI_V1, golden::VFIO_PCI_V2] {
        for len in 0..golden.len() {
            assert!(Device::decode(&golden[..len]).is_err(), "{len} bytes");
        }
        let longer = [golden, b"x"].concat();
        assert!(Device::decode(&longer).is_err());
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
}

#[test]
fn an_impossible_device_is_refused() {
    // The name follows the registers.
    for (golden, name) in [(golden::VFIO_PCI_V1, 32), (golden::VFIO_PCI_V2, 32 + 104)] {
        let device = |at: usize, byte: u8| {
            let mut changed = golden.to_vec();
            changed[at] = byte;
            Device::decode(&changed).is_ok()
        };
        assert!(device(4, 8));
        for (at, byte, what) in [
            (2, 1, "a segment beyond 65535"),
            (6, 1, "a requester id beyond 65535"),
            (20, 2, "a flag that nobody knows"),
            (24, 6, "another length of the name"),
            (28, 1, "registers of another length"),
            (28, 96, "a BAR less"),
            (29, 1, "registers that are longer"),
            (name, b'/', "a name with a slash"),
        ] {
            assert!(!device(at, byte), "{what}");
        }
    }
}

#[test]
fn impossible_registers_are_refused() {
    let changed = |change: Change| {
        let mut registers = registers();
        change(&mut registers);
        let device = Device {
            registers: Some(registers),
            ..device()
        };
        let mut out = Out::default();
        device.put(&mut out).unwrap();
        Device::decode(&out.0) == Ok(device)
    };
    assert!(changed(|_| {}));
    // Configuration space that is not in memory.
    assert!(changed(|registers| registers.config = 0));
    assert!(changed(|registers| registers.bars[0].length = 0x10));
    let impossible: [(Change, &str); 8] = [
        (|all| all.config += 0x800, "half a configuration space"),
        (|all| all.config = !0xfff, "one that ends behind all memory"),
        (
            |all| (all.bars[1].start, all.bars[1].length) = (0x3000, 0x3000),
            "no power of two",
        ),
        (|all| all.bars[0].length = 1 << 31, "a start in its middle"),
        (|all| all.bars[0].start += 0x1000, "the same"),
        (|all| all.bars[0].start = 0, "a BAR nowhere"),
        (|all| all.bars[1].start = 0x1000, "a start without length"),
        (|all| all.bars[5].length = 0x1000, "a length without start"),
    ];
    for (change, what) in impossible {
        assert!(!changed(change), "{what}");
    }
}
