//! What an update says of itself.

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// How long a phase took, in ns: of the `blackout`, or of what was `before` it.
pub(crate) fn phase(report: &Value, of: &str, name: &str) -> Result<u64> {
    let phases = match of {
        "blackout" => &report["blackout"]["phases"],
        _ => &report[of],
    };
    let mut phases = phases.as_array().into_iter().flatten();
    let phase = phases.find(|phase| phase["name"] == name);
    let ns = phase.and_then(|phase| phase["ns"].as_u64());
    ns.with_context(|| format!("The report has the phase {name}: {report}"))
}

/// What an update that went wrong tells programs of each guest in the end.
pub(crate) fn ends(lines: &str) -> Result<Vec<Value>> {
    let lines = lines
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    let mut ends = lines.filter(|line: &Value| line["exit_status"].is_u64());
    let end = ends.next().context("An end")?;
    Ok(match end["guests"].as_array() {
        Some(guests) => guests.clone(),
        None => vec![end],
    })
}

/// No guest stood still in it.
pub(crate) fn never_paused(lines: &str) -> Result<()> {
    let ends = ends(lines)?;
    let paused = |guest: &&Value| !guest["paused_ns"].is_null();
    match ends.iter().find(paused) {
        Some(guest) => bail!("It was paused: {guest}"),
        None => Ok(()),
    }
}
