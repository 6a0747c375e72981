//! Checks tests/packaging/: versions, scripts, and for which kernels DKMS builds the module.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn packaging() -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/packaging")).into()
}

#[test]
fn packages_have_the_version_of_the_sources() {
    let changelog = fs::read_to_string(packaging().join("debian/changelog")).unwrap();
    let expected = format!("fdbox ({}) ", env!("CARGO_PKG_VERSION"));
    assert!(changelog.starts_with(&expected), "{expected}");
}

#[test]
fn scripts_are_shell() {
    for script in [
        "dkms/check",
        "dkms/refresh-initramfs",
        "lab/build",
        "lab/check",
        "lab/check-kernel",
        "lab/common",
        "lab/host/common",
        "lab/host/install",
        "lab/host/keeper",
        "lab/host/update",
        "lab/kernel",
        "debian/fdbox-dkms.postinst",
        "debian/vmm-example.postinst",
        "debian/vmm-example.postrm",
        "debian/vmm-example.prerm",
    ] {
        let checked = Command::new("sh")
            .arg("-n")
            .arg(packaging().join(script))
            .status()
            .unwrap();
        assert!(checked.success(), "{script}");
    }
}

/// debhelper does it only for units that the package starts, and it starts none.
#[test]
fn systemd_reads_the_units_again_once_they_are_installed() {
    let script = fs::read_to_string(packaging().join("debian/vmm-example.postinst")).unwrap();
    // The units are enabled where this is, and what is enabled is read with them.
    let (_, after) = script.split_once("#DEBHELPER#\n").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let calls = dir.join("calls");
    let systemctl = format!(
        "systemctl() {{ echo \"$*\" >> {}; return 1; }}\n",
        calls.display()
    );
    let called = |systemd: &str, root: &str, what: &str| {
        let after = after.replace("/run/systemd/system", dir.join(systemd).to_str().unwrap());
        let status = Command::new("sh")
            .args(["-euc", &format!("{systemctl}{after}"), "sh", what])
            .env("DPKG_ROOT", root)
            .status()
            .unwrap();
        // systemd may be out of order: the package is installed nevertheless.
        assert!(status.success(), "{what}");
        let called = fs::read_to_string(&calls).unwrap_or_default();
        let _ = fs::remove_file(&calls);
        called
    };
    for what in ["configure", "abort-upgrade"] {
        assert_eq!(called(".", "", what), "--system daemon-reload\n");
    }
    assert_eq!(called(".", "", "triggered"), "");
    assert_eq!(called("not-running", "", "configure"), "");
    assert_eq!(called(".", "/mnt", "configure"), "");
}

/// Fake headers of a kernel.
struct Headers(tempfile::TempDir);

const CONFIG: &str = "\
CONFIG_RUST=y
CONFIG_KEXEC_HANDOVER=y
CONFIG_RUSTC_VERSION_TEXT=rustc 1.85.0 (4eb161250 2025-03-15)
";

impl Headers {
    fn good() -> Self {
        let headers = Self(tempfile::tempdir().unwrap());
        headers.set("include/config/auto.conf", CONFIG);
        headers.set("include/linux/pci-keep.h", "");
        headers.set("rust/libkernel.rmeta", "");
        headers.set(
            "bin/rustc",
            "#!/bin/sh\necho 'rustc 1.85.0 (4eb161250 2025-03-15)'\n",
        );
        headers.set("bin/bindgen", "#!/bin/sh\n");
        for program in ["rustc", "bindgen"] {
            let path = headers.0.path().join("bin").join(program);
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            fs::set_permissions(path, mode).unwrap();
        }
        headers
    }

    fn set(&self, path: &str, text: &str) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn remove(&self, path: &str) {
        fs::remove_file(self.0.path().join(path)).unwrap();
    }

    /// The exit status of the check, and its message.
    fn check(&self) -> (Option<i32>, String) {
        let bin = self.0.path().join("bin");
        let output = Command::new("/bin/sh")
            .arg(packaging().join("dkms/check"))
            .arg("7.3.4-x")
            .arg(self.0.path())
            .env("RUSTC", bin.join("rustc"))
            .env("BINDGEN", bin.join("bindgen"))
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), stderr)
    }
}

#[test]
fn the_module_is_for_kernels_with_rust_and_the_patches() {
    assert_eq!(Headers::good().check(), (Some(0), String::new()));
    type Change = fn(&Headers);
    let cases: [(&str, Change); 6] = [
        ("no headers", |it| it.remove("include/config/auto.conf")),
        ("without CONFIG_RUST", |it| {
            it.set("include/config/auto.conf", "CONFIG_RUST_IS_AVAILABLE=y\n");
        }),
        ("without CONFIG_KEXEC_HANDOVER", |it| {
            it.set("include/config/auto.conf", "CONFIG_RUST=y\n");
        }),
        ("without the patches", |it| {
            it.remove("include/linux/pci-keep.h");
        }),
        ("nothing for modules in Rust", |it| {
            it.remove("rust/libkernel.rmeta");
        }),
        ("built by rustc 1.85.0", |it| {
            it.set("bin/rustc", "#!/bin/sh\necho rustc 1.99.0\n");
        }),
    ];
    for (reason, change) in cases {
        let headers = Headers::good();
        change(&headers);
        let (status, stderr) = headers.check();
        // With this status DKMS skips the kernel.
        assert_eq!(status, Some(77), "{reason}: {stderr}");
        assert!(stderr.starts_with("fdbox: not for 7.3.4-x: "), "{stderr}");
        assert!(stderr.contains(reason), "{reason}: {stderr}");
    }
}

/// Not every auto.conf has strings without quotes.
#[test]
fn a_version_in_quotes_is_read() {
    let headers = Headers::good();
    let text = "=rustc 1.85.0 (4eb161250 2025-03-15)";
    let quoted = CONFIG.replace(text, &format!("=\"{}\"", &text[1..]));
    assert_ne!(quoted, CONFIG);
    headers.set("include/config/auto.conf", &quoted);
    assert_eq!(headers.check(), (Some(0), String::new()));
}

/// If a kernel is built with O=, the sources are in another directory.
#[test]
fn the_sources_of_separate_objects_are_found() {
    let headers = Headers::good();
    headers.remove("include/linux/pci-keep.h");
    headers.set("source/include/linux/pci-keep.h", "");
    let sources = headers.0.path().join("source");
    for place in [sources.to_str().unwrap(), "source"] {
        let makefile = format!("# Generated\nexport KBUILD_OUTPUT = .\ninclude {place}/Makefile\n");
        headers.set("Makefile", &makefile);
        assert_eq!(headers.check(), (Some(0), String::new()));
    }
}

/// A package of headers has the Makefile of the sources.
#[test]
fn headers_with_the_sources_makefile_have_the_sources_headers() {
    let headers = Headers::good();
    headers.set("Makefile", "include $(srctree)/arch/$(SRCARCH)/Makefile\n");
    assert_eq!(headers.check(), (Some(0), String::new()));
}

/// What the page for real machines has one enable by hand is enabled in the kernel with Debian's configuration.
#[test]
fn debians_configuration_gets_what_the_page_names() {
    let root = packaging().join("../..");
    let page = fs::read_to_string(root.join("docs/install.md")).unwrap();
    let (_, by_hand) = page.split_once("and enable\n").unwrap();
    let (sentence, _) = by_hand.split_once(":\n").unwrap();
    let named: Vec<&str> = sentence.split('`').skip(1).step_by(2).collect();
    assert!(named.len() >= 8, "{named:?}");
    let config = fs::read_to_string(root.join("tests/kernel/debian.config")).unwrap();
    for name in named {
        let is_on = |line: &str| {
            ["y", "m"]
                .iter()
                .any(|on| line == format!("CONFIG_{name}={on}"))
        };
        assert!(config.lines().any(is_on), "{name}");
    }
}
