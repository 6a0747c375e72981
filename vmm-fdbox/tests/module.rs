//! The module's own numbers compared with those of `abi`, which `header.rs` compares with the header.

use vmm_fdbox::abi;

/// The module's view of the header. The compiler reports values that are not compared here as
/// unused.
#[path = "../../kmod/uapi.rs"]
mod module;

macro_rules! same {
    ($($module:ident = $header:ident),+ $(,)?) => {
        $(assert_eq!(
            u64::from(module::$module),
            u64::from(abi::$header),
            stringify!($module),
        );)+
    };
}

#[test]
fn the_module_has_the_numbers_of_the_header() {
    same!(
        CREATE_BOX = FDBOX_CREATE_BOX,
        DELETE_BOX = FDBOX_DELETE_BOX,
        PUT_FD = FDBOX_PUT_FD,
        GET_FD = FDBOX_GET_FD,
        SEAL = FDBOX_SEAL,
        UNSEAL = FDBOX_UNSEAL,
        INFO = FDBOX_INFO,
        NEXT_BOX = FDBOX_NEXT_BOX,
        NEXT_FD = FDBOX_NEXT_FD,
        SEAL_ERROR = FDBOX_SEAL_ERROR,
        GET_KEEP = FDBOX_GET_KEEP,
        UAPI_VERSION = FDBOX_UAPI_VERSION,
        FEATURE_KHO = FDBOX_FEATURE_KHO,
        FEATURE_KHO_BOOT = FDBOX_FEATURE_KHO_BOOT,
        FEATURE_REFUSED = FDBOX_FEATURE_REFUSED,
        STATE_OPEN = FDBOX_STATE_OPEN,
        STATE_SEALED = FDBOX_STATE_SEALED,
        FD_LIVE = FDBOX_FD_LIVE,
        FD_INCOMING = FDBOX_FD_INCOMING,
        FD_UNKNOWN = FDBOX_FD_UNKNOWN,
        REASON_OTHER = FDBOX_REASON_OTHER,
        REASON_MISSING_DEPENDENCY = FDBOX_REASON_MISSING_DEPENDENCY,
        REASON_SHARED_FILE = FDBOX_REASON_SHARED_FILE,
        REASON_UNSUPPORTED_STATE = FDBOX_REASON_UNSUPPORTED_STATE,
        REASON_NO_MEMORY = FDBOX_REASON_NO_MEMORY,
        NEXT_LOST = FDBOX_NEXT_LOST,
        SALVAGE = FDBOX_SALVAGE,
        LOST_OTHER = FDBOX_LOST_OTHER,
        LOST_UNKNOWN_KIND = FDBOX_LOST_UNKNOWN_KIND,
        LOST_MEMORY = FDBOX_LOST_MEMORY,
        LOST_DEPENDENCY = FDBOX_LOST_DEPENDENCY,
        LOST_DATA = FDBOX_LOST_DATA,
        LOST_REFUSED = FDBOX_LOST_REFUSED,
        BORROW = FDBOX_BORROW,
        LEND = FDBOX_LEND,
        LEND_LOOK = FDBOX_LEND_LOOK,
        LEND_SHOW = FDBOX_LEND_SHOW,
        LEND_OFFER = FDBOX_LEND_OFFER,
        LEND_RECALL = FDBOX_LEND_RECALL,
        LEND_READY = FDBOX_LEND_READY,
    );
    let kinds = [
        abi::FDBOX_FEATURE_MEMFD,
        abi::FDBOX_FEATURE_KVM_VM,
        abi::FDBOX_FEATURE_GUEST_MEMFD,
        abi::FDBOX_FEATURE_IOMMUFD,
        abi::FDBOX_FEATURE_VFIO_PCI,
        abi::FDBOX_FEATURE_HUGETLB,
    ];
    assert_eq!(module::FEATURE_KINDS, kinds);
}
