//! Keep a VM alive across a kexec of its host.
#![deny(missing_docs, unsafe_code)]

pub mod abi;
mod boxes;
pub mod clock;
mod control;
mod error;
mod finding;
pub mod frame;
pub mod kexec;
mod name;
pub mod statefd;
mod store;
mod sys;
pub mod timeline;
pub mod update;

pub use boxes::{
    AnyBox, FdInfo, FdState, OpenBox, PutError, SealError, SealFailed, SealReason, SealReport,
    SealedBox, UnsealFailed,
};
pub use clock::Clock;
pub use control::{BoxInfo, Control, Features, Info};
pub use error::{BoxError, Operation};
pub use finding::{Finding, Severity};
pub use name::{BoxName, FdName, MAX_NAME_BYTES, NameError};
pub use store::{BoxStore, OpenFdBox, SealedFdBox};
