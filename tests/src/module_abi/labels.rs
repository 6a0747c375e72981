//! The security labels of boxes in the handover, which version 2 brought, and the lengths of boxes.

use super::handover::{LABEL, access, split, split_v1};
use super::{crc, golden};
use crate::abi::box_record::box_len;
use crate::abi::{Body, FdRecord, Malformed};

#[test]
fn reads_a_label_and_what_follows_it() {
    let (root, bytes) = split(golden::HANDOVER_V2);
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
    let (mut root, good) = split_v1();
    let mut bytes = good.to_vec();
    bytes[24 + 20] = 8;
    root.body_crc = crc(&bytes);
    let body = Body::check(root, &bytes, crc).unwrap();
    assert_eq!(body.boxes().next().unwrap().unwrap().access.label, None);
}

#[test]
fn impossible_labels_are_refused() {
    let (root, good) = split(golden::HANDOVER_V2);
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
