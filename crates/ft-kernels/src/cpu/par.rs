//! Work sharing over the rayon pool: tasks are claimed from a counter, so a slow core takes fewer.
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many threads an operation may use.
pub(crate) fn threads() -> usize {
    rayon::current_num_threads()
}

/// Runs `task(0..tasks)`, each exactly once, on all threads. The order is unspecified.
pub(crate) fn run(tasks: usize, task: impl Fn(usize) + Sync) {
    let workers = threads().min(tasks);
    if workers <= 1 {
        return (0..tasks).for_each(task);
    }
    let next = AtomicUsize::new(0);
    let work = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= tasks {
                break;
            }
            task(index);
        }
    };
    rayon::scope(|scope| {
        for _ in 1..workers {
            scope.spawn(|_| work());
        }
        work();
    });
}

/// A pointer that several tasks write through, each to its own places.
pub(crate) struct Shared<T>(*mut T);

// SAFETY: the users of `slice` promise that concurrent slices do not overlap.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    pub(crate) fn new(data: &mut [T]) -> Self {
        Self(data.as_mut_ptr())
    }

    /// The same from element `start` on.
    pub(crate) fn at(&self, start: usize) -> Self {
        Self(self.0.wrapping_add(start))
    }

    pub(crate) fn ptr(&self) -> *mut T {
        self.0
    }

    /// # Safety
    /// `start..start + len` lies inside the slice given to `new`, which is still borrowed, and no other live slice
    /// overlaps it.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn slice(&self, start: usize, len: usize) -> &mut [T] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(start), len) }
    }
}

/// Splits `rows` into blocks of about `target` elements (rows are `width` long) and runs `task(first_row, rows)` on each.
///
/// The split depends on the shape alone, so results that are reduced per block do not depend on the thread count.
pub(crate) fn row_blocks(rows: usize, width: usize, task: impl Fn(usize, usize) + Sync) {
    let block = block_rows(width);
    run(rows.div_ceil(block), |i| task(i * block, block.min(rows - i * block)));
}

/// Rows per block of [`row_blocks`]: 64 KiB of f32, enough to pay for a task, small enough to balance.
pub(crate) fn block_rows(width: usize) -> usize {
    (16 * 1024 / width.max(1)).max(1)
}
