//! The inputs of a target: its seeds, those in the repository, and those that were found.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::corpus_dir;
use super::mutate::Mutator;

/// The maximum length of a mutated input whose target has only short ones.
const MIN_LIMIT: usize = 4096;
/// The largest input that goes into the repository.
const MAX_SAVED: usize = 2048;
/// The maximum number of inputs of a target in the repository.
const MAX_FILES: usize = 48;

/// See the module's documentation.
pub(super) struct Corpus {
    inputs: Vec<Vec<u8>>,
    /// How many of them are seeds.
    seeds: usize,
    /// How many of them are seeds or from a file.
    known: usize,
    limit: usize,
}

impl Corpus {
    pub(super) fn read(name: &str, seeds: &[&[u8]], dir: Option<&Path>) -> Self {
        let mut inputs: Vec<Vec<u8>> = seeds.iter().map(|seed| seed.to_vec()).collect();
        if inputs.is_empty() {
            inputs.push(Vec::new());
        }
        let seeds = inputs.len();
        inputs.extend(files(&corpus_dir(name)));
        inputs.extend(dir.iter().flat_map(|dir| files(&dir.join("corpus"))));
        let longest = inputs.iter().map(Vec::len).max().unwrap_or(0);
        Self {
            seeds,
            known: inputs.len(),
            inputs,
            limit: (2 * longest).max(MIN_LIMIT),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.inputs.len()
    }

    pub(super) fn known(&self) -> Vec<Vec<u8>> {
        self.inputs[..self.known].to_vec()
    }

    /// A changed copy of an input, rather of one that was found lately.
    pub(super) fn mutated(&self, mutator: &mut Mutator) -> Vec<u8> {
        let count = self.inputs.len();
        let lately = (count / 4).max(1);
        let at = match mutator.below(2) {
            0 => count - 1 - mutator.below(lately),
            _ => mutator.below(count),
        };
        let other = mutator.below(count);
        mutator.mutate(&self.inputs[at], &self.inputs[other], self.limit)
    }

    pub(super) fn add(&mut self, input: Vec<u8>) {
        self.inputs.push(input);
    }

    pub(super) fn write_found(&self, dir: &Path) {
        fs::create_dir_all(dir).expect("the directory of what was found");
        for input in &self.inputs[self.known..] {
            fs::write(dir.join(name_of(input)), input).expect("an input");
        }
    }

    /// All inputs, each with whether it is a seed. Seeds come first.
    pub(super) fn smallest_first(&self) -> Vec<(bool, Vec<u8>)> {
        let (seeds, others) = self.inputs.split_at(self.seeds);
        let mut others: Vec<&Vec<u8>> = others.iter().collect();
        others.sort_by_key(|input| (input.len(), *input));
        let seeds = seeds.iter().map(|seed| (true, seed.clone()));
        let others = others.into_iter().map(|input| (false, input.clone()));
        seeds.chain(others).collect()
    }
}

/// A file name for an input, from its content.
pub(super) fn name_of(input: &[u8]) -> String {
    // FNV-1a.
    let hash = input.iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}

/// Replaces a target's corpus in the repository.
pub(super) fn replace(name: &str, inputs: &[Vec<u8>]) {
    let dir = corpus_dir(name);
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).expect("the corpus");
    let small = inputs.iter().filter(|input| input.len() <= MAX_SAVED);
    for input in small.take(MAX_FILES) {
        fs::write(dir.join(name_of(input)), input).expect("an input");
    }
}

fn files(dir: &Path) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let paths: BTreeSet<_> = entries.map(|entry| entry.path()).collect();
    paths.iter().flat_map(fs::read).collect()
}
