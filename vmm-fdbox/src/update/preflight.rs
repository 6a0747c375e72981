//! Checks for anything that would prevent an update, before anything is changed; and once more when
//! the box is filled.

use std::collections::BTreeSet;

use super::attempt::{Attempt, Slot, StepFailure};
use super::outcome::UpdateError;
use super::parties::{Guest, Host};
use super::step::Step;
use super::watch::{Event, Observer};
use crate::abi::FDBOX_UAPI_VERSION;
use crate::finding::Finding;
use crate::home::Home;
use crate::kind::Kind;
use crate::name::BoxName;
use crate::store::{BoxStore, OpenFdBox, sealed_kinds};
use crate::timeline::phase;

/// The finding that a box already has the name of the one to create.
pub(crate) fn box_in_the_way(name: &BoxName) -> Finding {
    Finding::blocker(
        format!("Box {name}"),
        "there is one of this name already",
        "resume or delete what it holds, or choose another name",
    )
}

impl<S: BoxStore, H: Host, G: Guest, O: Observer> Attempt<S, H, G, O> {
    pub(super) fn preflight(&mut self) -> Result<(), StepFailure> {
        self.allow(self.plan.limits.preflight);
        self.mark(phase::PREFLIGHT);
        self.step(Step::Preflight, |attempt| {
            let mut findings = attempt.box_findings()?;
            findings.extend(attempt.host.preflight());
            let mut kinds = attempt.guest.kinds();
            // The VM's state.
            kinds.insert(Kind::Memfd);
            kinds.extend(sealed_kinds(&attempt.store));
            findings.extend(attempt.kind_findings(kinds));
            findings.extend(attempt.guest.preflight());
            attempt.judge(findings)
        })
    }

    /// Reports the warnings, and fails if there is a blocker.
    fn judge(&mut self, findings: Vec<Finding>) -> Result<(), UpdateError> {
        let (blockers, warnings): (Vec<_>, Vec<_>) =
            findings.into_iter().partition(Finding::is_blocker);
        for warning in warnings {
            self.tell(&Event::Warning(warning));
        }
        if blockers.is_empty() {
            Ok(())
        } else {
            Err(UpdateError::Blocked(blockers))
        }
    }

    fn box_findings(&self) -> Result<Vec<Finding>, UpdateError> {
        let mut findings = Vec::new();
        let info = self.store.info()?;
        if info.uapi_version < FDBOX_UAPI_VERSION || !info.features.memfd() {
            findings.push(Finding::blocker(
                "The fdbox module",
                "it is too old for this VMM, or its kernel lacks the patches for memfd",
                "load the module and boot the kernel that this VMM came with",
            ));
        }
        if self.host.leaves_kernel() && info.home == Home::Holder {
            findings.push(Finding::blocker(
                "The holder of boxes",
                "it ends with this kernel, and so would the guest",
                "take --home luo or fdbox for a kexec",
            ));
        } else if self.host.leaves_kernel() && !info.features.kho() {
            findings.push(Finding::blocker(
                "KHO",
                "it is off, and a box would not reach the next kernel",
                "boot this kernel with kho=on",
            ));
        }
        let name = &self.plan.box_name;
        if self.store.boxes()?.iter().any(|info| info.name == *name) {
            findings.push(box_in_the_way(name));
        }
        Ok(findings)
    }

    /// The host's findings on kinds that it has not been asked about yet.
    fn kind_findings(&mut self, kinds: BTreeSet<Kind>) -> Vec<Finding> {
        let new: BTreeSet<Kind> = kinds.difference(&self.checked).copied().collect();
        if new.is_empty() || !self.host.leaves_kernel() {
            return Vec::new();
        }
        let findings = self.host.check_kinds(&new);
        self.checked.extend(new);
        findings
    }

    /// Checks what is in the box: the guest may have put in something that it had not announced.
    pub(super) fn check_box(&mut self) -> Result<(), UpdateError> {
        let Slot::Open(open) = &self.slot else {
            return Ok(());
        };
        let kinds = open.fds()?.iter().map(|fd| Kind::of(&fd.kind)).collect();
        let findings = self.kind_findings(kinds);
        self.judge(findings)
    }
}
