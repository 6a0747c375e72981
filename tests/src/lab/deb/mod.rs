//! `cargo lab package`: builds Debian packages of the module and the VMM from packaging/debian, checks them with
//! lintian, and installs and removes them, all in a throwaway copy of the toolchain.

mod boot;
mod kernel;
mod tree;

use std::borrow::Cow;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};

use self::boot::Kind;
use crate::cli::{Configuration, PackageArgs};
use crate::kernel::Flavour;
use crate::lab::Lab;
use crate::progress::Progress;
use crate::{command, package, programs};

/// The packages needed to build, check and install ours. They must not be part of the toolchain: another package
/// there would rebuild every kernel.
const TOOLS: &[&str] = &[
    "debhelper",
    "dh-dkms",
    "dkms",
    "initramfs-tools",
    "lintian",
    "systemd",
];

/// What DKMS has to do for each kernel: build the module, or refuse it with these words.
const VERDICTS: [(Flavour, &str); 2] = [
    (Flavour::A, "builds"),
    (Flavour::Stock, "built without the patches"),
];

/// What the names of packages begin with.
const VMM: &str = "vmm-example_";
const HEADERS: &str = "linux-headers-";
const MODULES: &str = "fdbox-modules-";

/// The kernels that become packages: a Debian system runs on them.
pub(crate) const KERNELS: [Flavour; 2] = [Flavour::PackageA, Flavour::PackageB];

pub(crate) fn run(args: &PackageArgs) -> Result<ExitCode> {
    let lab = Lab::open_with(&[programs::VMM])?;
    let mut packages = build(&lab, &args.out)?;
    if args.check {
        check_all(&lab, &args.out)?;
    }
    let kernels: &[Flavour] = match args.kernel {
        Some(Configuration::Small) => &KERNELS,
        Some(Configuration::Debian) => &[Flavour::Distribution],
        None => &[],
    };
    for flavour in kernels {
        packages.extend(copy(&kernel::packages(&lab, *flavour)?, &args.out)?);
    }
    for package in packages {
        println!("{}", package.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// Builds and checks the packages in a temporary directory.
pub(crate) fn test(lab: &Lab) -> Result<()> {
    let out = work(lab)?.join("install");
    build(lab, &out)?;
    check_all(lab, &out)?;
    Ok(fs::remove_dir_all(out)?)
}

/// Builds all packages, with those of two kernels, and checks what they install together. They are kernels that the lab has
/// anyway: nothing boots here.
pub(crate) fn test_kernel(lab: &Lab) -> Result<()> {
    let built = work(lab)?.join("kernel-built");
    let mut packages = build(lab, &built)?;
    for flavour in [Flavour::A, Flavour::B] {
        packages.extend(kernel::packages(lab, flavour)?);
    }
    let out = work(lab)?.join("kernel");
    copy(&packages, &out)?;
    let tools = package::with_dependencies(&lab.cache, &lab.toolchain, "packaging", TOOLS)?;
    let mounts = [(tools.as_path(), "/lab/debs"), (&out, "/lab/out")];
    run_script(lab, "check-kernel", &mounts, &[])?;
    fs::remove_dir_all(built)?;
    Ok(fs::remove_dir_all(out)?)
}

/// Configures the kernel with Debian's configuration, which takes too long to build.
pub(crate) fn test_configuration(lab: &Lab) -> Result<()> {
    lab.kernels()?.check_configuration(Flavour::Distribution)
}

/// Copies packages into a directory, and returns where they are there.
fn copy(packages: &[PathBuf], out: &Path) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(out)?;
    let copy = |package: &PathBuf| {
        let place = out.join(package.file_name().context("A package is a file")?);
        fs::copy(package, &place).with_context(|| format!("Copy {}", package.display()))?;
        Ok(place)
    };
    packages.iter().map(copy).collect()
}

/// Installs the package of the VMM in a Debian host, and removes it again.
pub(crate) fn test_in_host(lab: &Lab) -> Result<()> {
    in_host(lab, "install", Kind::Plain, "install", Vec::new())
}

/// Kills the keeper that systemd runs in a Debian host.
pub(crate) fn test_keeper(lab: &Lab) -> Result<()> {
    in_host(lab, "keeper", Kind::Plain, "keeper", Vec::new())
}

/// Updates a Debian host under its guest, from one packaged kernel into another. The module is a package for each of them.
pub(crate) fn test_update(lab: &Lab) -> Result<()> {
    let packages = of_kernels(lab, |name| !name.starts_with(HEADERS))?;
    in_host(lab, "update", Kind::Plain, "update", packages)
}

/// The same where the host builds the module for each of them, by DKMS.
pub(crate) fn test_dkms(lab: &Lab) -> Result<()> {
    let packages = of_kernels(lab, |name| !name.starts_with(MODULES))?;
    in_host(lab, "dkms", Kind::Builds, "update", packages)
}

/// The same without the module: the guest goes through the kernels' LUO.
pub(crate) fn test_luo(lab: &Lab) -> Result<()> {
    let packages = of_kernels(lab, |name| {
        !name.starts_with(HEADERS) && !name.starts_with(MODULES)
    })?;
    in_host(lab, "luo", Kind::Plain, "update", packages)
}

/// The packages of the kernels for a Debian host whose names are wanted.
fn of_kernels(lab: &Lab, is_wanted: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>> {
    let mut packages = Vec::new();
    for flavour in KERNELS {
        packages.extend(kernel::packages(lab, flavour)?);
    }
    packages.retain(|path| is_wanted(&name(path)));
    Ok(packages)
}

/// Builds the packages, and runs a script of packaging/lab/host in a Debian host that has that of the VMM, that of the module
/// if it can build it, and others.
fn in_host(lab: &Lab, test: &str, kind: Kind, script: &str, others: Vec<PathBuf>) -> Result<()> {
    let out = work(lab)?.join(format!("host-{test}"));
    let mut packages = build(lab, &out)?;
    packages.retain(|path| kind == Kind::Builds || name(path).starts_with(VMM));
    packages.extend(others);
    boot::test(lab, test, kind, script, &packages)?;
    Ok(fs::remove_dir_all(out)?)
}

fn name(path: &Path) -> Cow<'_, str> {
    path.file_name().unwrap_or_default().to_string_lossy()
}

/// A directory for this process.
fn work(lab: &Lab) -> Result<PathBuf> {
    let packages = lab.cache.dir("packages")?;
    Ok(packages.join(std::process::id().to_string()))
}

fn check_all(lab: &Lab, out: &Path) -> Result<()> {
    let mut verdicts = VERDICTS.iter();
    verdicts.try_for_each(|(flavour, verdict)| check(lab, out, *flavour, verdict))
}

/// Builds the packages into a directory. Other files there stay.
fn build(lab: &Lab, out: &Path) -> Result<Vec<PathBuf>> {
    let tools = package::with_dependencies(&lab.cache, &lab.toolchain, "packaging", TOOLS)?;
    let vmm = lab.programs(&[programs::VMM])?.path(programs::VMM);
    let work = work(lab)?.join(format!("{}-work", name(out)));
    let (tree, built) = (work.join("tree"), work.join("built"));
    fs::create_dir_all(&built)?;
    tree::write(&lab.checkout, &vmm, &tree)?;
    let mounts = [
        (tree.as_path(), "/lab/tree"),
        (&tools, "/lab/debs"),
        (&built, "/lab/out"),
    ];
    run_script(lab, "build", &mounts, &[])?;
    let entries: std::io::Result<Vec<_>> = fs::read_dir(&built)?.collect();
    let paths: Vec<_> = entries?.iter().map(fs::DirEntry::path).collect();
    let mut packages = copy(&paths, out)?;
    packages.sort();
    fs::remove_dir_all(&work)?;
    Ok(packages)
}

/// Installs and removes the packages of a directory, and has DKMS build the module for a kernel.
fn check(lab: &Lab, out: &Path, flavour: Flavour, verdict: &str) -> Result<()> {
    let tools = package::with_dependencies(&lab.cache, &lab.toolchain, "packaging", TOOLS)?;
    let kernel = lab.kernels()?.get(flavour)?;
    let objects = kernel.mounts();
    let mut mounts = vec![(tools.as_path(), "/lab/debs"), (out, "/lab/out")];
    mounts.extend(objects.iter().map(|(path, place)| (path.as_path(), *place)));
    run_script(lab, "check", &mounts, &[verdict])
}

/// Runs a script from packaging/lab in a throwaway copy of the toolchain.
fn run_script(lab: &Lab, name: &str, mounts: &[(&Path, &str)], arguments: &[&str]) -> Result<()> {
    let scripts = lab.checkout.join("tests/packaging/lab");
    let log = lab.fresh_log(&format!("package-{name}"))?;
    let progress = Progress::start(&format!("Packages: {name}"), None);
    let mounts = [mounts, &[(scripts.as_path(), "/lab/scripts")]].concat();
    let mut script = lab.toolchain.throwaway(&mounts, "sh");
    script.arg(format!("/lab/scripts/{name}")).args(arguments);
    command::logged(&mut script, &log, |_| {})
        .with_context(|| format!("tests/packaging/lab/{name}: see {}", log.display()))?;
    progress.done();
    Ok(())
}
