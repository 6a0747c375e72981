//! Commands that a VMM answers with yes or no.

use anyhow::bail;
use vmm_fdbox::update::ExitStatus;

use crate::api::Client;
use crate::api::protocol::{Reply, Request};
use crate::cli::ApiArgs;

/// Sends a request; what the VMM refuses is an error.
pub(super) fn ask(args: &ApiArgs, request: &Request) -> anyhow::Result<ExitStatus> {
    match Client::connect(&args.api_socket)?.ask(request, |_| {})? {
        Reply::Ok => Ok(ExitStatus::Done),
        Reply::Error { message } => bail!(message),
        other => bail!("The VMM gave an unexpected answer: {other:?}"),
    }
}
