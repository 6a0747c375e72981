//! Findings of checks: reasons not to update, or warnings.

use std::fmt;

/// The severity of a [`Finding`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Severity {
    /// The update would fail, so it is not started.
    Blocker,
    /// The update may proceed; the operator should know.
    Warning,
}

/// The result of a check, for an operator to read.
///
/// ```
/// use vmm_fdbox::Finding;
/// let finding = Finding::blocker("net0", "a tap cannot be kept", "detach it first");
/// assert_eq!(finding.to_string(), "net0: a tap cannot be kept: detach it first");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Finding {
    /// Whether it stops the update.
    pub severity: Severity,
    /// The subject: a device, a section, a file.
    pub subject: String,
    /// What is wrong.
    pub problem: String,
    /// What to do.
    pub remedy: String,
}

impl Finding {
    /// A finding that would make the update fail.
    pub fn blocker(
        subject: impl Into<String>,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            severity: Severity::Blocker,
            subject: subject.into(),
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }

    /// A finding that does not stop the update.
    pub fn warning(
        subject: impl Into<String>,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::blocker(subject, problem, remedy)
        }
    }

    /// Whether it stops the update.
    #[must_use]
    pub fn is_blocker(&self) -> bool {
        self.severity == Severity::Blocker
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.subject, self.problem, self.remedy)
    }
}
