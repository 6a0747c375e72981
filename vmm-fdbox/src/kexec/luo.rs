//! Whether the next kernel takes over what LUO was given.

use std::collections::BTreeSet;
use std::path::Path;

use super::cmdline;
use super::image::BzImage;
use super::takeover::TakeOver;
use crate::facts::HostRoot;
use crate::finding::Finding;
use crate::kind::Kind;

/// Of a kernel that has LUO keep memory.
const LUO_MEMFD: &str = "CONFIG_LIVEUPDATE_MEMFD";

/// `image`: `None` if the next kernel's cannot be looked into.
pub(super) fn check(
    root: &HostRoot,
    path: &Path,
    image: Option<&BzImage>,
    cmdline: &str,
    kinds: &BTreeSet<Kind>,
) -> Vec<Finding> {
    let subject = path.display().to_string();
    let mut findings = Vec::new();
    if cmdline::is_on(cmdline, "liveupdate") != Some(true) {
        findings.push(Finding::blocker(
            "Kernel command line",
            "it lacks liveupdate=on, and what LUO keeps would be lost",
            "add liveupdate=on",
        ));
    }
    let release = image.and_then(|image| image.release.as_deref());
    let is_built = release.and_then(|it| root.is_built_with(it, Some(path), LUO_MEMFD));
    if is_built == Some(false) {
        findings.push(Finding::blocker(
            &subject,
            format!("it is built without {LUO_MEMFD}, and memfds would be lost"),
            "name a kernel that has it, Linux 6.19 or later",
        ));
    }
    if let Some(takes) = image.and_then(|image| image.info.takes) {
        for what in takes.lacks(TakeOver::needed_by(Kind::Other)) {
            let problem = format!("it is not built to {what}");
            findings.push(Finding::blocker(&subject, problem, "name one that is"));
        }
    }
    for kind in kinds.iter().filter(|kind| **kind != Kind::Memfd) {
        findings.push(Finding::blocker(
            "LUO",
            format!("it keeps no {kind}"),
            "run guests with --memory kind=memfd and without devices of the host, or load fdbox.ko",
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::kexec::testing::{assert_documented, bzimage};

    fn found(cmdline: &str, kinds: &[Kind], config: Option<&str>) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kernel");
        fs::write(&path, bzimage(None)).unwrap();
        if let Some(config) = config {
            fs::write(dir.path().join("config-7.3.4-next+"), config).unwrap();
        }
        let image = BzImage::read(&fs::File::open(&path).unwrap()).unwrap();
        let kinds = kinds.iter().copied().collect();
        let root = HostRoot::new(dir.path());
        let found = check(&root, &path, Some(&image), cmdline, &kinds);
        assert!(found.iter().all(Finding::is_blocker));
        found.iter().map(|found| found.problem.clone()).collect()
    }

    #[test]
    fn a_kernel_as_distributions_have_it_is_taken() {
        for cmdline in ["kho=on liveupdate=on", "liveupdate=0 liveupdate=1"] {
            assert_eq!(found(cmdline, &[Kind::Memfd], None), [""; 0]);
        }
        let config = Some("CONFIG_LIVEUPDATE=y\nCONFIG_LIVEUPDATE_MEMFD=y\n");
        assert_eq!(found("liveupdate=on", &[Kind::Memfd], config), [""; 0]);
    }

    #[test]
    fn what_would_lose_the_guest_is_reported() {
        for cmdline in ["", "liveupdate", "liveupdate=off", "-- liveupdate=on"] {
            let found = found(cmdline, &[], None);
            assert!(found[0].contains("lacks liveupdate=on"), "{found:?}");
            assert_documented(&found[0]);
        }
        let found_without = found("liveupdate=on", &[], Some("CONFIG_LIVEUPDATE=y\n"));
        assert_documented(&found_without[0]);
        let kinds = [Kind::Memfd, Kind::GuestMemfd, Kind::VfioPci];
        let found = found("liveupdate=on", &kinds, None);
        assert_eq!(
            found,
            ["it keeps no guest_memfds", "it keeps no VFIO devices"]
        );
    }
}
