//! Options for the home of boxes.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use vmm_fdbox::Home;

/// The default socket of a keeper: not among the guests' sockets.
const KEEPER: &str = "/run/vmm-example-keeper";

/// What keeps the boxes of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum HomeArg {
    /// The FDBox module, or else a running keeper, or else LUO, or else a holder.
    Auto,
    /// The FDBox module.
    Fdbox,
    /// The kernel's Live Update Orchestrator: guests on memfds, on a kernel without patches.
    Luo,
    /// A process, for another VMM in this kernel.
    Holder,
}

/// Where boxes are kept.
#[derive(Clone, Debug, Args)]
pub(crate) struct HomeArgs {
    /// What keeps boxes while no VMM has them.
    #[arg(long, value_name = "HOME", value_enum, default_value = "auto")]
    pub(crate) home: HomeArg,
    /// The socket of the keeper for luo and holder. A keeper is started if none listens.
    #[arg(long, value_name = "PATH", default_value = KEEPER)]
    pub(crate) keeper: PathBuf,
}

impl HomeArgs {
    /// The options that name the same home to another command, each after a space.
    pub(crate) fn again(&self) -> String {
        let mut again = String::new();
        let is_named = self.home != HomeArg::Auto;
        if let Some(value) = self.home.to_possible_value().filter(|_| is_named) {
            again += &format!(" --home {}", value.get_name());
        }
        if self.keeper != Path::new(KEEPER) {
            again += &format!(" --keeper {}", self.keeper.display());
        }
        again
    }
}

/// Keep boxes on a kernel without the FDBox module.
///
/// Other commands start it when needed, and it exits when there are no boxes and no connections
/// left. It has to live until the host has left its kernel. As a service of systemd with FileDescriptorStoreMax= a holder
/// finds its sealed boxes again after a crash or a restart.
#[derive(Debug, Args)]
pub(crate) struct KeeperArgs {
    /// The home of the boxes: luo or holder.
    #[arg(long, value_name = "HOME", value_parser = parse_home)]
    pub(crate) home: Home,
    /// The socket to listen on. Default: the one that a service manager passes, or else the one that
    /// is open as standard output; an error is then written to the socket that is open as standard input.
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
}

fn parse_home(name: &str) -> Result<Home, &'static str> {
    match name {
        "luo" => Ok(Home::Luo),
        "holder" => Ok(Home::Holder),
        _ => Err("use luo or holder"),
    }
}
