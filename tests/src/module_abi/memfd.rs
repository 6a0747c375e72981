//! The saved state of a memfd.

use super::{Out, golden};
use crate::abi::memfd::{APPEND, MEMFD, MEMFD_V1, Memfd, MemfdHead, READ, WRITE};

/// A write-sealed file of one page and a part of another, opened read-only and for appending.
fn sample() -> Memfd<'static> {
    Memfd {
        head: MemfdHead {
            size: 0x1234,
            pos: 0x56,
            seals: 0xe,
            mode: 0o640,
            uid: 1000,
            gid: 100,
        },
        flags: READ | APPEND,
        name: b"memfd:state",
    }
}

#[test]
fn it_is_written_as_the_golden_bytes_and_read_back() {
    let mut out = Out::default();
    sample().put(&mut out).unwrap();
    golden::write("memfd-v2.bin", &out.0);
    assert_eq!(out.0, golden::MEMFD_V2);
    assert_eq!(Memfd::decode(MEMFD, golden::MEMFD_V2), Ok(sample()));
}

#[test]
fn version_1_is_read_as_a_file_for_reading_and_writing() {
    let both = Memfd {
        flags: READ | WRITE,
        ..sample()
    };
    assert_eq!(Memfd::decode(MEMFD_V1, golden::MEMFD_V1), Ok(both));
}

#[test]
fn neither_is_read_as_the_other_or_cut_off() {
    assert!(Memfd::decode(MEMFD, golden::MEMFD_V1).is_err());
    assert!(Memfd::decode(MEMFD_V1, golden::MEMFD_V2).is_err());
    for (layout, golden) in [(MEMFD, golden::MEMFD_V2), (MEMFD_V1, golden::MEMFD_V1)] {
        for len in 0..golden.len() {
            assert!(Memfd::decode(layout, &golden[..len]).is_err(), "{len}");
        }
        let longer = [golden, b"x"].concat();
        assert!(Memfd::decode(layout, &longer).is_err());
    }
}

#[test]
fn what_is_impossible_is_refused() {
    let changed = |at: usize, byte: u8| {
        let mut changed = golden::MEMFD_V2.to_vec();
        changed[at] = byte;
        Memfd::decode(MEMFD, &changed).is_ok()
    };
    assert!(changed(32, 0xf));
    for (at, byte, what) in [
        (7, 0x80, "a size beyond what a file can have"),
        (32, 0x10, "a flag that nobody knows"),
        (35, 1, "another"),
        (36, 10, "a shorter name"),
        (37, 1, "a longer name"),
    ] {
        assert!(!changed(at, byte), "{what}");
    }
    let name = [b'x'; 256];
    for (len, possible) in [(0, true), (255, true), (256, false)] {
        let mut out = Out::default();
        let memfd = Memfd {
            name: &name[..len],
            ..sample()
        };
        memfd.put(&mut out).unwrap();
        assert_eq!(Memfd::decode(MEMFD, &out.0).is_ok(), possible, "{len}");
    }
}
