//! The steps of an update, and the exit statuses of a program.

use std::fmt;
use std::process::ExitCode;

/// A step of an update, on either side of the kexec.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Step {
    /// Asking guest, host and module for blockers.
    Preflight,
    /// Loading the next kernel.
    LoadKernel,
    /// Creating the state memfd and the box.
    CreateBox,
    /// Moving the descriptors into the box.
    PutFds,
    /// Sealing the box.
    Seal,
    /// Instead of sealing, if the host hands the box over itself: letting the new VMM build what it
    /// can before the guest stops.
    Prebuild,
    /// Stopping the vCPUs.
    Pause,
    /// Writing the VM's state.
    Save,
    /// Jumping into the next kernel.
    Jump,
    /// In the new host: opening the box, unsealing it and reading the state.
    Open,
    /// In the new host: taking out the descriptors and rebuilding the VM.
    Restore,
    /// In the new host: deleting the box.
    Finish,
}

impl Step {
    /// Every step, in order.
    pub const ALL: [Self; 12] = [
        Self::Preflight,
        Self::LoadKernel,
        Self::CreateBox,
        Self::PutFds,
        Self::Seal,
        Self::Prebuild,
        Self::Pause,
        Self::Save,
        Self::Jump,
        Self::Open,
        Self::Restore,
        Self::Finish,
    ];

    /// The step's name, for programs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Preflight => "preflight",
            Self::LoadKernel => "load-kernel",
            Self::CreateBox => "create-box",
            Self::PutFds => "put-fds",
            Self::Seal => "seal",
            Self::Prebuild => "prebuild",
            Self::Pause => "pause",
            Self::Save => "save",
            Self::Jump => "jump",
            Self::Open => "open",
            Self::Restore => "restore",
            Self::Finish => "finish",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that no [`Step`] has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("There is no step '{0}'")]
pub struct UnknownStep(pub String);

impl std::str::FromStr for Step {
    type Err = UnknownStep;

    fn from_str(name: &str) -> Result<Self, UnknownStep> {
        let step = Self::ALL.into_iter().find(|step| step.name() == name);
        step.ok_or_else(|| UnknownStep(name.to_owned()))
    }
}

impl serde::Serialize for Step {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> serde::Deserialize<'de> for Step {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        name.parse().map_err(serde::de::Error::custom)
    }
}

/// The exit status of a program that updates or resumes a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum ExitStatus {
    /// 0: the update, or its half on this host, is done.
    Done = 0,
    /// 1: wrong usage, or an error unrelated to an update.
    Error = 1,
    /// 10: failed, and nothing changed. Before a kexec the guest was not touched; after one the box
    /// is unchanged and can be tried again.
    NothingChanged = 10,
    /// 11: failed or cancelled, and rolled back: the guest continues in its old process.
    RolledBack = 11,
    /// 12: failed, and the guest is lost.
    GuestLost = 12,
    /// 13: failed, the guest's VMM is gone, and the guest waits in its box for a resume.
    WaitsInBox = 13,
}

impl ExitStatus {
    /// The number.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }

    /// How badly a guest fared, for finding the worst of many.
    #[must_use]
    pub fn severity(self) -> u8 {
        match self {
            Self::GuestLost => u8::MAX,
            other => other.code(),
        }
    }
}

impl From<ExitStatus> for ExitCode {
    fn from(status: ExitStatus) -> Self {
        Self::from(status.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for step in Step::ALL {
            assert_eq!(step.name().parse::<Step>().unwrap(), step);
        }
        assert!("".parse::<Step>().is_err());
    }

    #[test]
    fn exit_statuses_are_fixed() {
        let all = [
            ExitStatus::Done,
            ExitStatus::Error,
            ExitStatus::NothingChanged,
            ExitStatus::RolledBack,
            ExitStatus::GuestLost,
            ExitStatus::WaitsInBox,
        ];
        assert_eq!(all.map(ExitStatus::code), [0, 1, 10, 11, 12, 13]);
        let worst = all.into_iter().max_by_key(|status| status.severity());
        assert_eq!(worst, Some(ExitStatus::GuestLost));
    }
}
