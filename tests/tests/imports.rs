//! The files of a crate do not import each other in a cycle. A name is attributed to the file that
//! defines it: a module that only re-exports what its children define (`pub use`) imports nothing
//! that way. Imports from a module's own ancestors do not count: they are one unit, split over
//! several files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The path of a module in its crate.
type Module = Vec<String>;

struct File {
    path: String,
    /// Without comments and tests.
    text: String,
    children: Vec<String>,
    items: BTreeSet<String>,
    /// The meaning of names in this file, by `use`.
    names: BTreeMap<String, Vec<String>>,
    /// Everything in these modules is also in scope here.
    globs: Vec<Vec<String>>,
    /// The imports that it uses itself.
    imports: Vec<Vec<String>>,
}

struct Crate(BTreeMap<Module, File>);

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// The code of a file up to its tests, without comments.
fn code(text: &str) -> String {
    let tests = text.find("\n#[cfg(test)]\nmod tests {");
    let lines = text[..tests.unwrap_or(text.len())].lines();
    let code = lines.map(|line| match line.trim_start().starts_with("//") {
        true => "",
        false => line,
    });
    code.collect::<Vec<_>>().join("\n")
}

/// Expands `a::{b, c::D as E}` to paths, each with its local name.
fn expand(tree: &str, before: &[String], found: &mut Vec<(String, Vec<String>)>) {
    let tree = tree.trim();
    if let Some((head, rest)) = tree.split_once('{') {
        let mut path = before.to_vec();
        let head = head
            .split("::")
            .map(str::trim)
            .filter(|part| !part.is_empty());
        path.extend(head.map(str::to_owned));
        let inner = rest.strip_suffix('}').expect("a closed brace");
        let mut depth = 0;
        let parts = inner.split(|c| {
            depth += i32::from(c == '{') - i32::from(c == '}');
            c == ',' && depth == 0
        });
        parts
            .filter(|part| !part.trim().is_empty())
            .for_each(|part| expand(part, &path, found));
        return;
    }
    let (tree, alias) = match tree.split_once(" as ") {
        Some((tree, alias)) => (tree, Some(alias.trim().to_owned())),
        None => (tree, None),
    };
    let mut path = before.to_vec();
    path.extend(tree.split("::").map(|part| part.trim().to_owned()));
    if path.last().is_some_and(|last| last == "self") && path.len() > 1 {
        path.pop();
    }
    let name = alias.or_else(|| path.last().cloned()).unwrap_or_default();
    found.push((name, path));
}

/// The `use` declarations of a file: whether each is a re-export, and its tree.
fn uses(text: &str) -> Vec<(bool, String)> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("use ") {
        let line = rest[..at].rfind('\n').map_or(0, |newline| newline + 1);
        let before = rest[line..at].trim().to_owned();
        let after = &rest[at + 4..];
        let is_pub = before.starts_with("pub");
        if (before.is_empty() || is_pub)
            && let Some((tree, _)) = after.split_once(';')
        {
            found.push((
                is_pub,
                tree.split_whitespace().collect::<Vec<_>>().join(" "),
            ));
        }
        rest = after;
    }
    found
}

/// Names that a file defines.
fn items(text: &str) -> BTreeSet<String> {
    const KINDS: [&str; 8] = [
        "struct", "enum", "trait", "fn", "const", "static", "type", "mod",
    ];
    let mut found = BTreeSet::new();
    for line in text.lines().filter(|line| !line.starts_with([' ', '}'])) {
        let words: Vec<&str> = line
            .split(|c| !is_word(c))
            .filter(|w| !w.is_empty())
            .collect();
        let at = words.windows(2).rposition(|pair| KINDS.contains(&pair[0]));
        let first = words.windows(2).position(|pair| KINDS.contains(&pair[0]));
        for at in [first, at].into_iter().flatten() {
            found.insert(words[at + 1].to_owned());
        }
        if let Some(name) = line.strip_prefix("macro_rules! ") {
            found.extend(name.split(|c| !is_word(c)).next().map(str::to_owned));
        }
    }
    found
}

/// The modules that a file declares in files of their own, except tests.
fn children(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut previous = "";
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let [.., "mod", name] = words[..]
            && let Some(name) = name.strip_suffix(';')
            && !previous.contains("cfg(test)")
            && !previous.contains("\"fake\"")
        {
            found.push(name.to_owned());
        }
        previous = line;
    }
    found
}

impl File {
    fn read(path: &Path) -> Self {
        let text = code(&fs::read_to_string(path).unwrap());
        let mut file = Self {
            path: path.display().to_string(),
            children: children(&text),
            items: items(&text),
            names: BTreeMap::new(),
            globs: Vec::new(),
            imports: Vec::new(),
            text,
        };
        for (passed_on, tree) in uses(&file.text) {
            let mut paths = Vec::new();
            expand(&tree, &[], &mut paths);
            for (name, path) in paths {
                if !passed_on {
                    file.imports.push(path.clone());
                }
                match name == "*" {
                    true => file.globs.push(path[..path.len() - 1].to_vec()),
                    false => drop(file.names.insert(name, path)),
                }
            }
        }
        file
    }

    /// Paths in the code that begin with one of `heads`, except those that are only passed on.
    fn paths(&self, heads: &BTreeSet<&str>) -> Vec<Vec<String>> {
        let is_part = |c: char| is_word(c) || c == ':';
        let is_passed_on = |statement: &&str| {
            let mut words = statement.split_whitespace();
            words.next().is_some_and(|word| word.starts_with("pub")) && words.next() == Some("use")
        };
        let statements = self.text.split(';').filter(|s| !is_passed_on(s));
        let words = statements.flat_map(|statement| statement.split(|c| !is_part(c)));
        let paths = words.filter_map(|word| {
            let path: Vec<&str> = word.split("::").filter(|part| !part.is_empty()).collect();
            let is_meant = path.len() > 1 && heads.contains(path[0]) && !word.starts_with(':');
            is_meant.then(|| path.into_iter().map(str::to_owned).collect())
        });
        paths.collect()
    }
}

impl Crate {
    fn read(root: &str) -> Self {
        let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join(root);
        let mut files = BTreeMap::new();
        let mut open: Vec<(Module, std::path::PathBuf)> = vec![(Vec::new(), root)];
        while let Some((module, path)) = open.pop() {
            let file = File::read(&path);
            let is_folder = module.is_empty() || path.ends_with("mod.rs");
            let folder = match is_folder {
                true => path.parent().unwrap().to_owned(),
                false => path.with_extension(""),
            };
            for child in &file.children {
                let flat = folder.join(format!("{child}.rs"));
                let path = if flat.exists() {
                    flat
                } else {
                    folder.join(child).join("mod.rs")
                };
                let mut module = module.clone();
                module.push(child.clone());
                open.push((module, path));
            }
            files.insert(module, file);
        }
        Self(files)
    }

    /// The module whose file defines what a path in `module` refers to.
    fn resolve(&self, module: &Module, path: &[String], depth: usize) -> Option<Module> {
        let Some((first, rest)) = path.split_first() else {
            return Some(module.clone());
        };
        if depth == 0 {
            return None;
        }
        let file = self.0.get(module)?;
        let next = match first.as_str() {
            "crate" => Vec::new(),
            "self" => module.clone(),
            "super" => module[..module.len().checked_sub(1)?].to_vec(),
            name if file.children.iter().any(|child| child == name) => {
                let mut next = module.clone();
                next.push(name.to_owned());
                next
            }
            name if file.items.contains(name) => return Some(module.clone()),
            name => {
                let named = file.names.get(name).filter(|used| used.as_slice() != path);
                let through = |used: &Vec<String>| {
                    let mut path = used.clone();
                    path.extend_from_slice(rest);
                    self.resolve(module, &path, depth - 1)
                };
                return named.and_then(through).or_else(|| {
                    let globs = file.globs.iter().filter(|glob| glob.as_slice() != path);
                    let mut found = globs.filter_map(|glob| {
                        let mut whole = glob.clone();
                        whole.extend_from_slice(path);
                        self.resolve(module, &whole, depth - 1)
                    });
                    found.next()
                });
            }
        };
        self.resolve(&next, rest, depth)
    }

    /// The modules whose files a file needs.
    fn needs(&self, module: &Module) -> BTreeSet<Module> {
        let file = &self.0[module];
        let is_module = |path: &[String]| {
            let found = self.resolve(module, path, 16)?;
            let name = path.last()?;
            (found.last() == Some(name)).then_some(found)
        };
        // A module is imported for the items that are used through it.
        let mut heads = BTreeSet::from(["crate", "self", "super"]);
        heads.extend(file.children.iter().map(String::as_str));
        let mut paths = Vec::new();
        for path in &file.imports {
            match is_module(path) {
                Some(_) => drop(heads.insert(path.last().unwrap().as_str())),
                None => paths.push(path.clone()),
            }
        }
        paths.extend(file.paths(&heads));
        let found = paths
            .iter()
            .filter(|path| is_module(path).is_none())
            .filter_map(|path| self.resolve(module, path, 16));
        found.filter(|found| !module.starts_with(found)).collect()
    }

    /// Groups of files that reach each other, each group once.
    fn circles(&self) -> BTreeSet<BTreeSet<&str>> {
        let needs: BTreeMap<&Module, BTreeSet<Module>> = self
            .0
            .keys()
            .map(|module| (module, self.needs(module)))
            .collect();
        let reach = |from: &Module| {
            let mut seen: BTreeSet<&Module> = BTreeSet::new();
            let mut open: Vec<&Module> = needs[from].iter().collect();
            while let Some(module) = open.pop() {
                if seen.insert(module) {
                    open.extend(&needs[module]);
                }
            }
            seen
        };
        let reached: BTreeMap<&Module, BTreeSet<&Module>> = self
            .0
            .keys()
            .map(|module| (module, reach(module)))
            .collect();
        let circle = |(module, there): (&&Module, &BTreeSet<&Module>)| {
            let members = there
                .iter()
                .filter(|other| reached[**other].contains(*module));
            let files: BTreeSet<&str> = members.map(|m| self.0[*m].path.as_str()).collect();
            (files.len() > 1).then_some(files)
        };
        reached.iter().filter_map(circle).collect()
    }
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    for root in ["vmm-example/src/main.rs", "vmm-fdbox/src/lib.rs"] {
        let files = Crate::read(root);
        assert!(files.0.len() > 40, "{root}: only {} files", files.0.len());
        let circles = files.circles();
        assert!(circles.is_empty(), "{root}: {circles:#?}");
    }
}

/// The contexts with which kinds are called find what else is in a box, and what is in a box is of a kind.
#[test]
fn files_of_the_kernel_module_are_in_no_circle_but_that_of_kinds() {
    let files = Crate::read("kmod/fdbox_main.rs");
    assert!(files.0.len() > 40, "only {} files", files.0.len());
    let in_kmod = |path: &&str| path.rsplit_once("/kmod/").unwrap().1.to_owned();
    let circles: Vec<Vec<String>> = files
        .circles()
        .iter()
        .map(|files| files.iter().map(in_kmod).collect())
        .collect();
    assert_eq!(
        circles,
        [[
            "boxes/entry.rs",
            "boxes/slots.rs",
            "kind.rs",
            "seal_cx.rs",
            "take_cx.rs"
        ]]
    );
}

#[test]
fn a_circle_is_found_through_what_a_module_passes_on() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        fs::write(dir.path().join(name), text).unwrap();
    };
    write(
        "lib.rs",
        "mod a;\nmod b;\nmod c;\nuse a::A;\npub use b::B;\n",
    );
    write("a.rs", "use crate::B;\npub struct A;\n");
    write("b.rs", "use super::c;\npub struct B;\nfn b() { c::d() }\n");
    write("c.rs", "pub fn d() {}\n");
    let root = dir.path().join("lib.rs").display().to_string();
    assert!(Crate::read(&root).circles().is_empty());
    write("c.rs", "pub fn d() { crate::a::A; }\n");
    let files = Crate::read(&root);
    let circles = files.circles();
    let names = ["a.rs", "b.rs", "c.rs"].map(|name| dir.path().join(name).display().to_string());
    let expected = names.iter().map(String::as_str).collect();
    assert_eq!(circles, BTreeSet::from([expected]));
}
