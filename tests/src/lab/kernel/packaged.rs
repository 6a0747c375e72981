//! Debian's own kernels, as its packages have them: an image, and modules for what a host or a guest of the lab needs.
//!
//! They are not pinned: the newest one of the suite is taken, and stays until the cache has forgotten it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{Flavour, Kernel};
use crate::cache::{Cache, KeyBuilder};
use crate::command;
use crate::progress::Progress;
use crate::toolchain::{SUITE, Toolchain};

/// A package that depends on the newest kernel of its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Package {
    pub(super) name: &'static str,
    pub(super) is_backport: bool,
}

impl Package {
    /// Where it is in Debian's archive.
    fn suite(self) -> String {
        match self.is_backport {
            true => format!("{SUITE}-backports"),
            false => SUITE.to_owned(),
        }
    }
}

/// What a host or a guest needs, where the kernel has it as modules.
const MODULES: &[&str] = &[
    "kvm_amd",
    "tun",
    "virtio_blk",
    "virtio_mmio",
    "virtio_net",
    "virtio_pci",
];

/// The file with the names of the modules, in the order in which they have to be loaded.
const ORDER: &str = "order";

/// Arguments: the suite, the package, modules. Older kernels have everything in one package, newer ones a package each for
/// image, modules and the rest.
const FETCH: &str = r#"
exec 2>&1
suite=$1 package=$2; shift 2
apt-get update
cd /lab/work
get="-o APT::Default-Release=$suite"
names=$(apt-cache $get depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces \
    --no-enhances "$package" | grep -E '^linux-(image|base|binary|modules)-[0-9]')
apt-get $get download $names
for deb in ./*.deb; do dpkg-deb -x "$deb" root; rm "$deb"; done
[ -e root/lib ] || ln -s usr/lib root/lib
release=$(ls root/lib/modules)
image=root/lib/modules/$release/vmlinuz
[ -e "$image" ] || image=root/boot/vmlinuz-$release
cp "$image" bzImage
depmod -b root "$release"
mkdir modules
for name; do modprobe -d root -S "$release" --show-depends "$name"; done >load
while read -r insmod path _; do
    file=${path##*/}; file=${file%.xz}
    [ "$insmod" = insmod ] && [ ! -e "modules/$file" ] || continue
    xz -dc "$path" >"modules/$file"
    echo "$file" >>order
done <load
rm -r root load
echo "$release" >release
"#;

/// The newest kernel of a package.
pub(super) fn get(
    cache: &Cache,
    toolchain: &Toolchain,
    flavour: Flavour,
    package: Package,
) -> Result<Kernel> {
    let suite = package.suite();
    let key = KeyBuilder::new("packaged kernel 1")
        .text("suite", &suite)
        .text("package", package.name)
        .text("modules", &MODULES.join(","))
        .build();
    let kind = format!("kernel-{}", flavour.name());
    let dir = cache.get(&kind, &key, |dir| {
        let log = cache.dir("logs")?.join(format!("{kind}.log"));
        let progress = Progress::start(&format!("Kernel {}", flavour.name()), None);
        let mut sh = toolchain.throwaway(&[(dir, "/lab/work")], "sh");
        sh.args(["-ec", FETCH, "sh", &suite, package.name])
            .args(MODULES);
        command::logged(&mut sh, &log, |_| {})
            .with_context(|| format!("Get {} of {suite}", package.name))?;
        progress.done();
        Ok(())
    })?;
    let release = fs::read_to_string(dir.join("release"))?;
    Ok(Kernel {
        flavour,
        release: release.trim().to_owned(),
        key,
        source: PathBuf::new(),
        dir,
    })
}

/// The modules in a kernel's directory, in the order in which they have to be loaded.
pub(super) fn modules(dir: &Path) -> Result<Vec<PathBuf>> {
    let order = fs::read_to_string(dir.join(ORDER)).context("Read the order of the modules")?;
    Ok(order
        .lines()
        .map(|name| dir.join("modules").join(name))
        .collect())
}
