//! Reads the files in which a kernel describes itself and its host.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use rustix::fs::{Mode, OFlags};

/// This kernel's configuration, if it is built in (`CONFIG_IKCONFIG_PROC`).
const OWN_CONFIG: &str = "proc/config.gz";
const OWN_RELEASE: &str = "proc/sys/kernel/osrelease";
/// The maximum size of a configuration.
const MAX_CONFIG_BYTES: u64 = 4 << 20;

/// The root of the kernel's files: `/`, except in tests.
#[derive(Debug, Clone)]
pub struct HostRoot(PathBuf);

impl Default for HostRoot {
    fn default() -> Self {
        Self("/".into())
    }
}

impl HostRoot {
    /// A root elsewhere, for tests.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The path of a file of this host; `path` must be relative.
    pub fn join(&self, path: impl AsRef<Path>) -> PathBuf {
        self.0.join(path)
    }

    /// The content of a small file, trimmed; `None` if it cannot be read.
    pub fn read(&self, path: impl AsRef<Path>) -> Option<String> {
        let text = fs::read_to_string(self.join(path)).ok()?;
        Some(text.trim().to_owned())
    }

    /// Whether a file exists.
    pub fn has(&self, path: impl AsRef<Path>) -> bool {
        self.join(path).exists()
    }

    /// The names in a directory, sorted; none if it cannot be read.
    pub fn names(&self, path: impl AsRef<Path>) -> Vec<String> {
        let entries = fs::read_dir(self.join(path)).into_iter().flatten();
        let mut names: Vec<_> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        names.sort();
        names
    }

    /// This kernel's release, as in `uname -r`.
    #[must_use]
    pub fn release(&self) -> Option<String> {
        self.read(OWN_RELEASE)
    }

    /// Whether this kernel's configuration sets an option to `y` or `m`. `None` if the configuration is not found.
    #[must_use]
    pub fn is_built_here_with(&self, option: &str) -> Option<bool> {
        if let Some(config) = read_packed_config(&self.join(OWN_CONFIG)) {
            return Some(is_set(&config, option));
        }
        self.is_built_with(&self.release()?, None, option)
    }

    /// Whether a kernel's configuration sets an option to `y` or `m`. `None` if there is no
    /// configuration of this release next to the image or where distributions install it.
    pub(crate) fn is_built_with(
        &self,
        release: &str,
        image: Option<&Path>,
        option: &str,
    ) -> Option<bool> {
        let beside = image.and_then(Path::parent);
        let beside = beside.map(|folder| folder.join(format!("config-{release}")));
        let usual = [
            format!("boot/config-{release}"),
            format!("lib/modules/{release}/config"),
        ];
        let paths = beside.into_iter().chain(usual.map(|path| self.join(path)));
        let config = paths.into_iter().find_map(|path| read_config(&path))?;
        Some(is_set(&config, option))
    }

    /// Whether this kernel uses five levels of page tables.
    pub(crate) fn has_five_levels(&self) -> bool {
        let cpus = self.read("proc/cpuinfo").unwrap_or_default();
        let mut flags = cpus.lines().filter(|line| line.starts_with("flags"));
        flags
            .next()
            .is_some_and(|line| line.split_whitespace().any(|flag| flag == "la57"))
    }
}

fn is_set(config: &str, option: &str) -> bool {
    config.lines().any(|line| match line.split_once('=') {
        Some((name, value)) => name == option && matches!(value.trim(), "y" | "m"),
        None => false,
    })
}

/// Opens a regular file, without ever blocking.
fn open_regular(path: &Path) -> Option<fs::File> {
    if !fs::metadata(path).ok()?.is_file() {
        return None;
    }
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = rustix::fs::open(path, flags, Mode::empty()).ok()?;
    Some(fs::File::from(file))
}

/// A kernel's configuration; `None` if there is none. Its size is limited.
fn read_config(path: &Path) -> Option<String> {
    read_some(open_regular(path)?).ok()
}

/// The same for `/proc/config.gz`.
fn read_packed_config(path: &Path) -> Option<String> {
    read_some(GzDecoder::new(open_regular(path)?)).ok()
}

fn read_some(file: impl Read) -> io::Result<String> {
    let mut text = String::new();
    file.take(MAX_CONFIG_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;
    use crate::facts::testing::FakeRoot;

    #[test]
    fn a_configuration_is_found_beside_the_image_first() {
        let host = FakeRoot::new();
        let root = host.root();
        let image = root.join("images/bzImage");
        let asked = || root.is_built_with("7.4.0", Some(&image), "CONFIG_X");
        assert_eq!(asked(), None);
        host.set("lib/modules/7.4.0/config", "CONFIG_XY=y\n");
        assert_eq!(asked(), Some(false));
        host.set("boot/config-7.4.0", "CONFIG_X=m\n");
        assert_eq!(asked(), Some(true));
        host.set("images/config-7.4.0", "# CONFIG_X is not set\n");
        assert_eq!(asked(), Some(false));
    }

    #[test]
    fn a_configuration_in_the_kernel_itself_is_believed_first() {
        let host = FakeRoot::new();
        let root = host.root();
        assert_eq!(root.is_built_here_with("CONFIG_X"), None);
        host.set(OWN_RELEASE, "7.3.4\n");
        host.set("boot/config-7.3.4", "CONFIG_X=y\n");
        assert_eq!(root.is_built_here_with("CONFIG_X"), Some(true));
        let mut packed = GzEncoder::new(Vec::new(), Compression::default());
        packed
            .write_all(b"# CONFIG_X is not set\nCONFIG_Y=m\n")
            .unwrap();
        host.set(OWN_CONFIG, packed.finish().unwrap());
        assert_eq!(root.is_built_here_with("CONFIG_X"), Some(false));
        assert_eq!(root.is_built_here_with("CONFIG_Y"), Some(true));
        // A file that is not gzip is ignored.
        host.set(OWN_CONFIG, "CONFIG_X=m\n");
        assert_eq!(root.is_built_here_with("CONFIG_Y"), Some(false));
    }

    #[test]
    fn five_levels_are_seen_in_the_flags_of_the_cpu() {
        let host = FakeRoot::new();
        assert!(!host.root().has_five_levels());
        host.set("proc/cpuinfo", "processor : 0\nflags\t\t: fpu la57 sse\n");
        assert!(host.root().has_five_levels());
        host.set(
            "proc/cpuinfo",
            "processor : 0\nflags\t\t: fpu sse\nbugs : la57\n",
        );
        assert!(!host.root().has_five_levels());
    }
}
