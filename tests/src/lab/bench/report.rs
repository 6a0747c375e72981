//! All measurements, in the form of `--json`.

use anyhow::Result;
use serde::Serialize;

use super::table::Table;
use super::{
    Bench, Missing, against, against_reads, binary, floor, homes, large, lifeboat, memfd, seal,
    update,
};
use crate::kernel::Flavour;
use crate::tsc::Clocks;

/// Programs rely on the fields: add new ones, but do not change existing ones.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) kernel: String,
    pub(crate) repeats: usize,
    pub(crate) host_update: Vec<update::Row>,
    pub(crate) floor: Option<floor::Floor>,
    pub(crate) seal_slowdown_percent: Option<f64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) seal: Vec<seal::Row>,
    pub(crate) binary_upgrade: Vec<binary::Row>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) homes: Vec<homes::Row>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) lifeboat: Vec<lifeboat::Row>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) large: Option<large::Large>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) against: Vec<against::Row>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) against_reads: Vec<against_reads::Row>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) against_slow: Option<against_reads::Slow>,
    /// Missing figures, and the reasons.
    pub(crate) missing: Vec<Missing>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) memfd: Vec<memfd::Row>,
}

/// The machine that runs the emulated host.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cpus: usize,
    pub(crate) memory_mib: u64,
    pub(crate) tsc_khz: u64,
    pub(crate) emulator: String,
    /// Other load: the load average when the bench began.
    pub(crate) load_average: String,
}

impl Report {
    pub(crate) fn new(bench: &Bench<'_>) -> Result<Self> {
        Ok(Self {
            machine: Machine::this(bench)?,
            kernel: bench.lab.kernels()?.get(Flavour::A)?.release,
            repeats: bench.repeats,
            ..Self::default()
        })
    }

    pub(crate) fn tables(&self) -> Vec<Table> {
        let mut tables = Vec::new();
        if !self.memfd.is_empty() {
            tables.push(memfd::table(&self.memfd));
        }
        if !self.host_update.is_empty() {
            tables.push(update::table(&self.host_update));
            tables.push(update::phases(&self.host_update));
        }
        if !self.homes.is_empty() {
            tables.push(homes::table(&self.homes));
        }
        if !self.lifeboat.is_empty() {
            tables.push(lifeboat::table(&self.lifeboat));
            tables.push(lifeboat::phases(&self.lifeboat));
        }
        if let Some(large) = &self.large {
            tables.push(large::points(large));
            tables.push(large::costs(large));
        }
        if !self.binary_upgrade.is_empty() {
            tables.push(binary::table(&self.binary_upgrade));
        }
        if !self.against.is_empty() {
            tables.push(against::table(&self.against));
            tables.extend(against::phase_table(&self.against));
        }
        if !self.against_reads.is_empty() {
            tables.push(against_reads::table(&self.against_reads));
        }
        tables.extend(self.against_slow.as_ref().map(against_reads::slow_table));
        if !self.seal.is_empty() {
            tables.push(seal::table(&self.seal));
        }
        tables.extend(self.floor.as_ref().map(floor::table));
        tables
    }
}

impl Machine {
    fn this(bench: &Bench<'_>) -> Result<Self> {
        let field = |file: &str, name: &str| -> Result<String> {
            let text = std::fs::read_to_string(file)?;
            let line = text.lines().find(|line| line.starts_with(name));
            let value = line.and_then(|line| line.split_once(':'));
            Ok(value.map_or_else(String::new, |(_, value)| value.trim().to_owned()))
        };
        let memory = field("/proc/meminfo", "MemTotal")?;
        let kib = memory
            .split(' ')
            .next()
            .and_then(|kib| kib.parse::<u64>().ok());
        Ok(Self {
            cpu: field("/proc/cpuinfo", "model name")?,
            cpus: std::thread::available_parallelism()?.get(),
            memory_mib: kib.unwrap_or_default() / 1024,
            tsc_khz: crate::tsc::khz(),
            emulator: match bench.clocks {
                Clocks::Time => "QEMU, TCG".to_owned(),
                Clocks::Instructions => "QEMU, TCG, an instruction a nanosecond".to_owned(),
            },
            load_average: std::fs::read_to_string("/proc/loadavg")?.trim().to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_find_the_fields_they_were_promised() {
        let report = Report {
            floor: Some(floor::Floor {
                stock_ns: Some(2),
                fast_ns: None,
                runs: Vec::new(),
            }),
            seal_slowdown_percent: Some(1.5),
            ..Report::default()
        };
        let json = serde_json::to_value(report).unwrap();
        for list in ["host_update", "binary_upgrade", "missing"] {
            assert!(json[list].is_array(), "{list}");
        }
        assert_eq!(json["floor"]["stock_ns"], 2);
        assert!(json["floor"]["fast_ns"].is_null());
        assert_eq!(json["seal_slowdown_percent"], 1.5);
        assert!(json["kernel"].is_string() && json["machine"]["cpu"].is_string());
    }
}
