//! The saved state of a memfd, built on the host from the module's own file: golden bytes of each
//! layout, and every way in which they can be wrong.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "the files belong to the kernel module, which uses all of them"
)]

#[path = "../../kmod/abi/mod.rs"]
mod abi;

use abi::Sink;
use abi::memfd::{APPEND, MEMFD, MEMFD_V1, Memfd, MemfdHead, READ, WRITE};

/// Never edit them: a change of the layout is a new compatible string with a file of its own.
const GOLDEN_V1: &[u8] = include_bytes!("golden/memfd-v1.bin");
const GOLDEN: &[u8] = include_bytes!("golden/memfd-v2.bin");

struct Out(Vec<u8>);

impl Sink for Out {
    type Error = std::convert::Infallible;

    fn put(&mut self, bytes: &[u8]) -> Result<(), Self::Error> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

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
    let mut out = Out(Vec::new());
    sample().put(&mut out).unwrap();
    if std::env::var_os("FDBOX_WRITE_GOLDEN").is_some() {
        std::fs::write("tests/golden/memfd-v2.bin", &out.0).unwrap();
    }
    assert_eq!(out.0, GOLDEN);
    assert_eq!(Memfd::decode(MEMFD, GOLDEN), Ok(sample()));
}

#[test]
fn version_1_is_read_as_a_file_for_reading_and_writing() {
    let both = Memfd {
        flags: READ | WRITE,
        ..sample()
    };
    assert_eq!(Memfd::decode(MEMFD_V1, GOLDEN_V1), Ok(both));
}

#[test]
fn neither_is_read_as_the_other_or_cut_off() {
    assert!(Memfd::decode(MEMFD, GOLDEN_V1).is_err());
    assert!(Memfd::decode(MEMFD_V1, GOLDEN).is_err());
    for (layout, golden) in [(MEMFD, GOLDEN), (MEMFD_V1, GOLDEN_V1)] {
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
        let mut changed = GOLDEN.to_vec();
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
        let mut out = Out(Vec::new());
        let memfd = Memfd {
            name: &name[..len],
            ..sample()
        };
        memfd.put(&mut out).unwrap();
        assert_eq!(Memfd::decode(MEMFD, &out.0).is_ok(), possible, "{len}");
    }
}
