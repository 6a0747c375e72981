//! The configuration file of `run`: the options of the command line, by their names.
//!
//! Its options are inserted before the operator's arguments, except those that are given there too.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use thiserror::Error;
use toml::{Table, Value};

use super::Cli;

/// The command that has a configuration file, and the option that names it.
const COMMAND: &str = "run";
const OPTION: &str = "config";

/// Why a configuration file cannot be used.
#[derive(Debug, Error)]
pub(crate) enum ConfigError {
    #[error("Cannot read the configuration file {}", path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("The configuration file {} is not TOML", path.display())]
    Parse {
        path: PathBuf,
        source: Box<toml::de::Error>,
    },
    #[error("The configuration file {} has {key}, which is no option of `run`", path.display())]
    UnknownKey { path: PathBuf, key: String },
    #[error("The configuration file {}: {key} takes {expected}", path.display())]
    BadValue {
        path: PathBuf,
        key: String,
        expected: &'static str,
    },
}

/// The arguments of this process, with those of the configuration file that they name.
pub(crate) fn expand(arguments: Vec<OsString>) -> Result<Vec<OsString>, ConfigError> {
    if arguments.get(1).is_none_or(|command| command != COMMAND) {
        return Ok(arguments);
    }
    let Some(path) = value_of(&arguments[2..], OPTION) else {
        return Ok(arguments);
    };
    let path = PathBuf::from(path);
    let text = fs::read_to_string(&path).map_err(|source| ConfigError::Read {
        path: path.clone(),
        source,
    })?;
    let from_file = options(&path, &text, &arguments[2..])?;
    let (program, given) = arguments.split_at(2);
    let from_file = from_file.into_iter().map(OsString::from);
    Ok(program
        .iter()
        .cloned()
        .chain(from_file)
        .chain(given.iter().cloned())
        .collect())
}

/// The options of a file as arguments, without those in `given`.
fn options(path: &Path, text: &str, given: &[OsString]) -> Result<Vec<String>, ConfigError> {
    let table: Table = text.parse().map_err(|source| ConfigError::Parse {
        path: path.into(),
        source: Box::new(source),
    })?;
    let cli = Cli::command();
    let run = cli.find_subcommand(COMMAND);
    let mut arguments = Vec::new();
    for (key, value) in &table {
        let options = run.into_iter().flat_map(clap::Command::get_arguments);
        let option = options
            .filter(|option| option.get_long() == Some(key) && key != OPTION && key != "help")
            .find(|option| !option.is_hide_set());
        let Some(option) = option else {
            return Err(ConfigError::UnknownKey {
                path: path.into(),
                key: key.clone(),
            });
        };
        let bad = |expected| ConfigError::BadValue {
            path: path.into(),
            key: key.clone(),
            expected,
        };
        let written = match (option.get_action(), value) {
            (clap::ArgAction::SetTrue, Value::Boolean(on)) => {
                on.then(|| format!("--{key}")).into_iter().collect()
            }
            (clap::ArgAction::SetTrue, _) => return Err(bad("true or false")),
            (clap::ArgAction::Append, Value::Array(all)) => {
                let all = all.iter().map(|value| argument(key, value));
                let all: Option<Vec<String>> = all.collect();
                all.ok_or_else(|| bad("a list of strings"))?
            }
            (_, value) => vec![argument(key, value).ok_or_else(|| bad("a string or a number"))?],
        };
        if !is_given(given, key) {
            arguments.extend(written);
        }
    }
    Ok(arguments)
}

fn argument(key: &str, value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(format!("--{key}={text}")),
        Value::Integer(number) => Some(format!("--{key}={number}")),
        _ => None,
    }
}

fn is_given(arguments: &[OsString], key: &str) -> bool {
    let (bare, with_value) = (format!("--{key}"), format!("--{key}="));
    arguments.iter().any(|argument| {
        argument == OsStr::new(&bare) || argument.to_string_lossy().starts_with(&with_value)
    })
}

/// The value of an option in a command line that is not parsed yet.
fn value_of(arguments: &[OsString], key: &str) -> Option<OsString> {
    let (bare, with_value) = (format!("--{key}"), format!("--{key}="));
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        if argument == OsStr::new(&bare) {
            return arguments.next().cloned();
        }
        if let Some(value) = argument
            .to_str()
            .and_then(|text| text.strip_prefix(&with_value))
        {
            return Some(value.into());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::{Command, RunArgs};
    use super::*;

    fn run(text: &str, given: &str) -> Result<RunArgs, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        let path = file.path().display();
        let line = format!("vmm run --config {path} {given}");
        let arguments = line.split_ascii_whitespace().map(OsString::from).collect();
        let arguments = expand(arguments).map_err(|error| error.to_string())?;
        match Cli::try_parse_from(arguments).map(|cli| cli.command) {
            Ok(Command::Run(args)) => Ok(args),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.to_string()),
        }
    }

    const FULL: &str = r#"
        kernel = "/boot/vmlinuz"
        initramfs = "/boot/guest.cpio"
        api-socket = "/run/vm0.sock"
        name = "vm0"
        cpus = 4
        memory = "size=2G,kind=memfd"
        console = "socket=/run/vm0.console"
        disk = ["path=/a", "path=/b,readonly=on"]
        no-rng = true
        no-reboot = false
        json = true
    "#;

    #[test]
    fn a_file_has_the_options_of_the_command_line() {
        let args = run(FULL, "").unwrap();
        assert_eq!(args.kernel, Path::new("/boot/vmlinuz"));
        assert_eq!((args.cpus, args.memory.mib), (4, 2048));
        assert_eq!((args.devices.disks.len(), args.devices.no_rng), (2, true));
        assert!(args.json && !args.life.no_reboot);
        assert_eq!(args.name.to_string(), "vm0");
    }

    #[test]
    fn what_is_given_overrides_the_file() {
        let args = run(FULL, "--cpus 2 --disk=path=/c --name other").unwrap();
        assert_eq!((args.cpus, args.devices.disks.len()), (2, 1));
        assert_eq!(args.name.to_string(), "other");
        assert_eq!(args.memory.mib, 2048);
    }

    #[test]
    fn what_a_file_must_not_have_is_named() {
        for (text, message) in [
            ("kernel = 'k'\ncpu = 2", "has cpu, which is no option"),
            ("config = 'other'", "has config"),
            ("help = true", "has help"),
            ("cpus = true", "cpus takes a string or a number"),
            ("no-rng = 'yes'", "no-rng takes true or false"),
            ("disk = [1.5]", "disk takes a list of strings"),
            ("kernel = ['a', 'b']", "kernel takes a string or a number"),
            ("[disk]\npath = 'x'", "disk takes"),
            ("kernel = ", "is not TOML"),
            (
                "kernel = 'k'\ncpus = 0\napi-socket = 's'",
                "invalid value '0'",
            ),
        ] {
            let error = run(text, "").unwrap_err();
            assert!(error.contains(message), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let line = ["vmm", "run", "--config=/no/such/file"].map(OsString::from);
        let error = expand(line.to_vec()).unwrap_err();
        assert!(error.to_string().contains("/no/such/file"), "{error}");
        // Other commands have no configuration file.
        let line = ["vmm", "status", "--config=/no/such/file"].map(OsString::from);
        assert_eq!(expand(line.to_vec()).unwrap(), line);
    }

    #[test]
    fn fuzz_config() {
        crate::fuzz::run("config", &[FULL.as_bytes()], |input| {
            let Ok(text) = std::str::from_utf8(input) else {
                return;
            };
            if let Ok(arguments) = options(Path::new("vm0.toml"), text, &[]) {
                assert!(arguments.iter().all(|argument| argument.starts_with("--")));
            }
        });
    }
}
