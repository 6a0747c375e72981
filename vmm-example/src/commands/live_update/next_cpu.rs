//! CPU features of the guests that the next kernel's command line takes away.

use vmm_fdbox::Finding;

use crate::guest::cpuid::host::Optional;

/// A guest, and the features it was given.
pub(super) type Given<'a> = (&'a str, &'a [Optional]);

/// A blocker for each guest that the next host would refuse; a warning if it is to run anyway.
pub(super) fn findings(cmdline: &str, guests: &[Given<'_>], force: bool) -> Vec<Finding> {
    let taken = taken(cmdline);
    let mut findings = Vec::new();
    for (name, given) in guests {
        for (word, feature) in taken.iter().filter(|(_, feature)| given.contains(feature)) {
            let subject = format!("Next kernel's {word}");
            let problem = format!("guest {name} was given {feature}, which that host lacks");
            findings.push(match force {
                true => Finding::warning(subject, problem, "none is needed with --force-cpu"),
                false => Finding::blocker(
                    subject,
                    problem,
                    "leave it out, or give --force-cpu here and to `resume`",
                ),
            });
        }
    }
    findings
}

/// The words that switch a feature off, with the feature. The last word of a parameter counts.
fn taken(cmdline: &str) -> Vec<(&str, Optional)> {
    let words = cmdline.split_ascii_whitespace();
    let words: Vec<&str> = words.take_while(|word| *word != "--").collect();
    let switches = [
        ("kvm_amd.nested", Optional::Svm),
        ("kvm_intel.nested", Optional::Vmx),
        ("tsx", Optional::Tsx),
    ];
    let off = |(parameter, feature): (&str, Optional)| {
        let mut values = words.iter().rev().filter_map(|word| {
            let (name, value) = word.split_once('=')?;
            (name.replace('-', "_") == parameter).then_some((*word, value))
        });
        let (word, value) = values.next()?;
        // As the kernel parses a boolean.
        matches!(value, "0" | "n" | "N" | "off" | "OFF" | "Off").then_some((word, feature))
    };
    switches.into_iter().filter_map(off).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_has_must_not_be_switched_off() {
        let guests: [Given<'_>; 2] = [("a", &[Optional::Svm]), ("b", &[Optional::Tsx])];
        let findings = |cmdline, force| {
            let found = findings(cmdline, &guests, force);
            let as_pair = |finding: &Finding| (finding.is_blocker(), finding.to_string());
            found.iter().map(as_pair).collect::<Vec<_>>()
        };
        for fine in [
            "",
            "kho=on kvm_amd.nested=1 tsx=auto kvm_intel.nested=0",
            "kvm_amd.nested=0 kvm-amd.nested=1",
            "quiet -- kvm_amd.nested=0",
        ] {
            assert_eq!(findings(fine, false), [], "{fine}");
        }
        let off = findings("kvm-amd.nested=N tsx=off", false);
        assert_eq!(off.len(), 2);
        assert!(
            off[0].0 && off[0].1.contains("guest a was given SVM"),
            "{off:?}"
        );
        assert!(
            off[1].0 && off[1].1.contains("guest b was given TSX"),
            "{off:?}"
        );
        assert!(findings("tsx=off", true).iter().all(|(blocks, _)| !blocks));
    }
}
