//! A small VMM whose guests survive a kexec of their host.
//!
//! | module | content |
//! |---|---|
//! | `cli`, `commands` | the command line and the commands |
//! | `service` | a running guest, the requests it serves, and its history |
//! | `update` | the guest's side of an update |
//! | `guest` | a guest: built to boot, or restored; vCPUs and state |
//! | `devices` | the guest's devices: serial port, virtio, passed-through devices |
//! | `memory`, `kvm` | guest memory; KVM, and the state of its objects |
//! | `sandbox` | the privileges that the process drops before a guest runs |
//! | `spec` | the operator's requests, checked |
//! | `socket`, `files`, `inherited`, `activation` | sockets to listen on, files named by an operator, inherited descriptors, also those of a service manager |
//! | `identity` | the identity of a process, for giving it to another one |
//! | `metrics`, `error` | metrics, output of errors |

#![deny(unsafe_code)]

mod activation;
mod cli;
mod commands;
mod devices;
mod error;
mod files;
#[path = "../../vmm-fdbox/src/fuzz/mod.rs"]
#[cfg(test)]
mod fuzz;
mod guest;
mod identity;
mod inherited;
mod kvm;
mod memory;
mod metrics;
mod sandbox;
mod service;
mod socket;
mod spec;
mod update;

use std::process::ExitCode;

use clap::Parser;
use vmm_fdbox::update::ExitStatus;

fn main() -> ExitCode {
    let arguments = match cli::expand(std::env::args_os().collect()) {
        Ok(arguments) => arguments,
        Err(error) => {
            error::warn(&error::chain(&error));
            return ExitStatus::Error.into();
        }
    };
    let cli = match cli::Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(help) => {
            // Help goes to standard output and is not an error.
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
