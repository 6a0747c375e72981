//! Hand-made files and hosts, and the findings on them.

use std::fs;

use super::*;
use crate::kexec::testing::{assert_documented, bzimage};

/// A host with a good kernel and a good initramfs.
struct Files(tempfile::TempDir);

impl Files {
    fn new(kernel_info: Option<&[u8]>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let host = [
            ("sys/kernel/kexec/loaded", "0\n"),
            ("proc/cmdline", "kho=on quiet\n"),
            ("kernel", ""),
            ("initrd", "070701"),
        ];
        for (path, content) in host {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        fs::write(dir.path().join("kernel"), bzimage(kernel_info)).unwrap();
        Self(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The findings with these files as kernel and initramfs.
    fn check(&self, kernel: &str, initramfs: &str, cmdline: &str) -> Vec<String> {
        let files = NextFiles {
            kernel: &self.path(kernel),
            initramfs: Some(&self.path(initramfs)),
            cmdline,
        };
        let found = files.check_in(&HostRoot::new(self.0.path()));
        let prefix = format!("{}/", self.0.path().display());
        found
            .iter()
            .map(|found| found.to_string().replace(&prefix, ""))
            .collect()
    }

    fn kinds(&self, kinds: &[Kind]) -> Vec<Finding> {
        self.kinds_if(kinds, false)
    }

    /// The same if the operator vouches for the patches.
    fn kinds_assumed(&self, kinds: &[Kind]) -> Vec<Finding> {
        self.kinds_if(kinds, true)
    }

    fn kinds_if(&self, kinds: &[Kind], assumes_patches: bool) -> Vec<Finding> {
        let files = NextFiles {
            kernel: &self.path("kernel"),
            initramfs: None,
            cmdline: "kho=on",
        };
        let root = HostRoot::new(self.0.path());
        files.check_kinds_in(&root, &kinds.iter().copied().collect(), assumes_patches)
    }
}

/// A `kernel_info` with the bits of docs/handover-abi.md.
fn takes(bits: u8) -> Vec<u8> {
    takes_also(bits, 0)
}

/// The same, with the next eight bits as well.
fn takes_also(bits: u8, more: u8) -> Vec<u8> {
    let mut info = b"LToP\x10\0\0\0\x1c\0\0\0\x0a\0\0\x80FDBx\x0c\0\0\0".to_vec();
    info.extend([bits, more, 0, 0]);
    info
}

#[test]
fn good_files_are_good() {
    let files = Files::new(None);
    assert_eq!(files.check("kernel", "initrd", "kho=on"), [""; 0]);
}

#[test]
fn each_file_is_named_with_what_is_wrong_with_it() {
    let files = Files::new(None);
    fs::create_dir(files.path("folder")).unwrap();
    fs::write(files.path("empty"), "").unwrap();
    fs::write(files.path("short"), &bzimage(None)[..3000]).unwrap();
    let fifo = rustix::fs::FileType::Fifo;
    let mode = rustix::fs::Mode::RUSR;
    rustix::fs::mknodat(rustix::fs::CWD, files.path("fifo"), fifo, mode, 0).unwrap();
    for (kernel, initramfs, problem) in [
        (
            "fifo",
            "initrd",
            "fifo: it is a FIFO, not a regular file: name a bzImage",
        ),
        ("folder", "initrd", "folder: it is a directory"),
        ("empty", "initrd", "empty: it is empty: name a bzImage"),
        ("none", "initrd", "none: cannot be opened (No such file"),
        (
            "initrd",
            "initrd",
            "initrd: it is too short for a kernel image",
        ),
        (
            "short",
            "initrd",
            "short: it is cut short: it has 3000 bytes, and its header says 6144",
        ),
        ("kernel", "empty", "empty: it is empty: name an initramfs"),
        (
            "kernel",
            "folder",
            "folder: it is a directory, not a regular file: name an initramfs",
        ),
        ("kernel", "fifo", "fifo: it is a FIFO"),
        ("kernel", "none", "none: cannot be opened"),
    ] {
        let found = files.check(kernel, initramfs, "kho=on");
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with(problem), "{}", found[0]);
    }
    assert_documented("cannot be opened");
}

#[test]
fn host_command_line_and_image_are_looked_at_together() {
    let files = Files::new(None);
    fs::write(files.path("sys/kernel/kexec/loaded"), "1\n").unwrap();
    let found = files.check("kernel", "initrd", &"x".repeat(2100));
    assert_eq!(found.len(), 3, "{found:?}");
    // A configuration next to the image says that KHO is on by default.
    let option = format!("{KHO_BY_DEFAULT}=y\n");
    fs::write(files.path("config-7.3.4-next+"), option).unwrap();
    let found = files.check("kernel", "initrd", "quiet");
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("loaded already"), "{}", found[0]);
    // The same for KHO that is off.
    fs::write(files.path("config-7.3.4-next+"), "A=y\n").unwrap();
    let found = files.check("kernel", "initrd", "quiet");
    assert!(
        found[1].contains("configuration leaves KHO off"),
        "{found:?}"
    );
}

#[test]
fn five_levels_of_page_tables_are_a_blocker_only_if_this_kernel_has_them() {
    let files = Files::new(None);
    let mut image = bzimage(None);
    image[0x236] = 0x1f;
    fs::write(files.path("kernel"), image).unwrap();
    assert_eq!(files.check("kernel", "initrd", "kho=on"), [""; 0]);
    fs::write(files.path("proc/cpuinfo"), "flags : la57\n").unwrap();
    let found = files.check("kernel", "initrd", "kho=on");
    assert!(found[0].contains("five levels of page tables"), "{found:?}");
    assert_documented("it cannot be entered from this kernel, which has five levels");
}

#[test]
fn a_kernel_that_reads_no_handover_is_named() {
    // As in Linux 6.12.
    let files = Files::new(Some(b"LToP\x10\0\0\0\x10\0\0\0\x09\0\0\x80"));
    let found = files.check("kernel", "initrd", "kho=on");
    assert_eq!(found.len(), 1, "{found:?}");
    let problem = "it is a kernel that reads no handover";
    assert!(found[0].contains(problem), "{}", found[0]);
    assert_documented(problem);
}

#[test]
fn the_kernel_tells_what_a_loaded_one_takes_over() {
    let files = Files::new(None);
    let found = |handover: &str, kinds: &[Kind]| {
        fs::write(files.path("sys/kernel/kexec/handover"), handover).unwrap();
        let kinds = kinds.iter().copied().collect();
        check_loaded_kinds_in(&HostRoot::new(files.0.path()), &kinds)
    };
    assert_eq!(found("0x7f\n", &[Kind::VfioPci]), []);
    assert_eq!(found("0x7d\n", &[Kind::VfioPci]).len(), 1);
    assert_eq!(found("0x0\n", &[]), []);
    assert_eq!(found("0x0\n", &[Kind::KvmVm]).len(), 1);
}

#[test]
fn a_kernel_that_sizes_bars_is_named_only_if_devices_are_in_use_meanwhile() {
    let in_use = |info: Option<&[u8]>| {
        let files = Files::new(info);
        let kernel = files.path("kernel");
        let next = NextFiles {
            kernel: &kernel,
            initramfs: None,
            cmdline: "kho=on",
        };
        next.check_devices_in_use()
    };
    assert_eq!(in_use(Some(&takes_also(0xff, 7))), None);
    let found = in_use(Some(&takes_also(0xff, 3))).unwrap();
    assert!(found.is_blocker());
    let problem = "it is not built to leave the registers of PCI devices alone, which guests in the lifeboat use \
                   while it boots";
    assert_eq!(found.problem, problem);
    let files = Files::new(Some(&takes_also(0xff, 3)));
    assert_eq!(files.kinds(&[Kind::VfioPci]), []);
    // It gets no devices anyway.
    assert_eq!(in_use(None), None);

    let loaded = |handover: &str| {
        fs::write(files.path("sys/kernel/kexec/handover"), handover).unwrap();
        check_loaded_in_use(&HostRoot::new(files.0.path()))
    };
    assert_eq!(loaded("0x7ff\n"), None);
    assert_eq!(loaded("none\n"), None);
    assert_eq!(loaded("0x3ff\n").unwrap().subject, "The loaded kernel");
}

#[test]
fn a_kernel_that_lacks_what_the_boxes_need_is_named() {
    let everything = [Kind::Memfd, Kind::KvmVm, Kind::Iommufd, Kind::VfioPci];
    assert_eq!(Files::new(Some(&takes(0x7f))).kinds(&everything), []);

    let without_vtd = Files::new(Some(&takes(0x7d)));
    assert_eq!(without_vtd.kinds(&[Kind::Memfd, Kind::KvmVm]), []);
    let found = without_vtd.kinds(&everything);
    let problems: Vec<_> = found.iter().map(|found| found.problem.as_str()).collect();
    let expected = [
        "it is not built to go on translating with VT-d, and iommufds would be lost",
        "it is not built to go on translating with VT-d, and VFIO devices would be lost",
    ];
    assert_eq!(problems, expected);
    assert!(found.iter().all(Finding::is_blocker));
    assert_documented("it is not built to");
}

#[test]
fn a_kernel_without_scalable_mode_is_named_where_this_one_uses_it() {
    let files = Files::new(Some(&takes(0x7f)));
    let set = |path: &str, content: &str| {
        let path = files.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    };
    set("sys/class/iommu/dmar0/intel-iommu/ecap", "80000f00f5e\n");
    set("proc/cmdline", "intel_iommu=sm_off\n");
    assert_eq!(files.kinds(&[Kind::VfioPci]), []);

    set("proc/cmdline", "intel_iommu=sm_on\n");
    assert_eq!(files.kinds(&[Kind::Memfd]), []);
    let found = files.kinds(&[Kind::VfioPci]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].is_blocker());
    let problem = "not built to go on translating with VT-d in scalable mode, and VFIO devices";
    assert!(found[0].problem.contains(problem), "{}", found[0]);

    set("proc/cmdline", "\n");
    assert_eq!(files.kinds(&[Kind::Memfd]), []);
    let found = files.kinds(&[Kind::VfioPci, Kind::Iommufd]);
    assert!(found.len() == 1 && !found[0].is_blocker(), "{found:?}");
    let problem = "whether this kernel uses that mode cannot be seen";
    assert!(found[0].problem.contains(problem), "{}", found[0]);
    assert_documented(problem);

    // One that has it.
    let image = bzimage(Some(&takes_also(0xff, 1)));
    fs::write(files.path("kernel"), image).unwrap();
    assert_eq!(files.kinds(&[Kind::VfioPci, Kind::Iommufd]), []);
}

#[test]
fn a_kernel_needs_what_translates_on_this_host() {
    let files = Files::new(Some(&takes_also(0xff, 1)));
    fs::create_dir_all(files.path("sys/class/iommu/ivhd0")).unwrap();
    assert_eq!(files.kinds(&[Kind::Memfd]), []);
    let found = files.kinds(&[Kind::VfioPci]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].is_blocker());
    let problem =
        "it is not built to go on translating with AMD-Vi, and VFIO devices would be lost";
    assert_eq!(found[0].problem, problem);

    let image = bzimage(Some(&takes_also(0xfd, 2)));
    fs::write(files.path("kernel"), image).unwrap();
    assert_eq!(files.kinds(&[Kind::VfioPci, Kind::Iommufd]), []);
}

#[test]
fn a_kernel_that_says_nothing_is_taken_on_somebodys_word_but_not_for_devices() {
    let files = Files::new(None);
    assert_eq!(files.kinds(&[]), []);
    let vm = [Kind::GuestMemfd, Kind::KvmVm];
    let found = files.kinds(&vm);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].is_blocker(), "{}", found[0]);
    assert!(
        found[0].problem.contains("VMs, guest_memfds"),
        "{}",
        found[0]
    );
    assert_documented("it does not say that it takes over");

    let found = files.kinds_assumed(&vm);
    assert!(found.len() == 1 && !found[0].is_blocker(), "{found:?}");
    let found = files.kinds_assumed(&[Kind::KvmVm, Kind::Iommufd, Kind::VfioPci]);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].is_blocker() && !found[1].is_blocker());
    assert!(
        found[0].problem.contains("iommufds, VFIO devices"),
        "{}",
        found[0]
    );
}

#[test]
fn a_next_kernel_without_the_module_is_reported() {
    let files = Files::new(None);
    let check = || files.check("kernel", "initrd", "kho=on");
    let set = |path: &str, content: &str| {
        let path = files.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    };
    // The release that the image tells.
    set("lib/modules/7.3.4-next+/modules.dep", "kernel/a.ko:\n");
    assert_eq!(check(), [""; 0]);
    set("sys/module/fdbox/version", "1\n");
    let found = check();
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].contains("no fdbox.ko is installed for it"),
        "{found:?}"
    );
    assert_documented("no fdbox.ko is installed for it");
    set(
        "lib/modules/7.3.4-next+/modules.dep",
        "extra/fdbox.ko.xz:\n",
    );
    assert_eq!(check(), [""; 0]);
}
