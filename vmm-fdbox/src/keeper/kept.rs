//! What holds a sealed box in addition to the keeper.

use std::fmt::Debug;

/// Something that holds a box until it is dropped.
#[derive(Debug)]
pub(super) struct Kept {
    _by: Box<dyn Debug + Send>,
}

impl Kept {
    pub(super) fn by(holder: impl Debug + Send + 'static) -> Self {
        Self {
            _by: Box::new(holder),
        }
    }
}
