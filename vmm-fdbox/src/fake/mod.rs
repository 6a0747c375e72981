//! In-memory boxes and a host, for tests without a kernel.
//!
//! The boxes keep real descriptors, refuse what the module refuses, with the same errnos, and fail
//! on request. There is no kexec: [`FakeHost`] records that it was asked to jump, and the test
//! continues with the same boxes, as the new host would.
//!
//! ```
//! use rustix::io::Errno;
//! use vmm_fdbox::fake::FakeStore;
//! use vmm_fdbox::{BoxName, BoxStore, OpenFdBox, Operation};
//!
//! let store = FakeStore::new();
//! store.fail(Operation::Seal, 0, Errno::NOMEM);
//! let open = store.create(&BoxName::new("vm0")?)?;
//! let failed = open.seal().unwrap_err();
//! assert_eq!(failed.error.error.errno(), Errno::NOMEM);
//! assert!(failed.open.seal().is_ok());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod host;
mod passed;
mod store;
mod world;

pub use host::{FakeHost, HostCall};
pub use passed::FakePassedBox;
pub use store::{FakeClaim, FakeOpenBox, FakeSealedBox, FakeStore};
