//! What one kernel tells the next about broken memory.

use super::{crc, golden};
use crate::abi::poison::{self, LEN, MOST};

/// The sample. Another layout would be a subtree of another name.
const PFNS: [u64; 3] = [0x1234, 0x1235, 0xff_ffff_ffff];

fn decoded(page: &[u8; LEN]) -> Option<Vec<u64>> {
    Some(poison::decode(page, crc)?.collect())
}

#[test]
fn the_golden_bytes_are_written_and_read() {
    let mut page = [0xaa; LEN];
    poison::encode(&PFNS, &mut page, crc);
    golden::write("broken-v1.bin", &page);
    assert!(&page == golden::BROKEN, "the layout changed");
    assert_eq!(decoded(golden::BROKEN), Some(PFNS.to_vec()));
    assert_eq!(poison::SUBTREE, c"fdbox-broken");
}

#[test]
fn any_changed_byte_is_refused() {
    for at in 0..LEN {
        let mut page = *golden::BROKEN;
        page[at] ^= 1;
        assert_eq!(decoded(&page), None, "byte {at}");
    }
}

#[test]
fn as_many_as_there_is_room_for() {
    let most: Vec<u64> = (1..=MOST as u64 + 1).collect();
    let mut page = [0; LEN];
    poison::encode(&most, &mut page, crc);
    assert_eq!(decoded(&page).as_deref(), Some(&most[..MOST]));
    page[12..16].copy_from_slice(&(MOST as u32 + 1).to_le_bytes());
    let sum = crc(&page[12..]);
    page[8..12].copy_from_slice(&sum.to_le_bytes());
    assert_eq!(decoded(&page), None);
    poison::encode(&[], &mut page, crc);
    assert_eq!(decoded(&page), Some(vec![]));
}
