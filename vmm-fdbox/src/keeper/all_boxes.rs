//! The boxes of a keeper, and the commands of its socket.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::thread;

use rustix::io::Errno;

use super::answer::Answer;
use super::arrival::Arrived;
use super::backing::Backing;
use super::content::{Content, Summary};
use super::held::Held;
use super::lock::lock;
use super::luo::MAX_BOXES;
use super::wire::{Command, Reply, Request};
use crate::abi;
use crate::name::BoxName;
use crate::owner::Owner;

/// The boxes of a keeper.
#[derive(Debug)]
pub(super) struct AllBoxes {
    backing: Backing,
    /// With those of the last kernel, once they have been asked for.
    boxes: OnceLock<Mutex<Boxes>>,
}

type Boxes = BTreeMap<BoxName, Arc<Held>>;

impl AllBoxes {
    pub(super) fn new(backing: Backing) -> Self {
        Self {
            backing,
            boxes: OnceLock::new(),
        }
    }

    /// Takes the boxes of the last kernel from the backing: they are lost with this process from
    /// here on.
    pub(super) fn arrive(&self) {
        drop(self.boxes());
    }

    fn boxes(&self) -> MutexGuard<'_, Boxes> {
        lock(
            self.boxes
                .get_or_init(|| Mutex::new(arrived(&self.backing))),
        )
    }

    pub(super) fn get(&self, name: &BoxName) -> Result<Arc<Held>, Errno> {
        self.boxes().get(name).cloned().ok_or(Errno::NOENT)
    }

    fn create(&self, name: BoxName) -> Result<(), Errno> {
        let mut boxes = self.boxes();
        if boxes.contains_key(&name) {
            return Err(Errno::EXIST);
        }
        if boxes.len() >= MAX_BOXES as usize {
            return Err(Errno::NOSPC);
        }
        let held = Held::new(name.clone(), Owner::ROOT, Content::new());
        boxes.insert(name, Arc::new(held));
        Ok(())
    }

    fn delete(&self, name: &BoxName) -> Result<(), Errno> {
        self.get(name)?.content().delete()?;
        self.boxes().remove(name);
        Ok(())
    }

    pub(super) fn backing(&self) -> &Backing {
        &self.backing
    }

    pub(super) fn is_empty(&self) -> bool {
        self.boxes().is_empty()
    }

    /// The box that a request names.
    pub(super) fn named(&self, request: &Request) -> Result<Arc<Held>, Errno> {
        self.get(&name_in(request)?)
    }

    /// Carries out a command of the keeper's socket.
    pub(super) fn serve(&self, request: &Request, answer: &Answer<'_>) {
        let name = name_in(request);
        match request.command {
            Command::Info => answer.reply_with(Ok(info(self, answer))),
            Command::NextBox => answer.reply_with(next_box(self, request.number, answer)),
            Command::Create => answer.done(name.and_then(|name| self.create(name))),
            Command::Delete => answer.done(name.and_then(|name| self.delete(&name))),
            Command::Give => {
                let held = name.and_then(|name| self.get(&name));
                answer.done(held.and_then(|held| held.give(owner_of(request.number))));
            }
            Command::Owner => answer.reply_with(name.and_then(|name| {
                let Owner { uid, gid } = self.get(&name)?.owner();
                let numbers = [uid.into(), gid.into(), 0, 0];
                Ok(Reply {
                    numbers,
                    ..answer.reply()
                })
            })),
            Command::Ready => answer.done(make_ready(self)),
            _ => answer.done(Err(Errno::PERM)),
        }
    }
}

fn arrived(backing: &Backing) -> Boxes {
    let arrived: Vec<_> = backing.arrivals().into_iter().map(held).collect();
    for held in &arrived {
        let held = Arc::clone(held);
        // Restoring in the background; without a thread the box is restored on first use.
        let restore = move || drop(held.content());
        let _ = thread::Builder::new().name("arrival".into()).spawn(restore);
    }
    let named = |held: Arc<Held>| (held.name.clone(), held);
    arrived.into_iter().map(named).collect()
}

fn held(arrived: Arrived) -> Arc<Held> {
    let Arrived {
        name,
        owner,
        incoming,
    } = arrived;
    Arc::new(Held::new(name, owner, Content::incoming(incoming)))
}

fn name_in(request: &Request) -> Result<BoxName, Errno> {
    BoxName::from_kernel(&request.name).map_err(|_| Errno::INVAL)
}

/// The user is in the lower half, the group in the upper one.
fn owner_of(number: u64) -> Owner {
    let half = |number: u64| u32::try_from(number & u64::from(u32::MAX)).unwrap_or(u32::MAX);
    Owner {
        uid: half(number),
        gid: half(number >> 32),
    }
}

fn info(keeper: &AllBoxes, answer: &Answer<'_>) -> Reply {
    let boxes = keeper.boxes().len() as u64;
    Reply {
        code: keeper.backing.home(),
        numbers: [keeper.backing.features(), boxes, 0, 0],
        ..answer.reply()
    }
}

/// The cursor is the number of boxes listed so far.
fn next_box(keeper: &AllBoxes, cursor: u64, answer: &Answer<'_>) -> Result<Reply, Errno> {
    let at = usize::try_from(cursor).unwrap_or(usize::MAX);
    let boxes = keeper.boxes();
    let held = boxes.values().nth(at).cloned().ok_or(Errno::NOENT)?;
    drop(boxes);
    // Another thread may be sealing the box; a listing does not wait for it.
    let Summary { is_sealed, fds } = held.summary();
    Ok(Reply {
        code: match is_sealed {
            true => abi::FDBOX_STATE_SEALED,
            false => abi::FDBOX_STATE_OPEN,
        },
        numbers: [cursor + 1, fds as u64, 0, 0],
        name: held.name.to_kernel(),
        ..answer.reply()
    })
}

fn make_ready(keeper: &AllBoxes) -> Result<(), Errno> {
    let boxes: Vec<_> = keeper.boxes().values().cloned().collect();
    for held in boxes {
        let of = (&held.name, held.owner());
        let made = held.content().make_ready(of, &keeper.backing);
        made.map_err(|refusal| refusal.errno)?;
    }
    Ok(())
}
