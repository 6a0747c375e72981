//! Console, API socket and standard streams of a VMM that gets its guest from another VMM of this
//! kernel.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use anyhow::Context;

use crate::commands::serve::Environment;
use crate::devices::console::ConsoleSource;
use crate::service::api::{Rights, Server, Servers};
use crate::service::endpoints::fd;
use crate::socket::Ownership;
use crate::spec::ConsoleSpec;
use crate::update::handover_info::HandoverInfo;

/// Takes over what the old VMM opened. It belongs to this process once the guest runs here.
pub(super) fn adopt(
    info: &HandoverInfo,
    mut fds: HashMap<String, OwnedFd>,
) -> anyhow::Result<Environment> {
    use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
    let cannot = "Cannot take standard input and output over";
    if let Some(stdin) = fds.remove(fd::STDIN) {
        dup2_stdin(stdin).context(cannot)?;
    }
    if let Some(stdout) = fds.remove(fd::STDOUT) {
        dup2_stdout(stdout).context(cannot)?;
    }
    if let Some(stderr) = fds.remove(fd::STDERR) {
        dup2_stderr(stderr).context(cannot)?;
    }
    let console: ConsoleSpec = info.console.parse()?;
    // Not before the guest runs here.
    let ownership = Ownership::new(false);
    let listener = fds.remove(fd::CONSOLE);
    let source = ConsoleSource::adopt(&console, listener, info.terminal, &ownership)?;
    let mut server = |path: Option<&PathBuf>, name, rights| {
        let (Some(path), Some(listener)) = (path, fds.remove(name)) else {
            return anyhow::Ok(None);
        };
        let server = Server::adopt(path, listener.into(), rights, &ownership);
        let context = || format!("Cannot take the socket {} over", path.display());
        server.map(Some).with_context(context)
    };
    let servers = Servers {
        api: server(info.api_socket.as_ref(), fd::API, Rights::of_owner())?,
        status: server(info.status_socket.as_ref(), fd::STATUS, Rights::Look)?,
    };
    Environment::with(&console, source, servers, ownership)
}
