//! Fixed-width little-endian fields and padded texts, of which all formats of this library are made.

/// Writes a field.
pub(crate) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// Reads a field. Panics if it is not within `bytes`, whose length the caller has checked.
pub(crate) fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array(bytes, at))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(bytes, at))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(bytes, at))
}

/// The text before the first NUL.
pub(crate) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// An array with a text, truncated if necessary, and at least one NUL.
pub(crate) fn text_into<const N: usize>(text: &str) -> [u8; N] {
    let mut array = [0; N];
    put(&mut array, 0, cut(text, N - 1).as_bytes());
    array
}

/// The longest prefix of `text` with at most `limit` bytes.
pub(crate) fn cut(text: &str, limit: usize) -> &str {
    let end = (0..=limit.min(text.len()))
        .rev()
        .find(|&at| text.is_char_boundary(at));
    &text[..end.unwrap_or(0)]
}

/// Whether a text is terminated, and only NULs follow.
pub(crate) fn is_padded(bytes: &[u8]) -> bool {
    let end = bytes.iter().position(|byte| *byte == 0);
    end.is_some_and(|end| bytes[end..].iter().all(|byte| *byte == 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let text: [u8; 4] = text_into("aé€");
        assert_eq!(&text, b"a\xc3\xa9\0");
        let text: [u8; 5] = text_into("aé€");
        assert_eq!(&text, b"a\xc3\xa9\0\0");
    }

    #[test]
    fn a_text_ends_at_the_first_nul_and_is_padded_by_no_other_byte() {
        assert_eq!(text(b"ab\0c"), "ab");
        assert_eq!(text(b"ab"), "ab");
        for (bytes, padded) in [(&b"ab\0\0"[..], true), (b"ab\0c", false), (b"ab", false)] {
            assert_eq!(is_padded(bytes), padded, "{bytes:?}");
        }
    }
}
