//! The state of the fake boxes: behaves like the module, with the same errnos.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

use rustix::io::Errno;

use crate::control::Info;
use crate::error::Operation;
use crate::hold::Hold;
use crate::lending::{Holder, LendAct, Lending};
use crate::listing::{FdInfo, FdState};
use crate::name::{BoxName, FdName};
use crate::seal_error::{SealReason, SealReport};
use crate::unseal_error::LostFd;

#[derive(Debug)]
pub(super) struct World {
    pub(super) boxes: BTreeMap<BoxName, Content>,
    pub(super) faults: Vec<Fault>,
    pub(super) dependencies: Vec<(FdName, FdName)>,
    pub(super) lost: Vec<LostFd>,
    pub(super) info: Info,
    pub(super) claims: Vec<(BoxName, Hold, Weak<()>)>,
}

#[derive(Debug, Default)]
pub(super) struct Content {
    pub(super) sealed: bool,
    pub(super) fds: Vec<(FdName, OwnedFd)>,
    /// User and group.
    pub(super) owner: (u32, u32),
    pub(super) lending: Option<Lending>,
}

impl Content {
    fn holder(&self) -> Holder {
        self.lending.map_or(Holder::Host, |lending| lending.holder)
    }
}

#[derive(Debug)]
pub(super) struct Fault {
    pub(super) operation: Operation,
    pub(super) skip: usize,
    pub(super) errno: Errno,
}

const NOT_LENT: Lending = Lending {
    holder: Holder::Host,
    wanted: false,
    ready: false,
    generation: 1,
    lost: false,
};

impl World {
    /// Fails if a test asked for it.
    pub(super) fn fault(&mut self, operation: Operation) -> Result<(), Errno> {
        let Some(at) = self
            .faults
            .iter()
            .position(|fault| fault.operation == operation)
        else {
            return Ok(());
        };
        if self.faults[at].skip == 0 {
            return Err(self.faults.remove(at).errno);
        }
        self.faults[at].skip -= 1;
        Ok(())
    }

    /// The box, if it exists and is open.
    pub(super) fn open(&mut self, name: &BoxName) -> Result<&mut Content, Errno> {
        let content = self.boxes.get_mut(name).ok_or(Errno::NODEV)?;
        if content.sealed {
            Err(Errno::BUSY)
        } else {
            Ok(content)
        }
    }

    pub(super) fn create(&mut self, name: &BoxName) -> Result<(), Errno> {
        self.fault(Operation::Create)?;
        if self.boxes.contains_key(name) {
            return Err(Errno::EXIST);
        }
        self.boxes.insert(name.clone(), Content::default());
        Ok(())
    }

    pub(super) fn delete(&mut self, name: &BoxName) -> Result<(), Errno> {
        self.fault(Operation::Delete)?;
        if self.boxes.get(name).ok_or(Errno::NOENT)?.sealed {
            return Err(Errno::BUSY);
        }
        self.boxes.remove(name);
        Ok(())
    }

    pub(super) fn put(&mut self, name: &BoxName, fd_name: &FdName) -> Result<&mut Content, Errno> {
        self.fault(Operation::Put)?;
        let content = self.open(name)?;
        let taken = content.fds.iter().any(|(other, _)| other == fd_name);
        if taken {
            Err(Errno::EXIST)
        } else {
            Ok(content)
        }
    }

    pub(super) fn get(&mut self, name: &BoxName, fd_name: &FdName) -> Result<OwnedFd, Errno> {
        let (content, at) = self.find(name, fd_name)?;
        Ok(content.fds.remove(at).1)
    }

    pub(super) fn get_and_keep(
        &mut self,
        name: &BoxName,
        fd_name: &FdName,
    ) -> Result<OwnedFd, Errno> {
        let (content, at) = self.find(name, fd_name)?;
        let copy = content.fds[at].1.try_clone();
        copy.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::MFILE))
    }

    /// Of a sealed box that the other kernel has.
    pub(super) fn get_away(&mut self, name: &BoxName, fd_name: &FdName) -> Result<OwnedFd, Errno> {
        self.fault(Operation::Get)?;
        let content = self.boxes.get(name).ok_or(Errno::NODEV)?;
        let found = content.fds.iter().find(|(name, _)| name == fd_name);
        let found = found.filter(|_| content.sealed && content.holder().is_away());
        let copy = found.ok_or(Errno::BUSY)?.1.try_clone();
        copy.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::MFILE))
    }

    /// As in a host with a boat.
    pub(super) fn lend(&mut self, name: &BoxName, act: LendAct) -> Result<Lending, Errno> {
        self.fault(Operation::Lend)?;
        let content = self.boxes.get_mut(name).ok_or(Errno::NOENT)?;
        let mut lending = content.lending.unwrap_or(NOT_LENT);
        let has_boat = lending.holder == Holder::Boat;
        match act {
            LendAct::Look => return Ok(lending),
            LendAct::Show | LendAct::Offer if !content.sealed => return Err(Errno::INVAL),
            LendAct::Recall if has_boat => lending.wanted = true,
            _ if has_boat => return Err(Errno::BUSY),
            LendAct::Show => lending.holder = Holder::Shown,
            LendAct::Offer => lending.holder = Holder::Offered,
            LendAct::Recall => lending = NOT_LENT,
            LendAct::Ready => lending.ready = true,
        }
        content.lending = Some(lending);
        match act == LendAct::Recall && has_boat {
            true => Err(Errno::BUSY),
            false => Ok(lending),
        }
    }

    /// The open box, and the index of the descriptor in it.
    fn find(&mut self, name: &BoxName, fd_name: &FdName) -> Result<(&mut Content, usize), Errno> {
        self.fault(Operation::Get)?;
        let lost = self.lost.iter().find(|lost| lost.name == *fd_name);
        let lost = lost.map(|lost| lost.errno);
        let content = self.open(name)?;
        let mut names = content.fds.iter().map(|(name, _)| name);
        let at = names
            .position(|other| other == fd_name)
            .ok_or(Errno::NOENT)?;
        match lost {
            Some(errno) => Err(errno),
            None => Ok((content, at)),
        }
    }

    pub(super) fn seal(&mut self, name: &BoxName) -> Result<(), (Errno, Option<SealReport>)> {
        self.fault(Operation::Seal).map_err(|errno| (errno, None))?;
        let dependencies = self.dependencies.clone();
        let content = self.open(name).map_err(|errno| (errno, None))?;
        let has = |wanted: &FdName| content.fds.iter().any(|(name, _)| name == wanted);
        let missing = dependencies
            .into_iter()
            .find(|(who, on)| has(who) && !has(on));
        if let Some((who, on)) = missing {
            let report = SealReport {
                name: Some(who),
                reason: SealReason::MissingDependency,
                message: format!("it needs '{on}': put that in too"),
            };
            return Err((Errno::NOENT, Some(report)));
        }
        content.sealed = true;
        Ok(())
    }

    pub(super) fn unseal(&mut self, name: &BoxName) -> Result<(), (Errno, Vec<LostFd>)> {
        let no_list = |errno| (errno, Vec::new());
        self.fault(Operation::Unseal).map_err(no_list)?;
        self.must_be_sealed(name).map_err(no_list)?;
        let lost = self.lost(name).map_err(no_list)?;
        if !lost.is_empty() {
            return Err((Errno::NODATA, lost));
        }
        let away = |content: &Content| content.holder() == Holder::Boat;
        if self.boxes.get(name).is_some_and(away) {
            return Err(no_list(Errno::BUSY));
        }
        self.open_again(name).map_err(no_list)
    }

    pub(super) fn salvage(&mut self, name: &BoxName) -> Result<(), Errno> {
        self.fault(Operation::Salvage)?;
        self.must_be_sealed(name)?;
        self.open_again(name)
    }

    fn must_be_sealed(&self, name: &BoxName) -> Result<(), Errno> {
        match self.boxes.get(name).ok_or(Errno::NODEV)?.sealed {
            true => Ok(()),
            false => Err(Errno::INVAL),
        }
    }

    fn open_again(&mut self, name: &BoxName) -> Result<(), Errno> {
        let content = self.boxes.get_mut(name).ok_or(Errno::NODEV)?;
        (content.sealed, content.lending) = (false, None);
        Ok(())
    }

    /// The lost descriptors that are still in the box.
    pub(super) fn lost(&self, name: &BoxName) -> Result<Vec<LostFd>, Errno> {
        let content = self.boxes.get(name).ok_or(Errno::NODEV)?;
        let is_there = |lost: &&LostFd| content.fds.iter().any(|(name, _)| *name == lost.name);
        Ok(self.lost.iter().filter(is_there).cloned().collect())
    }

    pub(super) fn claim(&mut self, name: &BoxName, hold: Hold) -> Result<Arc<()>, Errno> {
        self.fault(Operation::Claim)?;
        if !self.boxes.contains_key(name) {
            return Err(Errno::NOENT);
        }
        self.claims
            .retain(|(_, _, holder)| holder.strong_count() > 0);
        let both_share = |other: Hold| (hold, other) == (Hold::Shared, Hold::Shared);
        let mut claims = self.claims.iter();
        if claims.any(|(of, other, _)| of == name && !both_share(*other)) {
            return Err(Errno::AGAIN);
        }
        let holder = Arc::new(());
        self.claims
            .push((name.clone(), hold, Arc::downgrade(&holder)));
        Ok(holder)
    }

    pub(super) fn list(&mut self, name: &BoxName) -> Result<Vec<FdInfo>, Errno> {
        self.fault(Operation::List)?;
        let content = self.boxes.get(name).ok_or(Errno::NODEV)?;
        let info = |(name, _): &(FdName, OwnedFd)| FdInfo {
            name: name.clone(),
            kind: "fake".to_owned(),
            state: FdState::Live,
            bytes: 0,
        };
        Ok(content.fds.iter().map(info).collect())
    }
}
