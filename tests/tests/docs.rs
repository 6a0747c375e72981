//! The docs match the tree: names, numbers, errnos, commands, links and the C example in them are
//! compared with it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Each header of the UAPI, and the page that is about it.
const HEADERS: [(&str, &str); 2] = [
    ("kmod/include/uapi/linux/fdbox.h", "docs/uapi.md"),
    ("kmod/include/uapi/linux/fdbox_boat.h", "docs/lifeboat.md"),
];

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The files in these folders with one of these extensions, as paths in the checkout.
fn files(folders: &[&str], endings: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    let mut open: Vec<PathBuf> = folders.iter().map(|folder| root().join(folder)).collect();
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).unwrap().flatten() {
            let path = entry.path();
            let name = path.strip_prefix(root()).unwrap().display().to_string();
            if path.is_dir() {
                open.push(path);
            } else if endings.iter().any(|ending| name.ends_with(ending)) {
                found.push(name);
            }
        }
    }
    found
}

/// Every page of documentation, with its path in the checkout.
fn pages() -> Vec<(String, String)> {
    let at_root = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(str::to_owned);
    let pages: Vec<_> = at_root
        .into_iter()
        .chain(files(&["docs"], &[".md"]))
        .map(|path| (path.clone(), read(&path)))
        .collect();
    assert!(pages.len() > 6, "Only {} pages", pages.len());
    pages
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

fn words(text: &str) -> BTreeSet<&str> {
    text.split(|c| !is_word(c)).collect()
}

/// Words that look like an errno, except EOF.
fn errnos(text: &str) -> BTreeSet<&str> {
    let mut found = words(text);
    found.retain(|word| {
        let rest = word.strip_prefix('E').unwrap_or_default();
        rest.len() >= 3 && rest.chars().all(|c| c.is_ascii_uppercase() || c == '2')
    });
    found
}

/// The commands in the header: name, number, and the comment before each.
fn commands(header: &str) -> Vec<(&str, &str, &str)> {
    let mut commands = Vec::new();
    let mut rest = header;
    while let Some((before, after)) = rest.split_once("\t_IO(FDBOX_TYPE, FDBOX_BASE + ") {
        let (comments, name) = before.rsplit_once("#define ").unwrap();
        let comment = comments.rsplit_once("/*").unwrap().1;
        let number = after.split_once(')').unwrap().0;
        commands.push((name.trim(), number, comment));
        rest = after;
    }
    assert!(commands.len() >= 6, "{commands:?}");
    commands
}

/// The part of a page under the heading with this name.
fn section<'a>(page: &'a str, heading: &str) -> &'a str {
    let start = format!("\n### {heading}\n");
    let (_, after) = page.split_once(&start).unwrap_or_else(|| {
        panic!("There is no section {heading}");
    });
    let end = ["\n### ", "\n## "].map(|next| after.find(next).unwrap_or(after.len()));
    &after[..end[0].min(end[1])]
}

/// The errnos in the first column of the tables of a section.
fn listed_errnos(section: &str) -> BTreeSet<&str> {
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `E"));
    rows.map(|row| row.split('`').next().unwrap()).collect()
}

#[test]
fn every_fdbox_name_is_in_the_header() {
    let headers = HEADERS.map(|(header, _)| read(header)).concat();
    let defined = words(&headers);
    // Variables of the lab are not part of the UAPI.
    let lab: String = files(&["tests/src"], &[".rs"])
        .iter()
        .map(|path| read(path))
        .collect();
    let lab = words(&lab);
    for (path, text) in pages() {
        for name in words(&text).into_iter().filter(|w| w.starts_with("FDBOX_")) {
            let prefix_of_some =
                name.ends_with('_') && defined.iter().any(|word| word.starts_with(name));
            let of_lab = name.starts_with("FDBOX_LAB_") && lab.contains(name);
            assert!(
                defined.contains(name) || prefix_of_some || of_lab,
                "{path}: {name} is in no header of the UAPI"
            );
        }
    }
}

#[test]
fn commands_have_their_numbers_and_their_errnos() {
    let kmod: String = files(&["kmod"], &[".rs", ".c", ".h"])
        .iter()
        .map(|path| read(path))
        .collect();
    let used = words(&kmod);
    for (header, path) in HEADERS {
        let (header, page) = (read(header), read(path));
        for (name, number, comment) in commands(&header) {
            let row = format!("| `{name}` | {number} |");
            assert!(page.contains(&row), "{path} has no row {row}");
            let section = section(&page, name);
            for errno in errnos(comment) {
                assert!(
                    section.contains(errno),
                    "{path}, {name}: no {errno}, which the header has"
                );
            }
            for errno in listed_errnos(section) {
                let errno = format!("E{errno}");
                assert!(
                    used.contains(errno.as_str()),
                    "{path}, {name}: kmod never says {errno}"
                );
            }
        }
    }
}

#[test]
fn the_table_of_patches_is_right() {
    let design = read("docs/design.md");
    for path in files(&["kmod/patches"], &[".patch"]) {
        let name = path.rsplit('/').next().unwrap();
        let is_added = |line: &&str| line.starts_with('+') && !line.starts_with("+++");
        let added = read(&path).lines().filter(is_added).count();
        let row = design.lines().find(|line| line.contains(name));
        assert!(
            row.is_some_and(|row| row.contains(&format!("| {added} |"))),
            "docs/design.md: {name} adds {added} lines"
        );
    }
}

/// The library's package has no patches.
#[test]
fn the_library_knows_a_kernel_by_a_function_that_the_patch_adds() {
    let library = read("vmm-fdbox/src/facts/pci.rs");
    let (_, name) = library.split_once("KEEPS_BARS: &str = \"").unwrap();
    let (name, _) = name.split_once('"').unwrap();
    let patch = read("kmod/patches/0025-PCI-do-not-size-the-BARs-of-a-device-that-is-in-use.patch");
    assert!(patch.contains(&format!("+int {name}(")), "{name}");
}

#[test]
fn links_and_paths_lead_somewhere() {
    let top = ["kmod/", "vmm-fdbox/", "vmm-example/", "tests/", "docs/"];
    for (path, text) in pages() {
        let folder = root().join(&path).parent().unwrap().to_owned();
        let links = text
            .split("](")
            .skip(1)
            .map(|rest| rest.split(')').next().unwrap());
        for link in links.filter(|link| !link.starts_with("http")) {
            let file = link.split('#').next().unwrap();
            assert!(folder.join(file).exists(), "{path}: nothing at {link}");
        }
        for quoted in text.split('`').skip(1).step_by(2) {
            let is_path =
                top.iter().any(|top| quoted.starts_with(top)) && !quoted.contains(['*', ' ', '\n']);
            assert!(
                !is_path || root().join(quoted).exists(),
                "{path}: there is no {quoted}"
            );
        }
    }
}

#[test]
fn lab_commands_exist() {
    let cli = read("tests/src/lab/cli/mod.rs");
    let (_, variants) = cli.split_once("enum Command {").unwrap();
    let (variants, _) = variants.split_once("\n}").unwrap();
    let known: BTreeSet<String> = variants
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with(|c: char| c.is_ascii_uppercase()))
        .map(|line| line.split(|c| !is_word(c)).next().unwrap().to_lowercase())
        .collect();
    for (path, text) in pages() {
        for rest in text.split("cargo lab ").skip(1) {
            let command: &str = rest
                .split(|c: char| !c.is_ascii_lowercase())
                .next()
                .unwrap();
            assert!(
                command.is_empty() || known.contains(command),
                "{path}: there is no `cargo lab {command}`, only {known:?}"
            );
        }
    }
}

#[test]
fn the_c_example_compiles() {
    let uapi = read("docs/uapi.md");
    let (_, after) = uapi.split_once("```c\n").unwrap();
    let (example, _) = after.split_once("```").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("example.c");
    fs::write(&source, example).unwrap();
    let status = Command::new("cc")
        .args(["-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-I"])
        .arg(root().join("kmod/include/uapi"))
        .arg(&source)
        .status()
        .unwrap();
    assert!(status.success());
}
