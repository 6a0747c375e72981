//! A single fact about a host, as found and as reported.

use std::fmt;

use crate::finding::Finding;

/// The state of a [`Fact`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum FactState {
    /// As it should be.
    Ok,
    /// Not there, or in the way.
    Missing,
    /// It cannot be known.
    Unknown,
}

impl fmt::Display for FactState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Missing => "missing",
            Self::Unknown => "unknown",
        })
    }
}

/// What does not work if a [`Fact`] is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Need {
    /// Running guests at all.
    Guest,
    /// Updating the host under a guest.
    Kexec,
    /// Passing a device of the host to a guest.
    Device,
    /// Nothing: it is only information.
    Nothing,
}

/// One fact about a host, for an operator to read.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Fact {
    /// Its name, for programs: the subject, a dot, and the aspect.
    pub name: String,
    /// Its state.
    pub state: FactState,
    /// What it is needed for.
    #[serde(rename = "for")]
    pub need: Need,
    /// What was found.
    pub found: String,
    /// What to do about it; `None` if it is [`FactState::Ok`].
    #[serde(rename = "do")]
    pub remedy: Option<String>,
}

impl Fact {
    /// A fact that is as it should be.
    pub fn ok(name: impl Into<String>, need: Need, found: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            state: FactState::Ok,
            need,
            found: found.into(),
            remedy: None,
        }
    }

    /// Something that is not there, or in the way.
    pub fn missing(
        name: impl Into<String>,
        need: Need,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            state: FactState::Missing,
            remedy: Some(remedy.into()),
            ..Self::ok(name, need, found)
        }
    }

    /// Something that cannot be known.
    pub fn unknown(
        name: impl Into<String>,
        need: Need,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            state: FactState::Unknown,
            ..Self::missing(name, need, found, remedy)
        }
    }

    /// Turns a finding of an update's checks into a fact: a blocker becomes `Missing`, a warning `Unknown`.
    #[must_use]
    pub fn of_finding(name: impl Into<String>, need: Need, finding: &Finding) -> Self {
        let make = match finding.is_blocker() {
            true => Self::missing,
            false => Self::unknown,
        };
        make(
            name.into(),
            need,
            finding.problem.clone(),
            finding.remedy.clone(),
        )
    }

    /// Whether `need` does not work because of this fact.
    #[must_use]
    pub fn rules_out(&self, need: Need) -> bool {
        self.state == FactState::Missing && self.need == need
    }

    /// The finding that an update reports for it; `None` if it is `Ok`.
    pub(crate) fn finding(&self, subject: &str) -> Option<Finding> {
        let make = match self.state {
            FactState::Ok => return None,
            FactState::Missing => Finding::blocker,
            FactState::Unknown => Finding::warning,
        };
        let remedy = self.remedy.clone().unwrap_or_default();
        Some(make(subject.to_owned(), self.found.clone(), remedy))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_find_the_fields_they_were_promised() {
        let fact = Fact::missing("kvm.device", Need::Guest, "it is not there", "load it");
        let json = serde_json::to_value(&fact).unwrap();
        let expected = serde_json::json!({
            "name": "kvm.device", "state": "missing", "for": "guest",
            "found": "it is not there", "do": "load it",
        });
        assert_eq!(json, expected);
        assert!(fact.rules_out(Need::Guest) && !fact.rules_out(Need::Kexec));
        let fact = Fact::ok("x", Need::Nothing, "y");
        assert_eq!(
            serde_json::to_value(&fact).unwrap()["do"],
            serde_json::Value::Null
        );
    }

    #[test]
    fn findings_and_facts_say_the_same() {
        let findings = [
            Finding::blocker("kexec", "it is off", "switch it on"),
            Finding::warning("kexec", "it may be off", "look"),
        ];
        for finding in findings {
            let fact = Fact::of_finding("kexec.on", Need::Kexec, &finding);
            assert_eq!(fact.finding("kexec"), Some(finding));
        }
        assert_eq!(Fact::ok("x", Need::Kexec, "on").finding("kexec"), None);
    }
}
