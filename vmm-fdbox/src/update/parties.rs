//! The two parties to an update: the guest, and the host that it leaves.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use crate::deadline::Deadline;
use crate::finding::Finding;
use crate::frame::FrameWriter;
use crate::home::Home;
use crate::kexec::{self, KexecError, KexecImage, NextFiles};
use crate::kind::Kind;
use crate::name::FdName;

/// An error of a [`Guest`] or a [`Host`].
pub type PartyError = Box<dyn std::error::Error + Send + Sync>;

/// A descriptor and its name in the box.
#[derive(Debug)]
pub struct NamedFd {
    /// The name.
    pub name: FdName,
    /// The descriptor.
    pub fd: OwnedFd,
}

/// The VMM's side of an update. The methods are called in the order in which they are declared,
/// except for the last two, which undo; each is called by the thread that drives the
/// [`Session`](super::Session) at that time.
///
/// References, boxes and `Arc<Mutex<_>>` of guests are guests as well. The mutex is held for one
/// method at a time.
pub trait Guest {
    /// Returns anything that would make the update fail later: a device that cannot be saved,
    /// memory that cannot be kept. Called while the guest runs; changes nothing.
    fn preflight(&mut self) -> Vec<Finding>;

    /// The kinds of the descriptors that [`take_fds`](Self::take_fds) will return, so that a dry
    /// run can tell whether the next kernel takes them over. Default: none; they are then only
    /// checked once they are in the box.
    fn kinds(&self) -> BTreeSet<Kind> {
        BTreeSet::new()
    }

    /// Returns what goes into the box, dependencies first: duplicates of the VMM's own descriptors,
    /// or those themselves. After a rollback each is returned through
    /// [`give_back`](Self::give_back). The guest continues meanwhile.
    ///
    /// # Errors
    /// The update is rolled back.
    fn take_fds(&mut self) -> Result<Vec<NamedFd>, PartyError>;

    /// Brings to rest whatever waits for the host, while the guest runs: devices take no more
    /// requests, and finish those in flight. Time spent here is not part of the blackout. It shares
    /// one deadline with [`pause`](Self::pause). Default: does nothing.
    ///
    /// # Errors
    /// The update is rolled back, with [`resume_in_place`](Self::resume_in_place).
    fn quiesce(&mut self, deadline: Deadline) -> Result<(), PartyError> {
        let _ = deadline;
        Ok(())
    }

    /// Stops the vCPUs and everything else that changes the guest. The blackout starts here. A call
    /// that returns after the deadline has failed.
    ///
    /// # Errors
    /// The update is rolled back, with [`resume_in_place`](Self::resume_in_place).
    fn pause(&mut self, deadline: Deadline) -> Result<(), PartyError>;

    /// Writes the state that the new host needs: kilobytes, and quickly, because the guest is
    /// waiting. A call that returns after the deadline has failed.
    ///
    /// # Errors
    /// The update is rolled back.
    fn save(&mut self, frame: &mut FrameWriter<'_>, deadline: Deadline) -> Result<(), PartyError>;

    /// Takes back a descriptor that went into the box and came out again, or never went in.
    /// Default: drops it, which is right for duplicates.
    ///
    /// # Errors
    /// They are reported; the rollback goes on.
    fn give_back(&mut self, name: &FdName, fd: OwnedFd) -> Result<(), PartyError> {
        let _ = (name, fd);
        Ok(())
    }

    /// Continues the guest in this process, as if nothing had happened. Called after every
    /// [`quiesce`](Self::quiesce) and [`pause`](Self::pause) that was not followed by a jump, even
    /// if it failed: some or all of the guest may then be running, which is not an error.
    ///
    /// # Errors
    /// The guest is lost.
    fn resume_in_place(&mut self) -> Result<(), PartyError>;
}

/// The host that the update leaves.
pub trait Host {
    /// Returns anything that would make loading or jumping fail. Changes nothing. Default: no
    /// findings.
    fn preflight(&mut self) -> Vec<Finding> {
        Vec::new()
    }

    /// Returns which of these kinds of files would be lost in the jump. Changes nothing. Called in
    /// preflight with what is known by then, and again with the contents of the box before it is
    /// sealed. Default: none.
    fn check_kinds(&mut self, _kinds: &BTreeSet<Kind>) -> Vec<Finding> {
        Vec::new()
    }

    /// Whether the jump goes to another kernel, so that boxes need KHO.
    fn leaves_kernel(&self) -> bool {
        true
    }

    /// Whether the box is sealed, to wait for whoever resumes the guest. Not if the host starts the
    /// new VMM itself: sealing walks memory, and unsealing would be part of the blackout.
    /// [`prebuild`](Self::prebuild) is called instead.
    fn seals(&self) -> bool {
        true
    }

    /// Makes the new VMM build what it can while the guest runs. Everything but the state is in the
    /// box. Only called if the box is not sealed.
    ///
    /// # Errors
    /// The update is rolled back.
    fn prebuild(&mut self) -> Result<(), PartyError> {
        Ok(())
    }

    /// Loads the next kernel, and does anything else that is slow. The guest runs. Default: does
    /// nothing.
    ///
    /// # Errors
    /// Nothing has changed.
    fn load(&mut self) -> Result<(), PartyError> {
        Ok(())
    }

    /// The inverse of [`load`](Self::load).
    ///
    /// # Errors
    /// They are reported; the rollback goes on.
    fn unload(&mut self) -> Result<(), PartyError> {
        Ok(())
    }

    /// Whether another process leaves the host, at a time of its choice after the guest's state is
    /// written. The state is then complete before [`jump`](Self::jump) is called, if it ever is.
    /// Default: false.
    fn is_left_by_others(&self) -> bool {
        false
    }

    /// Leaves. Into another kernel this returns only on failure. A host that waits for somebody
    /// meanwhile gives up at the deadline.
    ///
    /// # Errors
    /// The update is rolled back, unless the state is no longer in the box: then another VMM has
    /// taken the guest, and it must not run here too.
    fn jump(&mut self, deadline: Deadline) -> Result<(), PartyError>;
}

/// The kernel that [`KexecHost`] jumps into.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum NextKernel {
    /// Files to load.
    Files {
        /// The kernel image.
        kernel: PathBuf,
        /// The initramfs, if any.
        initramfs: Option<PathBuf>,
        /// The kernel's command line.
        cmdline: String,
    },
    /// Whatever something else loaded, such as `kexec -l -s`.
    Loaded,
}

impl NextKernel {
    fn files(&self) -> Option<NextFiles<'_>> {
        match self {
            Self::Files {
                kernel,
                initramfs,
                cmdline,
            } => Some(NextFiles {
                kernel,
                initramfs: initramfs.as_deref(),
                cmdline,
            }),
            Self::Loaded => None,
        }
    }
}

/// A [`Host`] that kexecs.
#[derive(Debug)]
pub struct KexecHost {
    next: NextKernel,
    image: Option<KexecImage>,
    assumes_patches: bool,
    home: Home,
}

impl KexecHost {
    /// A host that jumps into `next`.
    #[must_use]
    pub fn new(next: NextKernel) -> Self {
        Self {
            next,
            image: None,
            assumes_patches: false,
            home: Home::default(),
        }
    }

    /// Sets whether the next kernel is assumed to have patches that its image does not declare,
    /// because it was built before images did. Devices of the host are not handed over on this
    /// assumption.
    #[must_use]
    pub fn assuming_patches(self, assumes_patches: bool) -> Self {
        Self {
            assumes_patches,
            ..self
        }
    }

    /// The home of the boxes: the next kernel has to support it. Default: the module.
    #[must_use]
    pub fn from_home(self, home: Home) -> Self {
        Self { home, ..self }
    }

    /// Why the next kernel would disturb devices that guests use while it boots, in a lifeboat.
    pub(crate) fn check_devices_in_use(&self) -> Option<Finding> {
        match self.next.files() {
            Some(files) => files.check_devices_in_use(),
            None => kexec::check_loaded_devices_in_use(),
        }
    }

    fn load_image(&self) -> Result<KexecImage, KexecError> {
        let Some(files) = self.next.files() else {
            return KexecImage::loaded();
        };
        let kernel = kexec::open(files.kernel)?;
        let initramfs = files.initramfs.map(kexec::open).transpose()?;
        let initramfs = initramfs.as_ref().map(AsFd::as_fd);
        KexecImage::load(kernel.as_fd(), initramfs, files.cmdline)
    }
}

impl Host for KexecHost {
    fn preflight(&mut self) -> Vec<Finding> {
        match self.next.files() {
            Some(files) => files.check(),
            None => kexec::preflight_loaded(),
        }
    }

    fn check_kinds(&mut self, kinds: &BTreeSet<Kind>) -> Vec<Finding> {
        match self.next.files() {
            Some(files) if self.home == Home::Luo => files.check_luo(kinds),
            Some(files) => files.check_kinds(kinds, self.assumes_patches),
            None => kexec::check_loaded_kinds(kinds),
        }
    }

    /// Loads the image and syncs the file systems, which the jump does not do.
    fn load(&mut self) -> Result<(), PartyError> {
        let image = self.image.insert(self.load_image()?);
        if let Err(error) = image.check_handover() {
            // Nothing has changed, whatever was loaded before.
            self.unload()?;
            return Err(error.into());
        }
        rustix::fs::sync();
        Ok(())
    }

    /// Leaves a kernel alone that something else loaded.
    fn unload(&mut self) -> Result<(), PartyError> {
        match (self.image.take(), &self.next) {
            (Some(image), NextKernel::Files { .. }) => Ok(image.unload()?),
            _ => Ok(()),
        }
    }

    fn jump(&mut self, _: Deadline) -> Result<(), PartyError> {
        match self
            .image
            .as_ref()
            .ok_or(KexecError::NothingLoaded)?
            .jump()? {}
    }
}

/// A [`Host`] that stays: the jump only ends the old VMM, and a new one takes the box in the same
/// kernel. Updates a VMM without its host.
#[derive(Debug, Clone, Copy, Default)]
pub struct SameHost;

impl Host for SameHost {
    fn leaves_kernel(&self) -> bool {
        false
    }

    /// Returns at once; the program exits next.
    fn jump(&mut self, _: Deadline) -> Result<(), PartyError> {
        Ok(())
    }
}
