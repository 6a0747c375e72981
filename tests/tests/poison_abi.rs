//! What one kernel tells the next about broken memory, built on the host from the module's own
//! file.

#![allow(
    unreachable_pub,
    reason = "the file belongs to the kernel module, which uses all of it"
)]

#[path = "../../kmod/abi/poison.rs"]
mod abi_poison;

use abi_poison::{LEN, MOST};

/// Three broken pages. Never edit it: a change of the layout is a subtree of another name.
const GOLDEN: &[u8; LEN] = include_bytes!("golden/broken-v1.bin");
const PFNS: [u64; 3] = [0x1234, 0x1235, 0xff_ffff_ffff];

fn crc(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

fn decoded(page: &[u8; LEN]) -> Option<Vec<u64>> {
    Some(abi_poison::decode(page, crc)?.collect())
}

#[test]
fn the_golden_bytes_are_written_and_read() {
    let mut page = [0xaa; LEN];
    abi_poison::encode(&PFNS, &mut page, crc);
    if std::env::var_os("FDBOX_WRITE_GOLDEN").is_some() {
        std::fs::write("tests/golden/broken-v1.bin", page).unwrap();
    }
    assert!(&page == GOLDEN, "the layout changed");
    assert_eq!(decoded(GOLDEN), Some(PFNS.to_vec()));
    assert_eq!(abi_poison::SUBTREE, c"fdbox-broken");
}

#[test]
fn any_changed_byte_is_refused() {
    for at in 0..LEN {
        let mut page = *GOLDEN;
        page[at] ^= 1;
        assert_eq!(decoded(&page), None, "byte {at}");
    }
}

#[test]
fn as_many_as_there_is_room_for() {
    let most: Vec<u64> = (1..=MOST as u64 + 1).collect();
    let mut page = [0; LEN];
    abi_poison::encode(&most, &mut page, crc);
    assert_eq!(decoded(&page).as_deref(), Some(&most[..MOST]));
    page[12..16].copy_from_slice(&(MOST as u32 + 1).to_le_bytes());
    let sum = crc(&page[12..]);
    page[8..12].copy_from_slice(&sum.to_le_bytes());
    assert_eq!(decoded(&page), None);
    abi_poison::encode(&[], &mut page, crc);
    assert_eq!(decoded(&page), Some(vec![]));
}
