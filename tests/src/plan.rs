//! The plan of the emulated host, by stage. The lab writes it into the host's initramfs, and
//! `lab-init` follows it.

use serde::{Deserialize, Serialize};

/// Where the plan is in the host.
pub const PATH: &str = "/lab/plan.json";
/// Where the next stage's kernel and initramfs are in the host.
pub const NEXT_KERNEL: &str = "/update/kernel";
pub const NEXT_INITRAMFS: &str = "/update/initramfs";
/// The environment variable with the next stage's command line.
pub const NEXT_CMDLINE: &str = "LAB_NEXT_CMDLINE";

/// The environment variable with words that are appended to a guest's command line.
pub const GUEST_CMDLINE: &str = "LAB_GUEST_CMDLINE";

/// The stages in order: the first is booted, each later one is entered by a kexec.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Plan {
    pub stages: Vec<Stage>,
}

/// The part of the plan for one kernel.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Stage {
    /// Modules to load first, in order. It is an error if one cannot be loaded.
    pub modules: Vec<String>,
    /// Run one after the other by /bin/sh. The plan continues whatever their exit status is.
    pub commands: Vec<String>,
    /// The next stage's command line; its kernel and initramfs are in [`NEXT_KERNEL`] and
    /// [`NEXT_INITRAMFS`]. Commands find the command line in the variable [`NEXT_CMDLINE`].
    pub next_cmdline: Option<String>,
    pub then: Then,
}

/// How a stage ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Then {
    /// The run ends.
    PowerOff,
    /// `lab-init` loads the next stage's kernel and jumps into it.
    Kexec,
    /// The last command jumps by itself; it is an error if it returns.
    CommandJumps,
    /// The console is interactive: run a shell on it, then power off.
    Shell,
}

/// The word of the kernel command line with the number of the stage: `stage=2`.
pub const STAGE_WORD: &str = "stage";

/// Reads the stage from a kernel command line. The last such word counts, as for any kernel option.
pub fn stage_of(cmdline: &str) -> Option<usize> {
    cmdline
        .split_ascii_whitespace()
        .filter_map(|word| word.strip_prefix(STAGE_WORD)?.strip_prefix('='))
        .next_back()?
        .parse()
        .ok()
        .filter(|stage| *stage > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_stage_on_the_command_line_counts() {
        assert_eq!(stage_of("console=ttyS0 stage=1 quiet"), Some(1));
        assert_eq!(stage_of("stage=1 kho=on stage=2"), Some(2));
        assert_eq!(stage_of("console=ttyS0"), None);
        assert_eq!(stage_of("stage=0"), None);
        assert_eq!(stage_of("stage=two"), None);
        assert_eq!(stage_of("backstage=2"), None);
    }
}
