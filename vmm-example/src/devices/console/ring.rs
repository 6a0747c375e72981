//! A bounded buffer of output: when it is full, the oldest bytes are dropped.

use std::collections::VecDeque;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Ring {
    bytes: VecDeque<u8>,
    capacity: usize,
}

impl Ring {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            bytes: VecDeque::new(),
            capacity,
        }
    }

    /// Appends bytes, dropping the oldest ones if necessary.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(self.capacity)..];
        let excess = (self.bytes.len() + bytes.len()).saturating_sub(self.capacity);
        self.bytes.drain(..excess);
        self.bytes.extend(bytes);
    }

    /// The oldest bytes that are contiguous in memory.
    pub(super) fn front(&self) -> &[u8] {
        self.bytes.as_slices().0
    }

    /// Removes bytes that have been sent.
    pub(super) fn consume(&mut self, count: usize) {
        self.bytes.drain(..count.min(self.bytes.len()));
    }

    /// Takes everything out.
    pub(super) fn take(&mut self) -> Vec<u8> {
        self.bytes.drain(..).collect()
    }

    /// Puts back what was taken out, as far as there is space.
    pub(super) fn put_back(&mut self, bytes: &[u8]) {
        let room = self.capacity.saturating_sub(self.bytes.len());
        for byte in bytes[bytes.len().saturating_sub(room)..].iter().rev() {
            self.bytes.push_front(*byte);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// A copy of everything, oldest first.
    pub(super) fn to_vec(&self) -> Vec<u8> {
        self.bytes.iter().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_bytes_stay() {
        let mut ring = Ring::new(4);
        ring.push(b"abc");
        ring.push(b"de");
        assert_eq!(ring.to_vec(), b"bcde");
        ring.push(b"0123456789");
        assert_eq!(ring.to_vec(), b"6789");
    }

    #[test]
    fn what_was_taken_out_goes_before_what_came_since() {
        let mut ring = Ring::new(6);
        ring.push(b"abcd");
        assert_eq!(ring.take(), b"abcd");
        ring.push(b"ef");
        ring.put_back(b"cd");
        assert_eq!(ring.to_vec(), b"cdef");
        ring.put_back(b"1234");
        assert_eq!(ring.to_vec(), b"34cdef");
    }

    #[test]
    fn consuming_goes_from_the_oldest() {
        let mut ring = Ring::new(8);
        ring.push(b"abcdef");
        ring.consume(2);
        assert_eq!(ring.front(), b"cdef");
        ring.consume(100);
        assert!(ring.is_empty());
        assert_eq!(ring.front(), b"");
    }
}
