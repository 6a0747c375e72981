//! `vmm-example doctor` on three kinds of host: a patched kernel with the module, an unpatched one with LUO, and an
//! unpatched one without KHO.

use std::process::Command;

use anyhow::{Context, Result};
use fdbox_lab::scenario::HostKind;
use serde_json::{Value, json};

use super::{Cx, Scenario};
use crate::check::equal;
use crate::guest::VMM;
use crate::host;

pub(super) const ALL: &[&Scenario] = &[
    &Scenario {
        name: "doctor/with-module",
        about: "on a host with patches and module the doctor reports that guests survive a \
                kexec",
        host: HostKind::GuestOneBoot,
        stages: &[with_module],
    },
    &Scenario {
        name: "doctor/luo",
        about: "on an unpatched kernel the doctor finds LUO, and reports that a module \
                alone is not enough",
        host: HostKind::UnpatchedNoModule,
        stages: &[luo],
    },
    &Scenario {
        name: "doctor/without-kho",
        about: "on a kernel without KHO the doctor reports that, and what to do",
        host: HostKind::UnpatchedNoKho,
        stages: &[without_kho],
    },
];

/// The output of the doctor.
struct Diagnosis(Value);

impl Diagnosis {
    fn ask(status: i32) -> Result<Self> {
        let output = Command::new(VMM).args(["doctor", "--json"]).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        println!("{text}");
        equal("The exit status", output.status.code(), Some(status))?;
        // The table has the same status.
        let table = Command::new(VMM).arg("doctor").output()?;
        print!("{}", String::from_utf8_lossy(&table.stdout));
        equal("The same as a table", table.status.code(), Some(status))?;
        let json = serde_json::from_str(&text).context("The diagnosis is JSON")?;
        Ok(Self(json))
    }

    fn fact(&self, name: &str) -> Result<&Value> {
        let facts = self.0["facts"].as_array().context("There are no facts")?;
        let mut facts = facts.iter();
        let fact = facts.find(|fact| fact["name"] == name);
        fact.with_context(|| format!("There is no fact {name}"))
    }

    fn states(&self, expected: &[(&str, &str)]) -> Result<()> {
        for (name, state) in expected {
            let fact = self.fact(name)?;
            equal(name, &fact["state"], &json!(state))?;
            let has_nothing_to_do = fact["do"].is_null();
            equal(name, has_nothing_to_do, *state == "ok")?;
        }
        Ok(())
    }
}

fn with_module(_: &Cx<'_>) -> Result<()> {
    let diagnosis = Diagnosis::ask(0)?;
    equal("The home", &diagnosis.0["home"], &json!("fdbox"))?;
    equal(
        "Guests survive",
        &diagnosis.0["works"]["kexec"],
        &json!(true),
    )?;
    diagnosis.states(&[
        ("home.fdbox", "ok"),
        ("home.luo", "ok"),
        ("home.holder", "ok"),
        ("kind.memfd", "ok"),
        ("kind.kvm-vm", "ok"),
        ("kind.guest-memfd", "ok"),
        ("kind.vfio-pci", "ok"),
        ("kind.hugetlb", "ok"),
        ("module.patches", "ok"),
        ("kho.on", "ok"),
        ("kho.previous-kernel", "ok"),
        ("kexec.rights", "ok"),
        ("kexec.signature", "ok"),
        ("kvm.device", "ok"),
        ("kvm.guest-memfd", "ok"),
        ("kvm.nested-paging", "ok"),
    ])
}

fn luo(_: &Cx<'_>) -> Result<()> {
    let diagnosis = Diagnosis::ask(0)?;
    equal("The home", &diagnosis.0["home"], &json!("luo"))?;
    diagnosis.states(&[
        ("home.fdbox", "missing"),
        ("home.luo", "ok"),
        ("home", "ok"),
        ("kind.memfd", "ok"),
        ("kind.kvm-vm", "missing"),
        ("module.patches", "missing"),
        ("kho.on", "ok"),
        ("kvm.device", "ok"),
    ])?;
    host::load_module("fdbox")?;
    let diagnosis = Diagnosis::ask(0)?;
    diagnosis.states(&[("home.fdbox", "missing"), ("kind.kvm-vm", "missing")])?;
    let found = diagnosis.fact("home.fdbox")?["found"]
        .as_str()
        .unwrap_or_default();
    equal("Why", found.contains("keeps no VM"), true)
}

fn without_kho(_: &Cx<'_>) -> Result<()> {
    let diagnosis = Diagnosis::ask(10)?;
    equal("The home", &diagnosis.0["home"], &json!("holder"))?;
    equal("Guests run", &diagnosis.0["works"]["guests"], &json!(true))?;
    equal(
        "Guests survive",
        &diagnosis.0["works"]["kexec"],
        &json!(false),
    )?;
    diagnosis.states(&[
        ("home.fdbox", "missing"),
        ("home.luo", "missing"),
        ("home.holder", "ok"),
        ("home", "missing"),
        ("kho.on", "missing"),
        ("kexec.support", "ok"),
        ("kvm.device", "ok"),
    ])
}
