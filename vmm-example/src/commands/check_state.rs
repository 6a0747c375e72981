//! `check-state`: checks whether this binary can read what another one would write.

use std::io::{self, Read};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use vmm_fdbox::Finding;
use vmm_fdbox::frame::Description;
use vmm_fdbox::member::VERSION;
use vmm_fdbox::update::ExitStatus;

use crate::cli::CheckStateArgs;
use crate::devices::virtio::needs;
use crate::error::print;
use crate::guest::state;

/// The answer of the command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Verdict {
    /// Name and version of the program.
    pub(super) program: String,
    /// The version of the member protocol that it speaks.
    pub(super) handover: u32,
    pub(super) findings: Vec<Finding>,
}

/// The maximum length of a description in bytes.
const MAX_DESCRIPTION: u64 = 1 << 20;

pub(super) fn check_state(args: &CheckStateArgs) -> anyhow::Result<ExitStatus> {
    let text = if args.sections == "-" {
        let mut text = String::new();
        io::stdin()
            .take(MAX_DESCRIPTION)
            .read_to_string(&mut text)
            .context("Cannot read standard input")?;
        text
    } else {
        args.sections.clone()
    };
    let verdict = judge(&text)?;
    print(&format!("{}\n", serde_json::to_string(&verdict)?))?;
    Ok(if verdict.findings.is_empty() {
        ExitStatus::Done
    } else {
        ExitStatus::NothingChanged
    })
}

fn judge(text: &str) -> anyhow::Result<Verdict> {
    let described: Description =
        serde_json::from_str(text).context("This does not describe a VM state")?;
    let mut findings = described.check(&state::KNOWN);
    findings.extend(needs::unmet(&described));
    Ok(Verdict {
        program: state::PRODUCER.into(),
        handover: VERSION,
        findings,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(section: &str) -> Verdict {
        let text = format!(
            r#"{{"architecture":"x86_64","format":1,"producer":"vmm-example 9","later":true,
                "sections":[{{"name":"machine","version":1,"required":true}},{section}]}}"#
        );
        judge(&text).unwrap()
    }

    #[test]
    fn what_this_version_writes_it_reads() {
        let text = serde_json::to_string(&state::description(&[])).unwrap();
        assert!(judge(&text).unwrap().findings.is_empty());
    }

    #[test]
    fn an_unknown_section_counts_if_it_is_required() {
        let verdict = with(r#"{"name":"npu","version":1,"required":false}"#);
        assert!(verdict.findings.is_empty());
        let verdict = with(r#"{"name":"npu","version":1,"required":true}"#);
        assert_eq!(verdict.findings[0].subject, "Section 'npu'");
        let verdict = with(r#"{"name":"serial","version":99,"required":true}"#);
        assert_eq!(verdict.findings[0].subject, "Section 'serial'");
    }

    #[test]
    fn what_is_no_description_is_an_error() {
        assert!(judge("[]").is_err() && judge("").is_err());
    }
}
