//! The saved state of a memfd of huge pages.

use super::{Out, golden};
use crate::abi::hugetlb::{HUGETLB, Hugetlb};
use crate::abi::memfd::{APPEND, MEMFD, Memfd, MemfdHead, READ};

/// A write-sealed file of two pages of 2 MiB, opened read-only and for appending.
fn sample() -> Hugetlb<'static> {
    Hugetlb {
        page_shift: 21,
        memfd: Memfd {
            head: MemfdHead {
                size: 4 << 20,
                pos: 0x56,
                seals: 0xe,
                mode: 0o640,
                uid: 1000,
                gid: 100,
            },
            flags: READ | APPEND,
            name: b"memfd:huge",
        },
    }
}

#[test]
fn it_is_written_as_the_golden_bytes_and_read_back() {
    let mut out = Out::default();
    sample().put(&mut out).unwrap();
    golden::write("hugetlb-v1.bin", &out.0);
    assert_eq!(out.0, golden::HUGETLB);
    assert_eq!(Hugetlb::decode(golden::HUGETLB), Ok(sample()));
    assert_eq!(HUGETLB, b"fdbox,hugetlb-v1");
    // After the size of the pages it is that of any memfd.
    assert_eq!(
        Memfd::decode(MEMFD, &golden::HUGETLB[8..]),
        Ok(sample().memfd)
    );
}

#[test]
fn what_is_impossible_is_refused() {
    for len in 0..golden::HUGETLB.len() {
        assert!(Hugetlb::decode(&golden::HUGETLB[..len]).is_err(), "{len}");
    }
    let longer = [golden::HUGETLB, b"x"].concat();
    assert!(Hugetlb::decode(&longer).is_err());
    for (at, byte, possible) in [
        (0, 13, true),
        (0, 30, true),
        (0, 42, true),
        (0, 12, false),
        (0, 0, false),
        (0, 43, false),
        (3, 1, false),
        (4, 1, false),
        (7, 1, false),
        (15, 0x80, false),
    ] {
        let mut changed = golden::HUGETLB.to_vec();
        changed[at] = byte;
        assert_eq!(Hugetlb::decode(&changed).is_ok(), possible, "{at}: {byte}");
    }
}
