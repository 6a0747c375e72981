//! Leaks found by kmemleak, in a kernel that has it.

use std::fs::{read_to_string, write};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

const KMEMLEAK: &str = "/sys/kernel/debug/kmemleak";
/// kmemleak reports objects that are older than 5 s (`MSECS_MIN_AGE`) and did not change between
/// two scans. There is no event to wait for: nothing happens to a leaked object.
const AGE: Duration = Duration::from_millis(5500);

/// Fails with kmemleak's report if there is allocated memory without a reference to it.
pub(crate) fn check() -> Result<()> {
    let scan = || write(KMEMLEAK, "scan").context("Scan: the kernel lacks CONFIG_DEBUG_KMEMLEAK");
    scan()?;
    sleep(AGE);
    scan()?;
    let found = read_to_string(KMEMLEAK)?;
    let ours: Vec<&str> = objects(&found)
        .filter(|object| !is_the_loaders(object))
        .collect();
    ensure!(ours.is_empty(), "{}", ours.concat());
    Ok(())
}

/// kmemleak's report on each object.
fn objects(found: &str) -> impl Iterator<Item = &str> {
    const BEGIN: &str = "unreferenced object";
    let starts: Vec<usize> = found.match_indices(BEGIN).map(|(at, _)| at).collect();
    let ends: Vec<usize> = starts
        .iter()
        .skip(1)
        .copied()
        .chain([found.len()])
        .collect();
    starts
        .into_iter()
        .zip(ends)
        .map(|(start, end)| &found[start..end])
}

/// Text memory that the kernel's module loader leaks if it cannot allocate the record of it: only
/// `load/each-allocation-fails` causes that.
fn is_the_loaders(object: &str) -> bool {
    object.contains("execmem_alloc") && object.contains("load_module")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_loaders_own_is_let_pass() {
        let found = "unreferenced object 0x1\n  backtrace:\n    execmem_alloc+0x1\n    load_module+0x1\n\
                     unreferenced object 0x2\n  backtrace:\n    __kmalloc+0x1\n    load_module+0x1\n";
        let all: Vec<&str> = objects(found).collect();
        assert_eq!(all.len(), 2);
        assert!(is_the_loaders(all[0]) && !is_the_loaders(all[1]));
        assert_eq!(objects("").count(), 0);
    }
}
