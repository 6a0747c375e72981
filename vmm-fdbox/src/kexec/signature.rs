//! Whether this kernel will accept an image, as far as its signature is concerned.
//!
//! `kexec_file_load` (kernel/kexec_file.c in Linux 7.3) only checks signatures with `CONFIG_KEXEC_SIG`. An image that
//! fails the check is refused with `CONFIG_KEXEC_SIG_FORCE`, and under lockdown unless IMA appraises the image.

use std::fs;

use crate::facts::{Fact, HostRoot, Need};
use crate::finding::Finding;

const LOCKDOWN: &str = "sys/kernel/security/lockdown";
const SECURE_BOOT: &str =
    "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
const SIGN_IT: &str = "sign the image with a key that this kernel trusts (sbsign)";

/// What this kernel requires of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Demand {
    Nothing,
    /// A valid signature.
    Forced,
    /// Probably a valid signature; the text says why.
    Likely(String),
    /// A signature that it cannot check; the text says why.
    Impossible(String),
}

impl Demand {
    fn of(root: &HostRoot) -> Self {
        if root.is_built_here_with("CONFIG_KEXEC_SIG") == Some(false) {
            return Self::Nothing;
        }
        if root.is_built_here_with("CONFIG_KEXEC_SIG_FORCE") == Some(true) {
            return Self::Forced;
        }
        let Some(level) = lockdown(root) else {
            return match is_secure_boot(root) {
                true => Self::Likely("this host booted with secure boot".into()),
                false => Self::Nothing,
            };
        };
        let because = format!("this kernel is locked down ({level})");
        let lacks = |option| root.is_built_here_with(option) == Some(false);
        match lacks("CONFIG_KEXEC_BZIMAGE_VERIFY_SIG") && lacks("CONFIG_IMA_APPRAISE") {
            true => Self::Impossible(because),
            false => Self::Likely(because),
        }
    }
}

/// Checks an image. Only the kernel knows its keys, so this only reports what it will require.
pub(super) fn check(root: &HostRoot, subject: &str, is_signed: bool) -> Option<Finding> {
    let because = match Demand::of(root) {
        Demand::Nothing => return None,
        Demand::Forced if !is_signed => {
            return Some(Finding::blocker(
                subject,
                "it has no signature, and this kernel loads signed images only (CONFIG_KEXEC_SIG_FORCE)",
                SIGN_IT,
            ));
        }
        Demand::Forced => "this kernel loads signed images only".into(),
        Demand::Impossible(because) => {
            return Some(Finding::blocker(
                subject,
                format!("{because}, and cannot check a bzImage's signature: it loads none"),
                "boot this one without lockdown=, or one with CONFIG_KEXEC_BZIMAGE_VERIFY_SIG",
            ));
        }
        // Without lockdown, secure boot requires no more than some signature.
        Demand::Likely(_) if is_signed && lockdown(root).is_none() => return None,
        Demand::Likely(because) => because,
    };
    let (problem, remedy) = if is_signed {
        let problem = "whether it trusts the image's signature cannot be known before it is loaded";
        (problem, "load it once with `kexec -l -s` to find out")
    } else {
        ("it may refuse an image without a signature", SIGN_IT)
    };
    Some(Finding::warning(
        subject,
        format!("{because}: {problem}"),
        remedy,
    ))
}

/// The same for any image.
pub(super) fn fact(root: &HostRoot) -> Fact {
    const NAME: &str = "kexec.signature";
    let unknown = |found: String| {
        let remedy = "sign the next kernel with a key that this one trusts (sbsign), and try it with `kexec -l -s`";
        Fact::unknown(NAME, Need::Kexec, found, remedy)
    };
    match Demand::of(root) {
        Demand::Nothing => Fact::ok(NAME, Need::Kexec, "no signature is required"),
        Demand::Forced => unknown("this kernel loads signed images only".into()),
        Demand::Likely(because) => unknown(format!("{because}: it may load signed images only")),
        Demand::Impossible(because) => Fact::missing(
            NAME,
            Need::Kexec,
            format!("{because}, and cannot check a bzImage's signature: it loads none"),
            "boot it without lockdown=, or one with CONFIG_KEXEC_BZIMAGE_VERIFY_SIG",
        ),
    }
}

/// The lockdown level; `None` if there is none or it cannot be read.
pub(crate) fn lockdown(root: &HostRoot) -> Option<String> {
    let text = root.read(LOCKDOWN)?;
    let (_, level) = text.split_once('[')?;
    let (level, _) = level.split_once(']')?;
    (level != "none").then(|| level.to_owned())
}

fn is_secure_boot(root: &HostRoot) -> bool {
    fs::read(root.join(SECURE_BOOT)).is_ok_and(|bytes| bytes.last() == Some(&1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::FactState;
    use crate::facts::testing::FakeRoot;
    use crate::kexec::testing::assert_documented;

    fn host() -> FakeRoot {
        let host = FakeRoot::new();
        host.set("proc/sys/kernel/osrelease", "7.3.4\n");
        host
    }

    #[track_caller]
    fn signature(host: &FakeRoot, is_signed: bool) -> Finding {
        check(&host.root(), "/boot/k", is_signed).unwrap()
    }

    #[test]
    fn an_image_without_a_signature_is_told_where_one_is_asked_for() {
        let host = host();
        let found = |is_signed| check(&host.root(), "/boot/k", is_signed);
        assert_eq!(found(false), None);
        host.set(LOCKDOWN, "[none] integrity confidentiality\n");
        host.set(SECURE_BOOT, [6, 0, 0, 0, 0]);
        assert_eq!(found(false), None);

        host.set(SECURE_BOOT, [6, 0, 0, 0, 1]);
        let unsigned = signature(&host, false);
        assert!(!unsigned.is_blocker(), "{unsigned}");
        assert!(unsigned.problem.contains("secure boot"), "{unsigned}");
        assert_eq!(found(true), None);

        host.set(LOCKDOWN, "none [integrity] confidentiality\n");
        let unsigned = signature(&host, false);
        assert!(!unsigned.is_blocker(), "{unsigned}");
        assert!(
            unsigned.problem.contains("locked down (integrity)"),
            "{unsigned}"
        );
        let signed = signature(&host, true);
        assert!(
            signed.problem.contains("cannot be known before"),
            "{signed}"
        );

        host.set(
            "boot/config-7.3.4",
            "CONFIG_KEXEC_FILE=y\nCONFIG_KEXEC_SIG=y\nCONFIG_KEXEC_SIG_FORCE=y\n",
        );
        assert!(signature(&host, false).is_blocker());
        assert!(!signature(&host, true).is_blocker());
        for problem in [
            "this host booted with secure boot",
            "this kernel is locked down",
            "it may refuse an image without a signature",
            "trusts the image's signature cannot be known",
            "this kernel loads signed images only",
        ] {
            assert_documented(problem);
        }
    }

    #[test]
    fn a_kernel_that_is_locked_down_and_checks_no_signature_loads_nothing() {
        let host = host();
        host.set(LOCKDOWN, "none [confidentiality]\n");
        host.set("boot/config-7.3.4", "CONFIG_KEXEC_SIG=y\n");
        for is_signed in [false, true] {
            let found = signature(&host, is_signed);
            assert!(found.is_blocker(), "{found}");
            assert!(found.problem.contains("cannot check"), "{found}");
        }
        assert_eq!(fact(&host.root()).state, FactState::Missing);
        assert_documented("cannot check a bzImage's signature");
        // IMA may appraise the image.
        host.set(
            "boot/config-7.3.4",
            "CONFIG_KEXEC_SIG=y\nCONFIG_IMA_APPRAISE=y\n",
        );
        assert!(!signature(&host, false).is_blocker());
        assert_eq!(fact(&host.root()).state, FactState::Unknown);
    }

    #[test]
    fn a_kernel_that_looks_at_no_signature_asks_for_none() {
        let host = host();
        host.set(LOCKDOWN, "none [integrity] confidentiality\n");
        host.set(SECURE_BOOT, [6, 0, 0, 0, 1]);
        host.set("boot/config-7.3.4", "# CONFIG_KEXEC_SIG is not set\n");
        assert_eq!(check(&host.root(), "/boot/k", false), None);
        assert_eq!(fact(&host.root()).state, FactState::Ok);
    }
}
