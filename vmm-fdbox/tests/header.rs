//! The Rust types compared with the C header: a C program prints the compiler's values for the
//! header, and every line must match Rust's value in `abi`.

use std::collections::BTreeMap;
use std::mem::offset_of;
use std::path::{Path, PathBuf};
use std::process::Command;

use vmm_fdbox::abi;

const HEADERS: [&str; 2] = [
    "kmod/include/uapi/linux/fdbox.h",
    "kmod/include/uapi/linux/fdbox_boat.h",
];

/// A value of the header: its C expression, and Rust's value.
type Value = (String, u64);

macro_rules! layout {
    ($values:ident, $rust:ident, $c:literal, [$($field:ident),+ $(,)?]) => {
        // A field that is missing here does not compile.
        let _ = |abi::$rust { $($field: _),+ }: abi::$rust| ();
        $values.push((format!("sizeof({})", $c), size_of::<abi::$rust>() as u64));
        $values.push((format!("_Alignof({})", $c), align_of::<abi::$rust>() as u64));
        $($values.push((
            format!("offsetof({}, {})", $c, stringify!($field)),
            offset_of!(abi::$rust, $field) as u64,
        ));)+
    };
}

macro_rules! constants {
    ($values:ident, [$($name:ident),+ $(,)?]) => {
        $($values.push((stringify!($name).to_owned(), u64::from(abi::$name)));)+
    };
}

/// The structs whose size is fixed.
fn fixed_layouts() -> Vec<Value> {
    let mut values = Vec::new();
    layout!(values, CreateBox, "struct fdbox_create_box", [flags, name]);
    layout!(values, DeleteBox, "struct fdbox_delete_box", [flags, name]);
    layout!(values, PutFd, "struct fdbox_put_fd", [flags, fd, pad, name]);
    layout!(values, GetFd, "struct fdbox_get_fd", [flags, name]);
    values
}

/// The structs that can grow.
fn growable_layouts() -> Vec<Value> {
    let mut values = Vec::new();
    layout!(
        values,
        Info,
        "struct fdbox_info",
        [
            size,
            flags,
            uapi_version,
            handover_version,
            features,
            boxes,
            handover_bytes,
            handover_extents,
            handover_pages,
        ]
    );
    layout!(
        values,
        NextBox,
        "struct fdbox_next_box",
        [size, flags, cursor, state, fds, name]
    );
    layout!(
        values,
        NextFd,
        "struct fdbox_next_fd",
        [size, flags, cursor, state, pad, bytes, name, compatible]
    );
    layout!(
        values,
        SealError,
        "struct fdbox_seal_error",
        [size, flags, error, reason, name, message]
    );
    layout!(
        values,
        NextLost,
        "struct fdbox_next_lost",
        [
            size, flags, cursor, error, reason, name, compatible, message
        ]
    );
    layout!(values, Salvage, "struct fdbox_salvage", [size, flags, lost]);
    layout!(values, Borrow, "struct fdbox_borrow", [size, flags, name]);
    layout!(
        values,
        Lend,
        "struct fdbox_lend",
        [
            size, flags, act, holder, wanted, ready, generation, lost, pad
        ]
    );
    values
}

/// Those of the lifeboat.
fn boat_layouts() -> Vec<Value> {
    let mut values = Vec::new();
    layout!(
        values,
        BoatLoad,
        "struct fdbox_boat_load",
        [
            size,
            flags,
            kernel_fd,
            initramfs_fd,
            cmdline,
            cmdline_len,
            memory_mib,
            cpus,
            nr_cpus,
            nr_start
        ]
    );
    layout!(
        values,
        BoatStart,
        "struct fdbox_boat_start",
        [size, flags, start_ms, silence_ms]
    );
    layout!(
        values,
        BoatStop,
        "struct fdbox_boat_stop",
        [size, flags, limit_ms, pad]
    );
    layout!(
        values,
        BoatStatus,
        "struct fdbox_boat_status",
        [
            size,
            flags,
            state,
            nr_cpus,
            memory,
            memory_bytes,
            life,
            beats,
            largest_gap_ns,
            host_beats,
            kernels,
            host_panicked,
            pad,
            host_silent_ms
        ]
    );
    layout!(
        values,
        BoatCheck,
        "struct fdbox_boat_check",
        [size, flags, cmdline, cmdline_len, pad]
    );
    layout!(
        values,
        BoatMessage,
        "struct fdbox_boat_message",
        [size, flags, error, pad, message]
    );
    layout!(
        values,
        BoatRestart,
        "struct fdbox_boat_restart",
        [size, flags, silent_ms, pad]
    );
    layout!(
        values,
        BoatLend,
        "struct fdbox_boat_lend",
        [size, flags, nr_cpus, limit_ms]
    );
    values
}

fn layouts() -> Vec<Value> {
    [fixed_layouts(), growable_layouts(), boat_layouts()].concat()
}

fn boat_numbers() -> Vec<Value> {
    let mut values = vec![(
        "FDBOX_BOAT_MESSAGE_LEN".to_owned(),
        abi::FDBOX_BOAT_MESSAGE_LEN as u64,
    )];
    constants!(
        values,
        [
            FDBOX_BOAT_MAX_CPUS,
            FDBOX_BOAT_OFF,
            FDBOX_BOAT_LOADED,
            FDBOX_BOAT_RUNNING,
            FDBOX_BOAT_LOST,
            FDBOX_BOAT_ABOARD,
            FDBOX_BOAT_ALONE,
            FDBOX_BOAT_LOAD,
            FDBOX_BOAT_START,
            FDBOX_BOAT_STOP,
            FDBOX_BOAT_STATUS,
            FDBOX_BOAT_CHECK,
            FDBOX_BOAT_MESSAGE,
            FDBOX_BOAT_LOAD_RESCUE,
            FDBOX_BOAT_RESTART,
            FDBOX_BOAT_LEND
        ]
    );
    values
}

fn numbers() -> Vec<Value> {
    let mut values = boat_numbers();
    values.extend([
        ("FDBOX_NAME_LEN".to_owned(), abi::FDBOX_NAME_LEN as u64),
        (
            "FDBOX_COMPATIBLE_LEN".to_owned(),
            abi::FDBOX_COMPATIBLE_LEN as u64,
        ),
        (
            "FDBOX_MESSAGE_LEN".to_owned(),
            abi::FDBOX_MESSAGE_LEN as u64,
        ),
    ]);
    constants!(values, [FDBOX_TYPE, FDBOX_BASE, FDBOX_UAPI_VERSION]);
    constants!(
        values,
        [
            FDBOX_CREATE_BOX,
            FDBOX_DELETE_BOX,
            FDBOX_PUT_FD,
            FDBOX_GET_FD
        ]
    );
    constants!(
        values,
        [
            FDBOX_SEAL,
            FDBOX_UNSEAL,
            FDBOX_INFO,
            FDBOX_NEXT_BOX,
            FDBOX_NEXT_FD
        ]
    );
    constants!(
        values,
        [FDBOX_SEAL_ERROR, FDBOX_STATE_OPEN, FDBOX_STATE_SEALED]
    );
    constants!(values, [FDBOX_GET_KEEP]);
    constants!(values, [FDBOX_FD_LIVE, FDBOX_FD_INCOMING, FDBOX_FD_UNKNOWN]);
    constants!(
        values,
        [
            FDBOX_FEATURE_KHO,
            FDBOX_FEATURE_KHO_BOOT,
            FDBOX_FEATURE_MEMFD
        ]
    );
    constants!(
        values,
        [
            FDBOX_FEATURE_KVM_VM,
            FDBOX_FEATURE_GUEST_MEMFD,
            FDBOX_FEATURE_REFUSED
        ]
    );
    constants!(
        values,
        [
            FDBOX_FEATURE_IOMMUFD,
            FDBOX_FEATURE_VFIO_PCI,
            FDBOX_FEATURE_HUGETLB
        ]
    );
    constants!(
        values,
        [FDBOX_REASON_OTHER, FDBOX_REASON_MISSING_DEPENDENCY]
    );
    constants!(
        values,
        [FDBOX_REASON_SHARED_FILE, FDBOX_REASON_UNSUPPORTED_STATE]
    );
    constants!(values, [FDBOX_REASON_NO_MEMORY]);
    constants!(
        values,
        [
            FDBOX_NEXT_LOST,
            FDBOX_SALVAGE,
            FDBOX_LOST_OTHER,
            FDBOX_LOST_UNKNOWN_KIND,
            FDBOX_LOST_MEMORY,
            FDBOX_LOST_DEPENDENCY,
            FDBOX_LOST_DATA,
            FDBOX_LOST_REFUSED
        ]
    );
    constants!(
        values,
        [
            FDBOX_BORROW,
            FDBOX_LEND,
            FDBOX_LEND_LOOK,
            FDBOX_LEND_SHOW,
            FDBOX_LEND_OFFER,
            FDBOX_LEND_RECALL,
            FDBOX_LEND_READY,
            FDBOX_HOLDER_HOST,
            FDBOX_HOLDER_SHOWN,
            FDBOX_HOLDER_OFFERED,
            FDBOX_HOLDER_BOAT
        ]
    );
    values
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The C compiler's value for each expression.
fn ask_c(expressions: &[Value]) -> BTreeMap<String, u64> {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let (source, program) = (directory.join("header.c"), directory.join("header"));
    let mut code = String::from("#include <stddef.h>\n#include <stdio.h>\n");
    code += "#include <linux/fdbox_boat.h>\nint main(void)\n{\n";
    for (expression, _) in expressions {
        code += &format!("\tprintf(\"%llu\\n\", (unsigned long long)({expression}));\n");
    }
    code += "\treturn 0;\n}\n";
    std::fs::write(&source, code).expect("write the C program");
    let status = Command::new("cc")
        .args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-I"])
        .arg(repository().join("kmod/include/uapi"))
        .args(["-o".as_ref(), program.as_os_str(), source.as_os_str()])
        .status()
        .expect("run cc: install a C compiler and the Linux headers (gcc, libc6-dev)");
    assert!(status.success(), "the header does not compile");
    let output = Command::new(&program).output().expect("run the C program");
    let text = String::from_utf8(output.stdout).expect("numbers");
    let numbers = text.lines().map(|line| line.parse().expect("a number"));
    expressions
        .iter()
        .map(|(expression, _)| expression.clone())
        .zip(numbers)
        .collect()
}

#[test]
fn rust_and_c_agree() {
    let mut values = layouts();
    values.extend(numbers());
    let c = ask_c(&values);
    let differing: Vec<String> = values
        .iter()
        .filter(|(expression, rust)| c.get(expression) != Some(rust))
        .map(|(expression, rust)| format!("{expression}: C {:?}, Rust {rust}", c.get(expression)))
        .collect();
    assert!(differing.is_empty(), "{differing:#?}");
    assert_eq!(c.len(), values.len());
}

#[test]
fn every_constant_of_the_header_is_compared() {
    let read = |path| std::fs::read_to_string(repository().join(path)).expect("read the header");
    let header: String = HEADERS.map(read).concat();
    let known = numbers();
    let missing: Vec<&str> = header
        .lines()
        .filter_map(|line| line.strip_prefix("#define ")?.split_whitespace().next())
        .filter(|name| name.starts_with("FDBOX_"))
        .filter(|name| !known.iter().any(|(known, _)| known == name))
        .collect();
    assert!(
        missing.is_empty(),
        "not in abi, or not compared: {missing:?}"
    );
    let structs = header
        .lines()
        .filter(|line| line.starts_with("struct fdbox_"))
        .count();
    let compared = layouts()
        .iter()
        .filter(|(name, _)| name.starts_with("sizeof"))
        .count();
    assert_eq!(structs, compared, "a struct of the header is not compared");
}

#[test]
fn the_numbers_are_the_fixed_ones() {
    let create = 0x2e00;
    assert_eq!(u64::from(abi::FDBOX_CREATE_BOX), create);
    assert_eq!(u64::from(abi::FDBOX_UNSEAL), create + 5);
    assert_eq!(size_of::<abi::PutFd>(), 272);
    assert_eq!(size_of::<abi::CreateBox>(), 264);
}
