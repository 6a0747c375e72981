//! A small VMM whose guests survive a kexec of their host.
//!
//! | module | is about |
//! |---|---|
//! | `cli`, `commands`, `report` | what an operator types and reads |
//! | `spec` | what was asked for, checked |
//! | `machine` | a guest: built to boot, or restored |
//! | `boot`, `cpuid`, `memory` | what a booting kernel finds |
//! | `vcpu` | running, parking |
//! | `kvm` | KVM, and the state of its objects |
//! | `devices`, `console` | the serial port and where it leads |
//! | `virtio` | disks, networks and other devices |
//! | `pci`, `vfio` | devices of the host that the guest drives itself |
//! | `state` | a guest as sections of a state frame |
//! | `vmm`, `api`, `event_loop` | a running guest and what can be asked of it |
//! | `events`, `chronicle`, `metrics` | what happened to it, for who watches |
//! | `live_update` | the guest's side of an update |
//! | `handover` | another build of this VMM takes the guest over |

#![deny(unsafe_code)]

mod aml;
mod api;
mod boot;
mod chronicle;
mod cli;
mod commands;
mod console;
mod cpuid;
mod devices;
mod error;
mod event_loop;
mod events;
mod handover;
mod interrupt;
mod kvm;
mod live_update;
mod machine;
mod memory;
mod metrics;
mod pci;
mod report;
mod socket;
mod spec;
mod state;
mod tsc;
mod vcpu;
mod vfio;
mod virtio;
mod vmm;

use std::process::ExitCode;

use clap::Parser;
use vmm_fdbox::update::ExitStatus;

fn main() -> ExitCode {
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(help) => {
            // Help goes to standard output and is no error.
            let _ = help.print();
            let failed = help.use_stderr();
            return if failed {
                ExitStatus::Error
            } else {
                ExitStatus::Done
            }
            .into();
        }
    };
    match commands::execute(cli.command) {
        Ok(status) => status.into(),
        Err(error) => {
            error::warn(&error::chain(error.as_ref()));
            ExitStatus::Error.into()
        }
    }
}
