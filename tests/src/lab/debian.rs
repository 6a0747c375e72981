//! The machine's configuration of Debian's archive: its mirror, and apt's options to reach it.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::command;

/// Where the machine gets Debian packages from.
#[derive(Debug, Default)]
pub(crate) struct Archive {
    /// `None` if the machine has no Debian mirror: mmdebstrap then uses its default.
    pub mirror: Option<String>,
}

impl Archive {
    pub(crate) fn of_this_machine() -> Self {
        let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        if field(&release, "ID") != Some("debian") {
            // Another distribution's mirror does not have Debian.
            return Self::default();
        }
        let suite = field(&release, "VERSION_CODENAME").unwrap_or("stable");
        let mut texts = vec![Path::new("/etc/apt/sources.list").to_owned()];
        if let Ok(entries) = fs::read_dir("/etc/apt/sources.list.d") {
            texts.extend(entries.flatten().map(|entry| entry.path()));
        }
        texts.sort();
        let mirror = texts.iter().find_map(|path| {
            let text = fs::read_to_string(path).ok()?;
            match path.extension()?.to_str()? {
                "list" => mirror_in_list(&text, suite),
                "sources" => mirror_in_deb822(&text, suite),
                _ => None,
            }
        });
        Self { mirror }
    }
}

/// mmdebstrap, to make a minimal system with these packages from the mirror of this machine.
pub(crate) fn bootstrap(suite: &str, packages: &[&str], root: &Path) -> Command {
    let mut mmdebstrap = Command::new("mmdebstrap");
    mmdebstrap.args(["--variant=minbase", "--mode=root", "--verbose"]);
    mmdebstrap.arg(format!("--include={}", packages.join(",")));
    for option in apt_options() {
        mmdebstrap.arg(format!("--aptopt={option}"));
    }
    let archive = Archive::of_this_machine();
    mmdebstrap.arg(suite).arg(root).args(&archive.mirror);
    mmdebstrap
}

/// apt's options that this machine needs to reach its mirror, as `Name "value"`.
pub(crate) fn apt_options() -> Vec<String> {
    let mut apt_config = Command::new("apt-config");
    let Ok(dump) = command::output(apt_config.arg("dump").arg("Acquire")) else {
        return Vec::new();
    };
    let wanted = [
        "http::Proxy",
        "https::Proxy",
        "Check-Valid-Until",
        "Check-Date",
    ];
    dump.lines()
        .filter_map(|line| line.strip_suffix(';'))
        .filter(|line| {
            let name = line.split_whitespace().next().unwrap_or_default();
            wanted
                .iter()
                .any(|wanted| name == format!("Acquire::{wanted}"))
        })
        .map(str::to_owned)
        .collect()
}

/// The line for the backports of `suite`, from the first source in a sources.list.
pub(crate) fn backports_line(sources_list: &str, suite: &str) -> Option<String> {
    let mirror = mirror_in_list(sources_list, suite)?;
    Some(format!("deb {mirror} {suite}-backports main\n"))
}

/// One value of an os-release file.
pub(crate) fn field<'a>(os_release: &'a str, name: &str) -> Option<&'a str> {
    os_release
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
        .map(|value| value.trim_matches('"'))
}

/// `deb [options] URI SUITE COMPONENT...`
fn mirror_in_list(text: &str, suite: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let rest = line.trim().strip_prefix("deb ")?.trim_start();
        let rest = match rest.strip_prefix('[') {
            Some(options) => options.split_once(']')?.1,
            None => rest,
        };
        let mut words = rest.split_whitespace();
        let uri = words.next()?;
        (words.next()? == suite && words.any(|word| word == "main")).then(|| uri.to_owned())
    })
}

/// Stanzas of `Types:`, `URIs:`, `Suites:`, `Components:`.
fn mirror_in_deb822(text: &str, suite: &str) -> Option<String> {
    text.split("\n\n").find_map(|stanza| {
        let words = |name: &str| {
            let line = stanza
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.unwrap_or_default()
                .split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let has = |name: &str, value: &str| words(name).iter().any(|word| word == value);
        let enabled = !has("Enabled", "no");
        let matches = enabled && has("Types", "deb") && has("Suites", suite);
        (matches && has("Components", "main")).then(|| words("URIs").first().cloned())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_main_archive_is_found_in_either_format() {
        let list = "# deb http://old.example/debian trixie main\n\
                    deb http://sec.example/security trixie-security main\n\
                    deb [signed-by=/k.gpg arch=amd64] http://m.example/debian trixie main non-free\n";
        assert_eq!(
            mirror_in_list(list, "trixie").as_deref(),
            Some("http://m.example/debian")
        );
        assert_eq!(mirror_in_list(list, "sid"), None);
        assert_eq!(
            backports_line(list, "trixie").unwrap(),
            "deb http://m.example/debian trixie-backports main\n"
        );

        let deb822 = "Types: deb\n# a comment\nURIs: http://m.example/debian\n\
                      Suites: trixie trixie-updates\nComponents: main\n\n\
                      Types: deb\nURIs: http://s.example/security\nSuites: trixie-security\n\
                      Components: main\n";
        assert_eq!(
            mirror_in_deb822(deb822, "trixie").as_deref(),
            Some("http://m.example/debian")
        );
        assert_eq!(
            mirror_in_deb822(deb822, "trixie-security").as_deref(),
            Some("http://s.example/security")
        );
        let disabled = format!("Enabled: no\n{deb822}");
        assert_eq!(mirror_in_deb822(&disabled, "trixie"), None);
        assert_eq!(mirror_in_deb822(deb822, "sid"), None);
    }

    #[test]
    fn os_release_values_lose_their_quotes() {
        let text = "PRETTY_NAME=\"Debian\"\nID=debian\nVERSION_ID=\"13\"\n";
        assert_eq!(field(text, "ID"), Some("debian"));
        assert_eq!(field(text, "VERSION_ID"), Some("13"));
        assert_eq!(field(text, "NAME"), None);
    }
}
