//! Memory for the data of requests, aligned for direct I/O.

/// The alignment of a buffer: no disk requires more.
const ALIGNMENT: usize = 4096;
/// The maximum size of all free buffers that are kept.
const MAX_KEPT: usize = 4 << 20;

/// Bytes that never move.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Buffer {
    fn with_room(room: usize) -> Self {
        let bytes = vec![0; room + ALIGNMENT];
        let start = bytes.as_ptr().align_offset(ALIGNMENT);
        Self {
            bytes,
            start,
            len: room,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }

    fn room(&self) -> usize {
        self.bytes.len().saturating_sub(ALIGNMENT)
    }
}

/// A pool of buffers.
#[derive(Debug, Default)]
pub(super) struct Pool {
    free: Vec<Buffer>,
    kept: usize,
}

impl Pool {
    /// A buffer of this length, with arbitrary content.
    pub(super) fn take(&mut self, len: usize) -> Buffer {
        if len == 0 {
            return Buffer::default();
        }
        let fits =
            |buffer: &Buffer| buffer.room() >= len && buffer.room() / 4 <= len.max(ALIGNMENT);
        let mut buffer = match self.free.iter().position(fits) {
            Some(at) => self.free.swap_remove(at),
            None => {
                return cut(
                    Buffer::with_room(len.next_power_of_two().max(ALIGNMENT)),
                    len,
                );
            }
        };
        self.kept -= buffer.room();
        buffer.len = len;
        buffer
    }

    /// Returns a buffer to the pool.
    pub(super) fn give(&mut self, buffer: Buffer) {
        let room = buffer.room();
        if room != 0 && self.kept + room <= MAX_KEPT {
            self.kept += room;
            self.free.push(buffer);
        }
    }
}

fn cut(mut buffer: Buffer, len: usize) -> Buffer {
    buffer.len = len;
    buffer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_used_again() {
        let mut pool = Pool::default();
        let mut buffer = pool.take(5000);
        assert_eq!((buffer.len(), buffer.bytes().len()), (5000, 5000));
        assert!(buffer.bytes().as_ptr().addr().is_multiple_of(ALIGNMENT));
        buffer.bytes_mut()[4999] = 7;
        let at = buffer.bytes().as_ptr();
        pool.give(buffer);
        let again = pool.take(8192);
        assert_eq!((again.bytes().as_ptr(), again.len()), (at, 8192));
        assert_eq!(pool.take(0).len(), 0);
    }

    #[test]
    fn not_everything_is_kept() {
        let mut pool = Pool::default();
        let buffers: Vec<_> = (0..32).map(|_| pool.take(1 << 20)).collect();
        buffers.into_iter().for_each(|buffer| pool.give(buffer));
        assert_eq!((pool.kept, pool.free.len()), (MAX_KEPT, 4));
    }
}
