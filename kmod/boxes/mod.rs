// SPDX-License-Identifier: GPL-2.0

//! Boxes, their contents, and the operations on them.

pub(crate) mod borrowed;
pub(crate) mod borrowing;
pub(crate) mod box_list;
pub(crate) mod contents;
pub(crate) mod entry;
pub(crate) mod fd_box;
pub(crate) mod freezing;
mod put_get;
mod sealing;
pub(crate) mod slots;
mod unsealing;
