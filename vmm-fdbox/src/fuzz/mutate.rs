//! Changes to an input, by a generator with a seed: the same seed gives the same inputs.

/// Numbers at which code decides.
const NUMBERS: [u64; 14] = [
    0,
    1,
    2,
    4,
    8,
    0x10,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    u64::MAX,
];
/// Characters that mean something in the texts of some target.
const CHARACTERS: &[u8] = b"\"{}[]:,=.-+/\\0919eE\x00\x80\xff \n_#";
/// The maximum number of changes at a time.
const MAX_CHANGES: usize = 6;

/// See the module's documentation.
pub(super) struct Mutator(u64);

impl Mutator {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `limit`, which is not 0.
    pub(super) fn below(&mut self, limit: usize) -> usize {
        ((self.next() >> 16) % limit as u64) as usize
    }

    /// A changed copy of `input`, at most `limit` bytes long, possibly with parts of `other`.
    pub(super) fn mutate(&mut self, input: &[u8], other: &[u8], limit: usize) -> Vec<u8> {
        let mut bytes = input.to_vec();
        for _ in 0..=self.below(MAX_CHANGES) {
            self.change(&mut bytes, other);
        }
        bytes.truncate(limit);
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
        if bytes.is_empty() {
            let len = 1 + self.below(16);
            return bytes.extend((0..len).map(|_| self.next() as u8));
        }
        let at = self.below(bytes.len());
        match self.below(10) {
            0 => bytes[at] ^= 1 << self.below(8),
            1 => bytes[at] = self.next() as u8,
            2 => bytes[at] = CHARACTERS[self.below(CHARACTERS.len())],
            3 => self.write_number(&mut bytes[at..]),
            4 => self.add(&mut bytes[at..]),
            5 => {
                let end = at + self.some(bytes.len() - at);
                bytes.drain(at..end);
            }
            6 => {
                let end = at + self.some(bytes.len() - at);
                let part = bytes[at..end].to_vec();
                let to = self.below(bytes.len() + 1);
                bytes.splice(to..to, part);
            }
            7 => {
                let len = self.some(16);
                let part: Vec<u8> = (0..len).map(|_| self.next() as u8).collect();
                bytes.splice(at..at, part);
            }
            8 if !other.is_empty() => {
                let from = self.below(other.len());
                let len = self.some(other.len() - from);
                let end = match self.below(2) {
                    0 => at,
                    _ => (at + len).min(bytes.len()),
                };
                bytes.splice(at..end, other[from..from + len].iter().copied());
            }
            _ => bytes.truncate(at),
        }
    }

    /// From 1 to `most`, which is not 0; rather few.
    fn some(&mut self, most: usize) -> usize {
        let most = match self.below(4) {
            0 => most,
            _ => most.min(16),
        };
        1 + self.below(most)
    }

    /// Writes a number of some width over the beginning.
    fn write_number(&mut self, bytes: &mut [u8]) {
        let number = NUMBERS[self.below(NUMBERS.len())];
        let width = 1 << self.below(4);
        put(bytes, &number.to_le_bytes()[..width]);
    }

    /// Adds a small number to one of some width at the beginning, or subtracts it.
    fn add(&mut self, bytes: &mut [u8]) {
        let width = (1usize << self.below(4)).min(bytes.len());
        let mut number = [0; 8];
        number[..width].copy_from_slice(&bytes[..width]);
        let change = 1 + self.below(35) as u64;
        let number = u64::from_le_bytes(number);
        let changed = match self.below(2) {
            0 => number.wrapping_add(change),
            _ => number.wrapping_sub(change),
        };
        put(bytes, &changed.to_le_bytes()[..width]);
    }
}

fn put(bytes: &mut [u8], value: &[u8]) {
    bytes
        .iter_mut()
        .zip(value)
        .for_each(|(to, from)| *to = *from);
}
