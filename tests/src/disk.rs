//! The pattern that a guest writes to its disk: each sector identifies the write it belongs to.
//!
//! Writes are numbered from 1. Each fills one block; the order of the blocks is a permutation, so
//! the number of writes alone determines what every sector of the disk must contain. A sector of an
//! older write means a lost write, one of a later write a repeated one, and sectors of two writes
//! in a block a torn one.

use crate::witness::pattern;

/// Size of one write.
pub const BLOCK_BYTES: usize = 4096;
/// The unit that a disk writes atomically.
pub const SECTOR_BYTES: usize = 512;

const WORD_BYTES: usize = 8;
/// Distance between the blocks of successive writes: a prime, so that every block is visited.
const STRIDE: u64 = 389;

/// A disk that one guest writes to.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    /// Distinguishes this guest's sectors from those of all others.
    pub seed: u64,
    blocks: u64,
}

impl Layout {
    /// The layout of a disk of this size. `None` if the disk has no whole block, or if `STRIDE`
    /// would skip some of its blocks.
    pub fn new(seed: u64, disk_bytes: u64) -> Option<Self> {
        let blocks = disk_bytes / BLOCK_BYTES as u64;
        (blocks > 0 && !blocks.is_multiple_of(STRIDE)).then_some(Self { seed, blocks })
    }

    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// The block of write `number`.
    pub fn place(&self, number: u64) -> u64 {
        number % self.blocks * STRIDE % self.blocks
    }

    /// After `writes` writes: (block, number of the last write to it), for each block that was
    /// written.
    pub fn written(&self, writes: u64) -> impl Iterator<Item = (u64, u64)> {
        let first = writes.saturating_sub(self.blocks) + 1;
        (first..=writes).map(|number| (self.place(number), number))
    }

    /// Fills `block` with the data of write `number`.
    pub fn fill(&self, number: u64, block: &mut [u8; BLOCK_BYTES]) {
        let place = self.place(number);
        for (index, sector) in block.chunks_exact_mut(SECTOR_BYTES).enumerate() {
            for (word, bytes) in sector.chunks_exact_mut(WORD_BYTES).enumerate() {
                let value = self.word(number, place, index as u64, word as u64);
                bytes.copy_from_slice(&value.to_le_bytes());
            }
        }
    }

    /// Whether a block is as write `number` left it; the error describes what is wrong.
    pub fn check(&self, number: u64, block: &[u8; BLOCK_BYTES]) -> Result<(), String> {
        let place = self.place(number);
        let found: Vec<Option<u64>> = block
            .chunks_exact(SECTOR_BYTES)
            .enumerate()
            .map(|(index, sector)| self.write_of(place, index as u64, sector))
            .collect();
        if found.iter().all(|found| *found == Some(number)) {
            return Ok(());
        }
        let what = match found[0] {
            Some(other) if found.iter().all(|found| *found == Some(other)) => {
                match other < number {
                    true => format!("it is still as of write {other}: lost"),
                    false => format!("it is as of write {other}: repeated"),
                }
            }
            _ => format!("its sectors are of writes {found:?}: torn"),
        };
        Err(format!("Block {place} after write {number}: {what}"))
    }

    /// The number of the write that a sector belongs to, if it is intact.
    fn write_of(&self, place: u64, index: u64, sector: &[u8]) -> Option<u64> {
        let mut words = sector.chunks_exact(WORD_BYTES).map(|bytes| {
            let mut word = [0; WORD_BYTES];
            word.copy_from_slice(bytes);
            u64::from_le_bytes(word)
        });
        let number = words.next()?;
        let mut numbered = (1..).zip(words);
        numbered
            .all(|(word, value)| value == self.word(number, place, index, word))
            .then_some(number)
    }

    /// The first word of each sector is the number of its write; all others are derived from it.
    fn word(&self, number: u64, place: u64, index: u64, word: u64) -> u64 {
        match word {
            0 => number,
            _ => pattern(self.seed.wrapping_add(number), place, index as u32, word),
        }
    }
}

/// The number of the write that a block claims to belong to, unchecked: 0 for a block that was
/// never written.
pub fn number_of(block: &[u8; BLOCK_BYTES]) -> u64 {
    let mut word = [0; WORD_BYTES];
    word.copy_from_slice(&block[..WORD_BYTES]);
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISK: u64 = 64 * BLOCK_BYTES as u64;

    fn disk(layout: &Layout, writes: u64) -> Vec<[u8; BLOCK_BYTES]> {
        let mut disk = vec![[0; BLOCK_BYTES]; layout.blocks() as usize];
        for number in 1..=writes {
            layout.fill(number, &mut disk[layout.place(number) as usize]);
        }
        disk
    }

    fn wrong(layout: &Layout, disk: &[[u8; BLOCK_BYTES]], writes: u64) -> Vec<String> {
        let check = |(place, number)| layout.check(number, &disk[place as usize]).err();
        layout.written(writes).filter_map(check).collect()
    }

    #[test]
    fn the_number_of_writes_says_what_is_on_the_disk() {
        let layout = Layout::new(7, DISK).unwrap();
        for writes in [0, 1, 63, 64, 65, 1000] {
            let disk = disk(&layout, writes);
            assert_eq!(layout.written(writes).count() as u64, writes.min(64));
            assert!(wrong(&layout, &disk, writes).is_empty());
            let last = number_of(&disk[layout.place(writes) as usize]);
            assert_eq!(last, writes);
        }
    }

    #[test]
    fn lost_repeated_torn_and_foreign_sectors_are_told_apart() {
        let layout = Layout::new(7, DISK).unwrap();
        let (writes, last) = (200, layout.place(200) as usize);
        type Spoil = fn(&Layout, &mut [u8; BLOCK_BYTES]);
        let spoil: [(&str, Spoil); 4] = [
            ("lost", |layout, block| layout.fill(136, block)),
            ("repeated", |layout, block| layout.fill(264, block)),
            ("torn", |layout, block| {
                let mut other = [0; BLOCK_BYTES];
                layout.fill(136, &mut other);
                block[..SECTOR_BYTES].copy_from_slice(&other[..SECTOR_BYTES]);
            }),
            ("torn", |_, block| block[BLOCK_BYTES - 1] ^= 1),
        ];
        for (what, spoil) in spoil {
            let mut disk = disk(&layout, writes);
            spoil(&layout, &mut disk[last]);
            let wrong = wrong(&layout, &disk, writes);
            assert_eq!(wrong.len(), 1, "{what}");
            assert!(wrong[0].contains(what), "{wrong:?}");
        }
        let disk = disk(&Layout::new(8, DISK).unwrap(), writes);
        assert_eq!(wrong(&layout, &disk, writes).len(), 64, "another's disk");
    }

    #[test]
    fn a_disk_that_could_not_be_filled_is_refused() {
        assert!(Layout::new(0, 4095).is_none());
        assert!(Layout::new(0, STRIDE * BLOCK_BYTES as u64).is_none());
    }
}
