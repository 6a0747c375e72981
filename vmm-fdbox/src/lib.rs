//! Keep a VM alive across a kexec of its host.
//!
//! FDBox is a kernel module that keeps named file descriptors after the program that had them has
//! exited and, with KHO, across a kexec. This library is what a VMM links to hand its guest over to
//! the next host:
//!
//! - [`Control`], [`OpenBox`], [`SealedBox`]: the boxes, which accept and return descriptors as
//!   [`OwnedFd`](std::os::fd::OwnedFd).
//! - [`frame`]: the VM's state in a form that another version can validate before it decodes it;
//!   [`statefd`]: the memfd that carries it.
//! - [`timeline`], [`clock`]: when each phase began, across the kexec.
//! - [`kexec`]: loading the next kernel and jumping into it.
//! - [`facts`]: what a host has for updates, before there is a guest.
//! - [`update`]: all of these in order, with one rollback for every failure.
//! - [`member`], [`coordinator`]: an update of unprivileged VMMs, driven by another process.
//! - [`keeper`]: boxes on a kernel without the module.
//! - [`boat`], [`lending`]: a second kernel in which guests run while their host kexecs.
//! - [`BoxStore`] and, with feature `fake`, `fake`: boxes without a kernel, for a VMM's own tests.
//!
//! The library contains no KVM code: the VMM decides which descriptors to keep and what its state
//! is, by implementing [`update::Guest`].
//!
//! # A program that leaves something behind
//!
//! ```no_run
//! use rustix::fs::{MemfdFlags, memfd_create};
//! use vmm_fdbox::{BoxName, Control, FdName};
//!
//! let control = Control::open()?;
//! let name = BoxName::new("notes")?;
//! let open = control.create(&name)?;
//! open.put(&FdName::new("page")?, memfd_create("page", MemfdFlags::CLOEXEC)?)?;
//! let sealed = open.seal()?;
//! // The program may exit and the host may kexec here.
//! let open = sealed.unseal()?;
//! let page = open.get(&FdName::new("page")?)?;
//! control.delete(&name)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # A VMM
//!
//! A VMM implements [`update::Guest`], runs [`update::Session`] in the host that it leaves and
//! [`update::Arrival`] in the host that takes over; both have examples.
//!
//! The library never prints, exits or panics because of what it reads. Creating, deleting and
//! opening boxes needs CAP_SYS_ADMIN, and a kexec CAP_SYS_BOOT. Using a box through a descriptor
//! that another process opened, a [`PassedBox`], needs neither.
#![deny(missing_docs, unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod abi;
pub mod boat;
mod boxes;
mod bytes;
mod claim;
pub mod clock;
mod control;
pub mod coordinator;
mod deadline;
mod error;
pub mod facts;
#[cfg(any(test, feature = "fake"))]
#[cfg_attr(docsrs, doc(cfg(feature = "fake")))]
pub mod fake;
mod finding;
pub mod frame;
#[cfg(test)]
mod fuzz;
mod graph;
mod handle;
mod hold;
mod home;
pub mod keeper;
pub mod kexec;
mod kind;
mod lease;
pub mod lending;
mod listing;
pub mod member;
mod name;
mod owner;
mod passed;
pub mod sandbox;
mod seal_error;
pub mod statefd;
mod store;
#[cfg(any(test, feature = "fake"))]
#[cfg_attr(docsrs, doc(cfg(feature = "fake")))]
pub mod suite;
mod sys;
pub mod timeline;
mod unseal_error;
pub mod update;

pub use boxes::{AnyBox, OpenBox, PutError, SealFailed, SealedBox, UnsealFailed};
pub use claim::BoxClaim;
pub use clock::Clock;
pub use control::{BoxInfo, Control, Features, Info};
pub use deadline::Deadline;
pub use error::{BoxError, Chain, Operation};
pub use finding::{Finding, Severity};
pub use graph::{Dependency, dependencies};
pub use hold::Hold;
pub use home::Home;
pub use kind::Kind;
pub use lease::Lease;
pub use listing::{FdInfo, FdState};
pub use name::{BoxName, FdName, MAX_NAME_BYTES, NameError};
pub use passed::{PassedBox, PassedStore};
pub use rustix::io::Errno;
pub use seal_error::{SealError, SealReason, SealReport};
pub use store::{BoxStore, OpenFdBox, SealedFdBox, sealed_kinds};
pub use unseal_error::{LostFd, LostReason, UnsealError};

/// The code in the guide is tested like the library's own.
#[cfg(all(doctest, feature = "fake"))]
#[doc = include_str!("../docs/integrating.md")]
struct Integrating;
