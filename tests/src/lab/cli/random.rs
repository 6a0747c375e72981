//! The commands that make random choices, for as long as is wanted.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct FuzzArgs {
    /// The targets. Default: all.
    #[arg(value_name = "TARGET")]
    pub(crate) targets: Vec<String>,
    /// List the targets, and run nothing.
    #[arg(long)]
    pub(crate) list: bool,
    /// Run each target for this long. A fraction is allowed.
    #[arg(long, value_name = "N", default_value_t = 1.0)]
    pub(crate) minutes: f64,
    /// The seed of the inputs: the same one gives the same inputs, as far as the same ones are kept.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Run the target with this input only.
    #[arg(long, value_name = "FILE")]
    pub(crate) replay: Option<PathBuf>,
    /// At the end, replace each target's inputs in the checkout, tests/fuzz, by the smallest ones that reach the same
    /// code.
    #[arg(long, conflicts_with = "replay")]
    pub(crate) save: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SoakArgs {
    /// How many updates.
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) updates: u32,
    /// Kexec the host under the guest, too, so many times, with equally many of the updates in each kernel. A host and
    /// its guest boot anew after every fourth, so the number is rounded up to that.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    pub(crate) kexecs: u32,
    /// Let the guest drive a network card of the host, on which frames arrive all the time.
    #[arg(long, requires = "kexecs", value_name = "KIND", value_parser = ["e1000e"])]
    pub(crate) device: Option<String>,
    /// Go on for so many hours: begin again with other choices, and stop at the end of the host that is running then.
    #[arg(long, value_name = "H", value_parser = hours)]
    pub(crate) hours: Option<Duration>,
    /// Where the random choices begin: the same number makes the same choices.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// In the kernel with the kernel's own debugging checks, which is slower; at the end it is
    /// searched for leaks.
    #[arg(long)]
    pub(crate) debug: bool,
    /// Write what was seen to a file, for people: a self-contained page with curves.
    #[arg(long, value_name = "FILE.html")]
    pub(crate) report: Option<PathBuf>,
    /// The same for programs.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct IoctlsArgs {
    /// How many calls.
    #[arg(long, value_name = "N", default_value_t = 200_000, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    pub(crate) calls: u32,
    /// Where the random choices begin. The order in which the processes run is not repeatable.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// In the kernel with the kernel's own debugging checks.
    #[arg(long)]
    pub(crate) debug: bool,
    /// The same, and it also checks each access to memory. That kernel is built for this alone.
    #[arg(long)]
    pub(crate) kasan: bool,
}

/// The time, given in hours.
fn hours(text: &str) -> Result<Duration, String> {
    const SECONDS: f64 = 3600.0;
    let hours: f64 = text
        .parse()
        .map_err(|_| "give a number, such as 8 or 0.5")?;
    if !(hours > 0.0 && hours <= 1000.0) {
        return Err("give more than 0 and at most 1000 hours".to_owned());
    }
    Ok(Duration::from_secs_f64(hours * SECONDS))
}
