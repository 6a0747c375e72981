//! Loads the module with one of its calls to the kernel failing.
//!
//! The module's symbol table says which functions it calls. All calls are counted, and a function that is called
//! during loading must be in one of the lists below.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};
use rustix::io::Errno;

use super::image::Image;
use crate::check::equal;
use crate::{fdbox, host, uapi};

/// What a function returns when it fails.
const NULL: i64 = 0;
const FALSE: i64 = 0;
const NO_MEMORY: i64 = -12;
const BUSY: i64 = -16;
const EXISTS: i64 = -17;
const INVALID: i64 = -22;
const NO_SPACE: i64 = -28;

/// Functions that fail. The module then does not load, or says that it refuses the handover. Either way the next
/// attempt finds all of it.
const FAIL: &[(&str, i64)] = &[
    ("kern_mount", NO_MEMORY),
    ("alloc_chrdev_region", BUSY),
    ("class_register", NO_MEMORY),
    ("register_blocking_lsm_notifier", EXISTS),
    ("register_reboot_notifier", BUSY),
    ("kho_retrieve_subtree", INVALID),
    ("vmalloc_noprof", NULL),
    ("pfn_to_online_page", NULL),
    ("try_module_get", FALSE),
    ("ida_alloc_range", NO_MEMORY),
    ("ida_alloc_range", NO_SPACE),
    ("dev_set_name", NO_MEMORY),
    ("dev_set_name", INVALID),
    ("cdev_device_add", NO_MEMORY),
    ("cdev_device_add", BUSY),
    ("cdev_device_add", EXISTS),
    (LAST, BUSY),
];

/// The last call that can fail the load.
const LAST: &str = "misc_register";
/// Called once for each box.
const MAKE_NODE: &str = "cdev_device_add";

/// Calls, with their numbers, whose failure does not fail the load. The first subtree is the list of broken
/// memory; without devtmpfs boxes keep the owners with which they were sealed.
const DONE_WITHOUT: &[(&str, u64, i64)] = &[
    ("kho_retrieve_subtree", 1, INVALID),
    ("get_fs_type", 1, NULL),
];

/// The same, after the last one: memory that cannot be taken over stays reserved.
const AT_THE_END: (&str, u64, i64) = ("kho_restore_vmalloc", 1, NULL);

/// Functions that fail only for lack of memory, which `failing.rs` tests.
const ALLOCATE: &[&str] = &[
    "__kmalloc_cache_noprof",
    "kasprintf",
    "kstrdup",
    "rust_helper_krealloc_node_align",
    "rust_helper_kvrealloc_node_align",
];

/// Functions that cannot fail, at least not while a module is loaded.
const CANNOT_FAIL: &[&str] = &[
    "__might_resched",
    "bcmp",
    "cdev_device_del",
    "cdev_init",
    "class_unregister",
    "crc32_le",
    "device_initialize",
    "ida_destroy",
    "ida_free",
    "kern_unmount",
    "kfree",
    "kho_is_enabled",
    "make_kgid",
    "make_kuid",
    "memcmp",
    "memcpy",
    "memmove",
    "memset",
    "module_put",
    "mutex_unlock",
    "put_device",
    "rb_first_postorder",
    "rb_insert_color",
    "rb_next_postorder",
    "rust_helper_IS_ERR",
    "rust_helper_REFCOUNT_INIT",
    "rust_helper___mutex_init",
    "rust_helper_atomic_fetch_add",
    "rust_helper_atomic_fetch_sub",
    "rust_helper_atomic_read_acquire",
    "rust_helper_atomic_set_release",
    "rust_helper_atomic_xchg",
    "rust_helper_mutex_assert_is_held",
    "rust_helper_mutex_lock",
    "rust_helper_rb_link_node",
    "rust_helper_refcount_dec_and_test",
    "rust_helper_refcount_inc",
    "unregister_blocking_lsm_notifier",
    "unregister_chrdev_region",
    "unregister_reboot_notifier",
    "vfree",
    "wake_up_var",
];

/// The module `fdbox_fault`, through which all calls go.
struct Faults {
    device: File,
    slots: u64,
    stride: u64,
}

/// Offset of the counts in what is read from it.
const COUNTS: u64 = 16;

impl Faults {
    fn open() -> Result<Self> {
        host::load_module("fdbox_fault")?;
        let mut open = OpenOptions::new();
        let device = open.read(true).write(true).open("/dev/fdbox_fault")?;
        let slots = number(&device, 0)?;
        let stride = number(&device, 8)?;
        Ok(Self {
            device,
            slots,
            stride,
        })
    }

    /// Makes calls of a slot go to the function at this address, except the `nth` from now on,
    /// which returns `value`.
    fn set(&self, slot: usize, function: u64, nth: u64, value: i64) -> Result<()> {
        let setting = [slot as u64, function, nth, value as u64];
        let bytes: Vec<u8> = setting.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let written = self.device.write_at(&bytes, 0);
        equal("Set a slot", written?, bytes.len())
    }

    /// How often a slot was called since it was set.
    fn calls(&self, slot: usize) -> Result<u64> {
        number(&self.device, COUNTS + 8 * slot as u64)
    }
}

fn number(device: &File, at: u64) -> Result<u64> {
    let mut word = [0; 8];
    device.read_exact_at(&mut word, at)?;
    Ok(u64::from_ne_bytes(word))
}

/// The module, changed so that each of its calls goes through a slot.
pub(super) struct Redirected {
    image: Image,
    faults: Faults,
    /// The address of each function, in the order of the slots.
    functions: Vec<(String, u64)>,
}

impl Redirected {
    pub(super) fn new() -> Result<Self> {
        let mut image = Image::read("/lib/modules/fdbox.ko")?;
        let faults = Faults::open()?;
        let addresses = addresses()?;
        let mut functions = Vec::new();
        for call in image.calls()? {
            let Some(address) = addresses.get(&call.name).filter(|_| !is_rust(&call.name)) else {
                continue;
            };
            let slot = functions.len();
            faults.set(slot, *address, 0, 0)?;
            image.redirect(&call, faults.slots + slot as u64 * faults.stride)?;
            functions.push((call.name, *address));
        }
        Ok(Self {
            image,
            faults,
            functions,
        })
    }

    pub(super) fn load(&self) -> Result<(), Errno> {
        rustix::system::init_module(self.image.bytes(), c"")
    }

    /// Makes the `nth` call of each of these fail, and no other.
    fn arm(&self, failing: &[(&str, u64, i64)]) -> Result<()> {
        for name in failing.iter().map(|(name, ..)| name) {
            let known = self.functions.iter().any(|(function, _)| function == name);
            ensure!(known, "The module does not call {name}");
        }
        for (slot, (name, address)) in self.functions.iter().enumerate() {
            let this = failing.iter().find(|(failing, ..)| failing == name);
            let (nth, value) = this.map_or((0, 0), |(_, nth, value)| (*nth, *value));
            self.faults.set(slot, *address, nth, value)?;
        }
        Ok(())
    }

    /// How often each was called since.
    fn counts(&self) -> Result<BTreeMap<&str, u64>> {
        let mut counts = BTreeMap::new();
        for (slot, (name, _)) in self.functions.iter().enumerate() {
            counts.insert(name.as_str(), self.faults.calls(slot)?);
        }
        Ok(counts)
    }

    /// Loads the module up to its last call, which fails along with the given ones. Returns the
    /// number of calls of each function.
    fn load_up_to_the_last(&self, also: &[(&str, u64, i64)]) -> Result<BTreeMap<&str, u64>> {
        self.arm(&[also, &[(LAST, 1, BUSY)]].concat())?;
        equal("Load", self.load(), Err(Errno::BUSY))?;
        self.counts()
    }

    /// From now on only the call after the last one fails.
    pub(super) fn arm_the_end(&self) -> Result<()> {
        self.arm(&[AT_THE_END])
    }
}

/// Rust functions of the kernel, such as those that format a message, have mangled names. They allocate at most.
fn is_rust(name: &str) -> bool {
    name.starts_with("_R")
}

/// Addresses of the kernel's functions.
fn addresses() -> Result<BTreeMap<String, u64>> {
    let symbols = fs::read_to_string("/proc/kallsyms").context("Read /proc/kallsyms")?;
    let mut addresses = BTreeMap::new();
    for line in symbols.lines() {
        let mut words = line.split_ascii_whitespace();
        if let (Some(address), Some("T" | "W"), Some(name), None) =
            (words.next(), words.next(), words.next(), words.next())
        {
            addresses.insert(name.to_owned(), u64::from_str_radix(address, 16)?);
        }
    }
    Ok(addresses)
}

/// Fails one call after the other. After each the module creates all boxes, up to its last call. Returns the number
/// of calls that failed.
pub(super) fn fail_one_by_one(module: &Redirected, boxes: usize) -> Result<u32> {
    let usual = module.load_up_to_the_last(&[])?;
    ensure_all_are_listed(&usual)?;
    let finds_all = |also: &[_]| {
        let made = module.load_up_to_the_last(also)?.get(MAKE_NODE).copied();
        equal("The number of boxes", made, Some(boxes as u64))
    };
    finds_all(DONE_WITHOUT)?;
    let mut failed = 0;
    for (name, value) in FAIL.iter().copied() {
        let calls = usual.get(name).copied().unwrap_or(0);
        ensure!(calls > 0, "{name} is not called when the module loads");
        for nth in 1..=calls {
            let call = (name, nth, value);
            if DONE_WITHOUT.contains(&call) {
                continue;
            }
            let at = || format!("Call {nth} of {name} failing");
            module.arm(&[call])?;
            is_refused(module.load()).with_context(at)?;
            finds_all(&[]).with_context(at)?;
            failed += 1;
        }
    }
    Ok(failed)
}

/// Checks that the module did not load, or says that it refused the handover; in that case unloads it.
fn is_refused(loaded: Result<(), Errno>) -> Result<()> {
    if loaded.is_err() {
        return Ok(());
    }
    let info = fdbox::info()?;
    equal("The number of boxes", info.boxes, 0)?;
    ensure!(
        info.features & uapi::FEATURE_REFUSED != 0,
        "The module is loaded and finds nothing"
    );
    host::unload_module("fdbox").context("Unload the module")
}

fn ensure_all_are_listed(counts: &BTreeMap<&str, u64>) -> Result<()> {
    let fail = FAIL.iter().map(|(name, _)| *name);
    let less = DONE_WITHOUT.iter().map(|(name, ..)| *name);
    let rest = ALLOCATE.iter().chain(CANNOT_FAIL).copied();
    let listed: Vec<&str> = fail.chain(less).chain(rest).collect();
    let called = counts.iter().filter(|(_, count)| **count > 0);
    let unlisted: Vec<_> = called.filter(|(name, _)| !listed.contains(*name)).collect();
    ensure!(unlisted.is_empty(), "Can these calls fail? {unlisted:?}");
    Ok(())
}
