//! Boxes on a kernel without the module: an ordinary process keeps them.
//!
//! A keeper answers requests on sockets as the module does on nodes, with the same errnos; a
//! descriptor of a box is a socket bound to it, which gives access to that box. What preserves the
//! box is its *home*:
//!
//! - [`Home::Holder`](crate::Home::Holder): only the keeper, which holds the descriptors. This is sufficient for another
//!   VMM in the same kernel. As a service it can have a [service manager](ServiceManager) hold them as well.
//! - [`Home::Luo`](crate::Home::Luo), the kernel's Live Update Orchestrator: a sealed box is a session of LUO and
//!   reaches the next kernel, with the files that LUO can keep. The keeper has to live until the
//!   jump, and a keeper in the next kernel retrieves the boxes.
//!
//! ```
//! use vmm_fdbox::keeper::Keeper;
//! use vmm_fdbox::{BoxName, FdName, Home};
//!
//! let keeper = Keeper::holder()?;
//! let control = keeper.connect()?;
//! assert_eq!(control.home(), Home::Holder);
//! let open = control.create(&BoxName::new("vm0")?)?;
//! let ram = rustix::fs::memfd_create("ram", rustix::fs::MemfdFlags::CLOEXEC)?;
//! open.put(&FdName::new("ram")?, ram)?;
//! assert!(open.seal()?.unseal()?.get(&FdName::new("ram")?).is_ok());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod all_boxes;
mod answer;
mod arrival;
mod backing;
pub(crate) mod client;
mod content;
mod directory;
mod entry;
mod fd_store;
mod held;
mod kept;
mod lock;
mod luo;
mod manager;
mod one_box;
mod packet;
mod server;
mod wire;

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Mode, chmod};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with,
};

use self::backing::Backing;
use self::fd_store::FdStore;
use self::luo::Luo;
use self::server::Shared;
use crate::control::Control;
use crate::error::{BoxError, Operation};

pub use self::manager::ServiceManager;
pub(crate) use self::packet::is_packet_socket;
pub use self::wire::VERSION;

/// The maximum number of pending connections.
const BACKLOG: i32 = 64;

/// Why a keeper cannot be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeeperError {
    /// LUO's node cannot be opened.
    #[error("Cannot open {}: {}", luo::DEVICE, luo::why_not_open(*.0))]
    OpenLuo(Errno),
    /// LUO does not support memfds.
    #[error("this kernel's LUO does not support memfds: {0}")]
    NoMemfd(Errno),
    /// A system call failed.
    #[error("Cannot start a keeper: {0}")]
    System(Errno),
}

/// A keeper in this process. Its threads serve each connection until the client closes it, also
/// after this is dropped.
#[derive(Debug)]
pub struct Keeper(Arc<Shared>);

impl Keeper {
    /// A keeper without a backing.
    ///
    /// # Errors
    /// [`KeeperError::System`].
    pub fn holder() -> Result<Self, KeeperError> {
        Self::new(Backing::Nobody)
    }

    /// A keeper whose sealed boxes are also in its service manager's store of descriptors, which takes `most` of them. `fds`
    /// is what the manager has returned, by name: the boxes of an earlier keeper.
    ///
    /// # Errors
    /// [`KeeperError::System`].
    pub fn stored(
        manager: Arc<ServiceManager>,
        most: usize,
        fds: impl IntoIterator<Item = (String, OwnedFd)>,
    ) -> Result<Self, KeeperError> {
        Self::new(Backing::Stored(FdStore::new(manager, most, fds)))
    }

    fn new(backing: Backing) -> Result<Self, KeeperError> {
        let shared = Shared::new(backing).map_err(KeeperError::System)?;
        Ok(Self(Arc::new(shared)))
    }

    /// A keeper backed by LUO. It takes the boxes that the last kernel left in LUO when it is asked
    /// for boxes or begins to [`serve`](Self::serve).
    ///
    /// # Errors
    /// [`KeeperError`].
    pub fn luo() -> Result<Self, KeeperError> {
        Self::new(Backing::Luo(Luo::open()?))
    }

    /// Creates a socket for [`serve`](Self::serve), to which only its owner may connect; it replaces
    /// a file at this path.
    ///
    /// # Errors
    /// For example ENOENT: the directory does not exist.
    pub fn listen(path: &Path) -> Result<OwnedFd, Errno> {
        let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
        let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
        match rustix::fs::unlink(path) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
        bind(&socket, &SocketAddrUnix::new(path)?)?;
        // Before anybody can connect, and whatever the umask is.
        chmod(path, Mode::RUSR | Mode::WUSR)?;
        listen(&socket, BACKLOG)?;
        Ok(socket)
    }

    /// Serves the connections to the socket. Returns when there has been a connection, no
    /// connection is left, and there is no box.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn serve(&self, listener: BorrowedFd<'_>) -> Result<(), Errno> {
        self.0.accept(listener)
    }

    /// Connects to the keeper from this process.
    ///
    /// # Errors
    /// EMFILE, ENOMEM.
    pub fn connect(&self) -> Result<Control, BoxError> {
        let error = |errno| BoxError::new(Operation::Connect, "the keeper", errno);
        Control::of_keeper(self.0.connect().map_err(error)?)
    }
}

#[cfg(test)]
mod tests;
