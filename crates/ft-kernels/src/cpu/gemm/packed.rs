//! The product over packed panels and register tiles.
use super::kernel::{Out, Tile};
use super::{Dest, Par, Term, pack};
use crate::cpu::{par, scratch};

/// Depth of a block: its B panel (80 KiB at 32 columns) stays in the second-level cache.
const DEPTH: usize = 640;
/// Rows of A that are packed at once.
const ROWS: usize = 1536;
/// Bound on packed A: 16 MiB.
const PACKED: usize = 4 << 20;
/// Panels of A below which a panel of B is read where it lies: packing pays from the second reading on.
const DIRECT: usize = 2;

/// `c (+)= Σ terms`. All dimensions are positive; shapes were checked by the caller.
pub(super) fn run(tile: &Tile, terms: &[Term], c: &Dest, add: bool, par: Par) {
    let (m, k) = (terms[0].a.rows(), terms.iter().map(|t| t.a.cols()).sum::<usize>());
    let depth = k.div_ceil(k.div_ceil(DEPTH));
    let rows = m.min(ROWS / tile.mr * tile.mr);
    let span = (PACKED / rows.next_multiple_of(tile.mr) / depth).max(1) * depth;
    for from in (0..k).step_by(span) {
        for first in (0..m).step_by(rows) {
            let block = Block {
                tile,
                terms,
                c,
                depth,
                rows: first..(first + rows).min(m),
                steps: from..(from + span).min(k),
                add: add || from > 0,
            };
            block.run(par);
        }
    }
}

/// A range of rows and of the inner dimension: packed A is shared by all threads.
struct Block<'a> {
    tile: &'a Tile,
    terms: &'a [Term<'a>],
    c: &'a Dest,
    depth: usize,
    rows: std::ops::Range<usize>,
    steps: std::ops::Range<usize>,
    add: bool,
}

impl Block<'_> {
    fn run(&self, par: Par) {
        let mut a = scratch::take(self.rows.len().next_multiple_of(self.tile.mr) * self.steps.len());
        self.pack_a(&mut a, par);
        let (panels, strips) = (self.columns().div_ceil(self.tile.nr), self.strips());
        let parts = self.parts(panels, strips, par);
        let per_part = strips.div_ceil(parts);
        spread(panels * parts, par, |task| {
            let part = task % parts;
            self.panel(&a, task / parts, part * per_part..((part + 1) * per_part).min(strips));
        });
    }

    fn columns(&self) -> usize {
        self.terms[0].b.cols()
    }

    /// Strips of `mr` rows in the block.
    fn strips(&self) -> usize {
        self.rows.len().div_ceil(self.tile.mr)
    }

    /// Into how many row ranges a panel is split, so that narrow products still feed every thread.
    fn parts(&self, panels: usize, strips: usize, par: Par) -> usize {
        match par {
            Par::One => 1,
            Par::All => (3 * par::threads()).div_ceil(panels).min(strips.div_ceil(8)),
        }
    }

    fn pack_a(&self, a: &mut [f32], par: Par) {
        let (mr, steps) = (self.tile.mr, self.steps.len());
        let shared = par::Shared::new(a);
        let pack = |strip: usize| {
            // SAFETY: every strip has its own part of the buffer.
            let out = unsafe { shared.slice(strip * mr * steps, mr * steps) };
            let rows = mr.min(self.rows.len() - strip * mr);
            let place = Place {
                first: self.rows.start + strip * mr,
                count: rows,
                from: self.steps.start,
                steps,
            };
            pack_terms(self.terms, Side::A, place, self.tile.height(rows), out);
        };
        let small = self.rows.len() * steps < 1 << 16;
        spread(self.strips(), if small { Par::One } else { par }, pack);
    }

    /// The panel of C at column `panel * nr`, for the given strips.
    fn panel(&self, a: &[f32], panel: usize, strips: std::ops::Range<usize>) {
        let (mr, nr) = (self.tile.mr, self.tile.nr);
        let column = panel * nr;
        let cols = nr.min(self.columns() - column);
        let mut packed = scratch::take(self.depth * nr);
        for from in (0..self.steps.len()).step_by(self.depth) {
            let steps = self.depth.min(self.steps.len() - from);
            let place = Place {
                first: column,
                count: cols,
                from: self.steps.start + from,
                steps,
            };
            let (b, ldb) = self.b_panel(place, strips.len(), &mut packed);
            for strip in strips.clone() {
                let rows = mr.min(self.rows.len() - strip * mr);
                let at = strip * mr * self.steps.len() + from * self.tile.height(rows);
                let row = self.rows.start + strip * mr;
                let ptr = self.c.ptr.ptr().wrapping_add(row * self.c.stride + column);
                let out = Out {
                    ptr,
                    stride: self.c.stride,
                    rows,
                    cols,
                    add: self.add || from > 0,
                };
                // SAFETY: `a` and `b` hold `steps` packed steps; the tile of C belongs to this task alone.
                unsafe { self.tile.run(steps, a[at..].as_ptr(), b, ldb, out) };
            }
        }
    }

    /// A panel of B: where it lies if it is used only once or twice and has the right form, else packed.
    fn b_panel(&self, place: Place, uses: usize, packed: &mut [f32]) -> (*const f32, usize) {
        if uses <= DIRECT
            && place.count == self.tile.nr
            && self.terms.len() == 1
            && let Some(b) = self.terms[0].b.plain().filter(|b| b.col_stride() == 1)
        {
            return (b.at::<f32>(place.from, place.first), b.row_stride());
        }
        pack_terms(self.terms, Side::B, place, self.tile.nr, packed);
        (packed.as_ptr(), self.tile.nr)
    }
}

/// Runs tasks on one or all threads.
fn spread(tasks: usize, par: Par, task: impl Fn(usize) + Sync) {
    match par {
        Par::One => (0..tasks).for_each(task),
        Par::All => par::run(tasks, task),
    }
}

enum Side {
    A,
    B,
}

/// Rows of A or columns of B, and a range of the inner dimension of all terms together.
#[derive(Clone, Copy)]
struct Place {
    first: usize,
    count: usize,
    from: usize,
    steps: usize,
}

/// Packs one panel across the terms, whose inner dimensions follow each other.
fn pack_terms(terms: &[Term], side: Side, place: Place, width: usize, mut out: &mut [f32]) {
    let (mut start, end) = (0, place.from + place.steps);
    for term in terms {
        let k = term.a.cols();
        let (low, high) = (place.from.max(start), end.min(start + k));
        if low < high {
            let (now, later) = out.split_at_mut((high - low) * width);
            let (steps, places) = (low - start..high - start, place.first..place.first + place.count);
            match side {
                Side::A => {
                    let rows = term.a.narrow_rows(places.start, places.len());
                    pack::panel(rows.narrow_cols(steps.start, steps.len()), term.scale, width, now);
                }
                Side::B => term.b.pack(steps, places, width, now),
            }
            out = later;
        }
        start += k;
    }
}
