//! Reused work buffers: fresh pages cost more than the arithmetic on them.
use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

/// Buffers kept per thread.
const KEPT: usize = 8;

thread_local! {
    static POOL: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// A buffer of f32 with unspecified contents, given back to the pool of the thread that drops it.
pub(crate) struct Scratch {
    buffer: Vec<f32>,
    len: usize,
}

/// Takes a buffer of `len` values. Its contents are whatever the last user left.
pub(crate) fn take(len: usize) -> Scratch {
    let mut buffer = POOL.with_borrow_mut(|pool| pick(pool, len)).unwrap_or_default();
    if buffer.len() < len {
        buffer = vec![0.0; len];
    }
    Scratch { buffer, len }
}

/// The smallest kept buffer that is large enough. If there is none, the largest is freed: one that fits takes its place.
fn pick(pool: &mut Vec<Vec<f32>>, len: usize) -> Option<Vec<f32>> {
    let sizes = || pool.iter().map(Vec::len).enumerate();
    match sizes()
        .filter(|s| s.1 >= len)
        .min_by_key(|s| s.1)
        .or(sizes().max_by_key(|s| s.1))
    {
        Some((index, size)) => Some(pool.swap_remove(index)).filter(|_| size >= len),
        None => None,
    }
}

impl Deref for Scratch {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.buffer[..self.len]
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.buffer[..self.len]
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        // A thread that is shutting down has no pool any more: the buffer is then simply freed.
        let _ = POOL.try_with(|pool| keep(&mut pool.borrow_mut(), buffer));
    }
}

/// SavedActivations the largest buffers.
fn keep(pool: &mut Vec<Vec<f32>>, buffer: Vec<f32>) {
    pool.push(buffer);
    if pool.len() > KEPT
        && let Some((smallest, _)) = pool.iter().enumerate().min_by_key(|(_, b)| b.len())
    {
        pool.swap_remove(smallest);
    }
}
