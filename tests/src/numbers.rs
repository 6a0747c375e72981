//! Data whose every word is numbered: the receiver can tell what was lost and what was repeated.

/// Size of a number in bytes.
const WORD: u64 = 8;

/// Fills `buffer` with the bytes that follow the first `position` bytes of the numbered stream.
pub fn fill(position: u64, buffer: &mut [u8]) {
    for (at, byte) in (position..).zip(buffer) {
        *byte = (at / WORD).to_le_bytes()[(at % WORD) as usize];
    }
}

/// The result of receiving a numbered stream, all in bytes.
#[derive(Debug, Clone, Default)]
pub struct Received {
    bytes: u64,
    lost: u64,
    repeated: u64,
    expected: u64,
    word: [u8; WORD as usize],
}

impl Received {
    /// Checks the next piece, of any size.
    pub fn take(&mut self, piece: &[u8]) {
        for byte in piece {
            self.word[(self.bytes % WORD) as usize] = *byte;
            self.bytes += 1;
            if self.bytes.is_multiple_of(WORD) {
                self.count(u64::from_le_bytes(self.word));
            }
        }
    }

    fn count(&mut self, number: u64) {
        match number.checked_sub(self.expected) {
            Some(missing) => {
                self.lost = self.lost.saturating_add(missing.saturating_mul(WORD));
                self.expected = number.saturating_add(1);
            }
            None => self.repeated += WORD,
        }
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What was skipped.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// What was received before.
    pub fn repeated(&self) -> u64 {
        self.repeated
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(bytes: usize) -> Vec<u8> {
        let mut all = vec![0; bytes];
        fill(0, &mut all);
        all
    }

    #[test]
    fn a_whole_stream_in_odd_pieces_has_nothing_lost_or_repeated() {
        let mut received = Received::default();
        let mut position = 0;
        for size in [1, 7, 13, 64, 3, 8].into_iter().cycle().take(100) {
            let mut piece = vec![0; size];
            fill(position, &mut piece);
            position += size as u64;
            received.take(&piece);
        }
        assert_eq!(received.bytes(), position);
        assert_eq!((received.lost(), received.repeated()), (0, 0));
    }

    #[test]
    fn what_is_missing_is_lost() {
        let all = stream(800);
        let mut received = Received::default();
        received.take(&all[..80]);
        received.take(&all[240..]);
        assert_eq!((received.lost(), received.repeated()), (160, 0));
    }

    #[test]
    fn what_comes_twice_is_repeated() {
        let all = stream(800);
        let mut received = Received::default();
        received.take(&all[..400]);
        received.take(&all[160..]);
        assert_eq!((received.lost(), received.repeated()), (0, 240));
    }

    #[test]
    fn what_is_no_number_of_the_stream_is_noticed() {
        let mut all = stream(800);
        all[87] = 0xff;
        let mut received = Received::default();
        received.take(&all);
        assert!(received.lost() > 0 && received.repeated() > 0);
    }
}
