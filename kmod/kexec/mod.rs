// SPDX-License-Identifier: GPL-2.0

//! What goes to the next kernel, and what came from the last one.

pub(crate) mod arrival;
pub(crate) mod blob;
pub(crate) mod coalesce;
pub(crate) mod handover;
pub(crate) mod kho;
pub(crate) mod left_boat;
pub(crate) mod poison;
pub(crate) mod record;
mod sealed_box;
mod subtree;
