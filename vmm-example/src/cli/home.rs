//! Where boxes are.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use vmm_fdbox::Home;

/// Where a keeper listens, unless somebody says otherwise: not among the guests' sockets.
const KEEPER: &str = "/run/vmm-example-keeper";

/// What keeps the boxes of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum HomeArg {
    /// The FDBox module, or else a keeper that runs, or else LUO, or else a holder.
    Auto,
    /// The FDBox module.
    Fdbox,
    /// The kernel's Live Update Orchestrator: guests on memfds, on a kernel without patches.
    Luo,
    /// A process: for another VMM in this kernel.
    Holder,
}

/// Where boxes are.
#[derive(Clone, Debug, Args)]
pub(crate) struct HomeArgs {
    /// What keeps the guest meanwhile.
    #[arg(long, value_name = "HOME", value_enum, default_value = "auto")]
    pub(crate) home: HomeArg,
    /// The socket of the keeper of luo and holder. One is started if none listens.
    #[arg(long, value_name = "PATH", default_value = KEEPER)]
    pub(crate) keeper: PathBuf,
}

/// Keep boxes on a kernel without the FDBox module.
///
/// Other commands start it when they need it, and it ends when there is neither a box any more nor
/// anybody who is connected. It has to live until the host has left its kernel.
#[derive(Debug, Args)]
pub(crate) struct KeeperArgs {
    /// What is behind it: luo or holder.
    #[arg(long, value_name = "HOME", value_parser = parse_home)]
    pub(crate) home: Home,
    /// The socket to listen on. Default: one that was opened as standard input.
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
}

fn parse_home(name: &str) -> Result<Home, &'static str> {
    match name {
        "luo" => Ok(Home::Luo),
        "holder" => Ok(Home::Holder),
        _ => Err("a keeper is of luo or holder"),
    }
}
