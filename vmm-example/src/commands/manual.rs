//! `completions` and `man`: generated from the definition of the command line.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use anyhow::Context;
use clap::{Command, CommandFactory};
use clap_mangen::Man;
use vmm_fdbox::update::ExitStatus;

use crate::cli::{Cli, CompletionsArgs, ManArgs};

pub(super) fn completions(args: &CompletionsArgs) -> anyhow::Result<ExitStatus> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "vmm-example", &mut script);
    io::stdout().write_all(&script)?;
    Ok(ExitStatus::Done)
}

pub(super) fn man(args: &ManArgs) -> anyhow::Result<ExitStatus> {
    let context = || format!("Cannot write man pages to {}", args.dir.display());
    fs::create_dir_all(&args.dir).with_context(context)?;
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    page(&command, "vmm-example", &args.dir).with_context(context)?;
    for subcommand in command.get_subcommands().filter(|c| !c.is_hide_set()) {
        let name = format!("vmm-example-{}", subcommand.get_name());
        page(subcommand, &name, &args.dir).with_context(context)?;
    }
    Ok(ExitStatus::Done)
}

fn page(command: &Command, name: &str, dir: &Path) -> io::Result<()> {
    let title: &'static str = Box::leak(name.to_owned().into_boxed_str());
    let mut text = Vec::new();
    Man::new(command.clone().name(title)).render(&mut text)?;
    fs::write(dir.join(format!("{name}.1")), text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_and_none_tells_of_hidden_options() {
        let dir = tempfile::tempdir().unwrap();
        let args = ManArgs {
            dir: dir.path().join("man"),
        };
        man(&args).unwrap();
        for name in ["vmm-example", "vmm-example-resume", "vmm-example-events"] {
            let text = fs::read_to_string(args.dir.join(format!("{name}.1"))).unwrap();
            assert!(text.contains(".SH"), "{name}");
            assert!(
                !text.contains("fail\\-at"),
                "{name} has options that are for tests"
            );
        }
        let count = fs::read_dir(&args.dir).unwrap().count();
        let commands = Cli::command();
        let shown = commands.get_subcommands().filter(|c| !c.is_hide_set());
        assert_eq!(count, 1 + shown.count());
    }

    #[test]
    fn every_shell_gets_its_completions() {
        use clap::ValueEnum;
        for shell in clap_complete::Shell::value_variants() {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "vmm-example", &mut script);
            let script = String::from_utf8(script).unwrap();
            assert!(script.contains("not-ready"), "{shell}");
        }
    }
}
