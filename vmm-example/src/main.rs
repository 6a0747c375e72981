//! A small VMM whose guests survive a kexec of their host.
//!
//! | module | is about |
//! |---|---|
//! | `cli`, `commands` | what an operator types and reads |
//! | `service` | a running guest, what can be asked of it, and what happened to it |
//! | `update` | the guest's side of an update |
//! | `guest` | a guest: built to boot, or restored; vCPUs and state |
//! | `devices` | what a guest drives: serial port, virtio, devices of the host |
//! | `memory`, `kvm` | guest memory; KVM, and the state of its objects |
//! | `sandbox` | what the process gives up before a guest runs |
//! | `spec` | what was asked for, checked |
//! | `socket`, `files`, `inherited` | sockets to listen on, files that an operator names, descriptors left open |
//! | `identity` | who a process is, for another one to be the same |
//! | `metrics`, `error` | figures, showing errors |

#![deny(unsafe_code)]

mod cli;
mod commands;
mod devices;
mod error;
mod files;
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
