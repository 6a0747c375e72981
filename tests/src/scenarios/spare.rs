//! CPUs and memory that a host gives to a lifeboat and gets back.

use std::fs;

use anyhow::{Context, Result};
use rustix::thread::{CpuSet, sched_getcpu, sched_setaffinity};

use crate::check::equal;

/// Most of the memory of a boat of 64 MiB: other things may have taken the rest meanwhile.
pub(crate) const MOST_OF_IT_KIB: u64 = 60 << 10;

/// Takes a CPU of the host's online or offline.
pub(crate) fn set_online(cpu: u32, online: bool) -> std::io::Result<()> {
    let path = format!("/sys/devices/system/cpu/cpu{cpu}/online");
    fs::write(path, if online { "1" } else { "0" })
}

/// Takes it online, and runs on it.
pub(crate) fn comes_back(cpu: u32) -> Result<()> {
    set_online(cpu, true).with_context(|| format!("Take CPU {cpu} online"))?;
    let on_it = || -> Result<usize> {
        let mut set = CpuSet::new();
        set.set(cpu as usize);
        sched_setaffinity(None, &set)?;
        Ok(sched_getcpu())
    };
    let ran = std::thread::scope(|scope| scope.spawn(on_it).join());
    let ran = ran.map_err(|_| anyhow::anyhow!("The thread on CPU {cpu} panicked"))??;
    equal("The CPU that a thread runs on", ran, cpu as usize)
}

/// Free memory of the host, in KiB.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub(crate) struct Free {
    /// As `MemFree` counts it.
    shared: u64,
    /// What CPUs keep at hand, which `MemFree` does not count: some MiB, and with it the sums before and
    /// after a boat differ by less than one.
    of_cpus: u64,
}

impl Free {
    pub(crate) fn now() -> Result<Self> {
        let number = |text: &str| -> Result<u64> {
            let first = text.split_whitespace().next();
            Ok(first.context("A line without a number")?.parse()?)
        };
        let meminfo = fs::read_to_string("/proc/meminfo")?;
        let mut lines = meminfo.lines();
        let shared = lines.find_map(|line| line.strip_prefix("MemFree:"));
        let zones = fs::read_to_string("/proc/zoneinfo")?;
        let counts = zones
            .lines()
            .filter_map(|line| line.trim().strip_prefix("count:"));
        let pages = counts.map(number).sum::<Result<u64>>()?;
        Ok(Self {
            shared: number(shared.context("/proc/meminfo has no MemFree")?)?,
            of_cpus: pages * 4,
        })
    }

    pub(crate) fn kib(self) -> u64 {
        self.shared + self.of_cpus
    }
}
