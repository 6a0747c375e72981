//! Commands that a VMM answers with success or an error.

use std::io::{self, Write};

use anyhow::bail;
use vmm_fdbox::update::ExitStatus;

use crate::cli::ApiArgs;
use crate::error::{print, printable};
use crate::service::api::Client;
use crate::service::api::protocol::{Reply, Request};

/// Sends a request; a refusal by the VMM is an error.
pub(super) fn ask(args: &ApiArgs, request: &Request) -> anyhow::Result<ExitStatus> {
    match Client::connect(&args.api_socket)?.ask(request, |_| {})? {
        Reply::Ok => Ok(ExitStatus::Done),
        Reply::Error { message } => bail!(message),
        other => bail!("The VMM gave an unexpected answer: {other:?}"),
    }
}

/// Prints the events of a guest, until its VMM ends or the output is closed.
pub(super) fn events(args: &ApiArgs) -> anyhow::Result<ExitStatus> {
    let mut client = Client::connect(&args.api_socket)?;
    client.listen(&Request::Events {}, |reply| match reply {
        Reply::Notice(notice) => {
            let mut out = io::stdout().lock();
            writeln!(out, "{}", printable(&serde_json::to_string(notice)?))?;
            out.flush()
        }
        Reply::Error { message } => Err(io::Error::other(message.clone())),
        _ => Ok(()),
    })?;
    Ok(ExitStatus::Done)
}

/// Prints a guest's metrics.
pub(super) fn metrics(args: &ApiArgs) -> anyhow::Result<ExitStatus> {
    match Client::connect(&args.api_socket)?.ask(&Request::Metrics {}, |_| {})? {
        Reply::Metrics { text } => {
            print(&text)?;
            Ok(ExitStatus::Done)
        }
        Reply::Error { message } => bail!(message),
        other => bail!("The VMM gave an unexpected answer: {other:?}"),
    }
}
