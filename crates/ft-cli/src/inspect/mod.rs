//! What `ft inspect` finds out about each kind of folder, as data and as a page.

pub mod adapter;
pub mod checkpoint;
pub mod run;
