//! A frame's table without the frame: what one program would write, for another to check.

use std::env::consts::ARCH;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::known::KnownSection;
use super::{FORMAT_MAJOR, Need};
use crate::finding::Finding;

/// A description of the frames that a program writes.
///
/// ```
/// use vmm_fdbox::frame::{Description, KnownSection, Need};
///
/// let described = Description::new("vmm 2", [("clock", 2, Need::Required)]);
/// let known = [KnownSection::new("clock", 1, 1)];
/// assert_eq!(described.check(&known)[0].subject, "Section 'clock'");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// The architecture, as Rust and Linux call it.
    pub architecture: String,
    /// The major version of the frame's format.
    pub format: u16,
    /// Name and version of the program.
    pub producer: String,
    /// The sections.
    pub sections: Vec<DescribedSection>,
}

/// A section of a [`Description`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DescribedSection {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: u32,
    /// Whether a reader must know it.
    pub required: bool,
    /// Further requirements on a reader, in the VMM's own terms; null if there are none. The
    /// library does not interpret them.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub needs: Value,
}

impl Description {
    /// What this program writes, on this machine.
    pub fn new<'a>(
        producer: impl Into<String>,
        sections: impl IntoIterator<Item = (&'a str, u32, Need)>,
    ) -> Self {
        let section = |(name, version, need): (&str, u32, Need)| DescribedSection {
            name: name.to_owned(),
            version,
            required: need == Need::Required,
            needs: Value::Null,
        };
        Self {
            architecture: ARCH.to_owned(),
            format: FORMAT_MAJOR,
            producer: producer.into(),
            sections: sections.into_iter().map(section).collect(),
        }
    }

    /// Sets further requirements on the reader of a section.
    #[must_use]
    pub fn with_needs(mut self, section: &str, needs: Value) -> Self {
        let of_it = self.sections.iter_mut().find(|own| own.name == section);
        if let Some(section) = of_it {
            section.needs = needs;
        }
        self
    }

    /// The reasons why a program that knows `known` cannot read such a frame: blockers only.
    #[must_use]
    pub fn check(&self, known: &[KnownSection]) -> Vec<Finding> {
        let mut blockers: Vec<_> = wrong_architecture(&self.architecture).into_iter().collect();
        if self.format != FORMAT_MAJOR {
            blockers.push(Finding::blocker(
                "VM state",
                format!(
                    "{} writes format {}, this binary reads {FORMAT_MAJOR}",
                    self.producer, self.format
                ),
                "use a binary that reads it",
            ));
        }
        let required = self.sections.iter().filter(|section| section.required);
        blockers.extend(required.filter_map(|section| {
            unreadable(&section.name, section.version, &self.producer, known)
        }));
        blockers
    }
}

pub(super) fn wrong_architecture(architecture: &str) -> Option<Finding> {
    (architecture != ARCH).then(|| {
        Finding::blocker(
            "VM state",
            format!("it is of a {architecture} host, this one is {ARCH}"),
            "resume it where it was written",
        )
    })
}

/// The reason why a required section cannot be read, if any.
pub(super) fn unreadable(
    name: &str,
    version: u32,
    producer: &str,
    known: &[KnownSection],
) -> Option<Finding> {
    let subject = format!("Section '{name}'");
    let Some(section) = known.iter().find(|section| section.name == name) else {
        return Some(Finding::blocker(
            subject,
            format!("{producer} wrote it as required and this binary does not know it"),
            "resume with that version or a newer one",
        ));
    };
    if (section.oldest..=section.newest).contains(&version) {
        return None;
    }
    let remedy = if version > section.newest {
        "newer"
    } else {
        "older"
    };
    Some(Finding::blocker(
        subject,
        format!(
            "it has version {version}, this binary reads {} to {}",
            section.oldest, section.newest
        ),
        format!("resume with a {remedy} binary"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [KnownSection; 2] = [
        KnownSection::new("machine", 1, 1),
        KnownSection::new("serial", 2, 3),
    ];

    fn check(sections: &[(&str, u32, Need)]) -> Vec<String> {
        let described = Description::new("vmm 2", sections.iter().copied());
        let findings = described.check(&KNOWN);
        assert!(findings.iter().all(Finding::is_blocker));
        findings.into_iter().map(|found| found.subject).collect()
    }

    #[test]
    fn known_sections_and_optional_ones_are_fine() {
        assert!(
            check(&[
                ("machine", 1, Need::Required),
                ("serial", 3, Need::Required)
            ])
            .is_empty()
        );
        assert!(check(&[("new", 7, Need::Optional)]).is_empty());
    }

    #[test]
    fn each_section_in_the_way_is_named() {
        let found = check(&[
            ("new", 1, Need::Required),
            ("machine", 2, Need::Required),
            ("serial", 1, Need::Required),
        ]);
        assert_eq!(
            found,
            ["Section 'new'", "Section 'machine'", "Section 'serial'"]
        );
    }

    #[test]
    fn another_architecture_or_format_is_refused() {
        let mut described = Description::new("vmm 2", []);
        described.architecture = "pdp11".into();
        described.format += 1;
        assert_eq!(described.check(&KNOWN).len(), 2);
    }
}
