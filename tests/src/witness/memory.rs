//! The guest's memory, filled with a pattern that depends on each page's place and generation.

use anyhow::Result;
use fdbox_lab::witness::pattern;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};

const PAGE: usize = 4096;
const WORDS: usize = PAGE / 8;
/// How many bad pages are described.
const EXAMPLES: usize = 8;
/// Distance between pages rewritten in succession: a prime, so that all are visited.
const STRIDE: u64 = 7919;

#[derive(Debug)]
pub(crate) struct Memory {
    words: &'static mut [u64],
    /// The generation of each page.
    generations: Vec<u32>,
    seed: u64,
    rewritten: u64,
}

/// The result of a check of every page.
#[derive(Debug)]
pub(crate) struct Check {
    pub(crate) pages: u64,
    pub(crate) bad: u64,
    pub(crate) examples: Vec<String>,
}

impl Memory {
    /// Maps `bytes` bytes and fills them with generation 0.
    pub(crate) fn fill(bytes: u64) -> Result<Self> {
        let pages = bytes as usize / PAGE;
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: a new mapping at no particular address does not affect existing ones.
        let start =
            unsafe { mmap_anonymous(std::ptr::null_mut(), pages * PAGE, protection, flags)? };
        // SAFETY: the mapping has this many words, is readable, writable and zero, is never
        // unmapped, and this is the only reference to it.
        let words = unsafe { std::slice::from_raw_parts_mut(start.cast(), pages * WORDS) };
        let seed = fdbox_lab::tsc();
        let mut memory = Self {
            words,
            generations: vec![0; pages],
            seed,
            rewritten: 0,
        };
        memory.write_all(0);
        Ok(memory)
    }

    pub(crate) fn pages(&self) -> u64 {
        self.generations.len() as u64
    }

    pub(crate) fn rewritten(&self) -> u64 {
        self.rewritten
    }

    /// Rewrites every page with generation `generation`.
    pub(crate) fn write_all(&mut self, generation: u32) {
        for page in 0..self.generations.len() {
            self.write(page, generation);
        }
    }

    /// Rewrites the next page with its next generation.
    pub(crate) fn rewrite_one(&mut self) {
        let page = (self.rewritten * STRIDE % self.pages()) as usize;
        self.write(page, self.generations[page].wrapping_add(1));
        self.rewritten += 1;
    }

    /// Reads every page and compares it with the pattern.
    pub(crate) fn check(&self) -> Check {
        let mut check = Check {
            pages: self.pages(),
            bad: 0,
            examples: Vec::new(),
        };
        for (page, generation) in self.generations.iter().enumerate() {
            let words = &self.words[page * WORDS..(page + 1) * WORDS];
            let expected = |index| pattern(self.seed, page as u64, *generation, index as u64);
            let wrong = words
                .iter()
                .enumerate()
                .find(|(index, word)| **word != expected(*index));
            if let Some((index, word)) = wrong {
                check.bad += 1;
                if check.examples.len() < EXAMPLES {
                    check.examples.push(format!(
                        "page {page} of generation {generation}, word {index}: {word:#x}, not {:#x}",
                        expected(index)
                    ));
                }
            }
        }
        check
    }

    fn write(&mut self, page: usize, generation: u32) {
        self.generations[page] = generation;
        let seed = self.seed;
        for (index, word) in self.words[page * WORDS..(page + 1) * WORDS]
            .iter_mut()
            .enumerate()
        {
            *word = pattern(seed, page as u64, generation, index as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_wrong_word_is_one_bad_page() {
        let mut memory = Memory::fill(64 * PAGE as u64).unwrap();
        for _ in 0..100 {
            memory.rewrite_one();
        }
        assert_eq!((memory.check().pages, memory.check().bad), (64, 0));
        memory.words[5 * WORDS + 17] ^= 1;
        memory.words[5 * WORDS + 18] ^= 1;
        let check = memory.check();
        assert_eq!(check.bad, 1);
        assert!(
            check.examples[0].starts_with("page 5 of generation"),
            "{check:?}"
        );
    }

    #[test]
    fn a_page_of_an_older_generation_is_bad() {
        let mut memory = Memory::fill(4 * PAGE as u64).unwrap();
        memory.write_all(7);
        memory.generations[2] = 8;
        assert_eq!(memory.check().bad, 1);
    }
}
