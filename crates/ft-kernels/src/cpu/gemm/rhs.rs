//! A right factor that several products share, packed once: keys and values of attention.
use super::{Dest, Mat, Par, Term, fallback};
#[cfg(target_arch = "x86_64")]
use super::{kernel, pack};
use crate::cpu::par::Shared;
use crate::cpu::scratch;
use std::ops::Range;

/// `B [k, n]` in the form the register tiles read, or a plain view where there are none.
pub(crate) struct Rhs<'a> {
    plain: Mat<'a>,
    #[cfg(target_arch = "x86_64")]
    packed: Option<(&'static kernel::Tile, &'a [f32])>,
}

impl<'a> Rhs<'a> {
    /// How much memory packing `[k, n]` takes.
    pub(crate) fn packed_len(k: usize, n: usize) -> usize {
        #[cfg(target_arch = "x86_64")]
        if let Some(tile) = kernel::Tile::detect() {
            return n.next_multiple_of(tile.nr) * k;
        }
        let _ = (k, n);
        0
    }

    /// Packs `b` into `memory`, of [`Rhs::packed_len`] values or more.
    pub(crate) fn new(b: Mat<'a>, memory: &'a mut [f32]) -> Self {
        Self {
            plain: b,
            #[cfg(target_arch = "x86_64")]
            packed: kernel::Tile::detect().map(|tile| (tile, Self::pack(tile, b, memory))),
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn pack(tile: &kernel::Tile, b: Mat, memory: &'a mut [f32]) -> &'a [f32] {
        let (k, nr) = (b.rows(), tile.nr);
        for column in (0..b.cols()).step_by(nr) {
            let cols = nr.min(b.cols() - column);
            pack::panel(
                b.t().narrow_rows(column, cols),
                1.0,
                nr,
                &mut memory[column * k..][..nr * k],
            );
        }
        memory
    }

    /// Columns per panel: ranges of columns should start at a multiple of it.
    pub(crate) fn panel(&self) -> usize {
        #[cfg(target_arch = "x86_64")]
        if let Some((tile, _)) = &self.packed {
            return tile.nr;
        }
        1
    }

    /// `scale · a · B[steps, columns]` into the dense `c`, on the calling thread. `columns` starts at a multiple of
    /// [`Rhs::panel`].
    pub(crate) fn times(&self, a: Mat, scale: f32, steps: Range<usize>, columns: Range<usize>, c: &mut [f32]) {
        let (m, n) = (a.rows(), columns.len());
        assert!(a.cols() == steps.len() && steps.end <= self.plain.rows() && columns.end <= self.plain.cols());
        let c = &mut c[..m * n];
        if m == 0 || n == 0 || steps.is_empty() {
            return c.fill(0.0);
        }
        #[cfg(target_arch = "x86_64")]
        if let Some((tile, packed)) = &self.packed {
            return self.tiles(tile, packed, (a, scale), steps, columns, c);
        }
        let b = self
            .plain
            .narrow_rows(steps.start, steps.len())
            .narrow_cols(columns.start, n);
        let c = Dest {
            ptr: Shared::new(c),
            stride: n,
        };
        fallback::run(&[Term::scaled(a, b, scale)], &c, false, Par::One);
    }

    #[cfg(target_arch = "x86_64")]
    fn tiles(
        &self,
        tile: &kernel::Tile,
        packed: &[f32],
        (a, scale): (Mat, f32),
        steps: Range<usize>,
        columns: Range<usize>,
        c: &mut [f32],
    ) {
        let (k, nr, mr, stride) = (self.plain.rows(), tile.nr, tile.mr, columns.len());
        assert_eq!(columns.start % nr, 0, "columns start inside a panel");
        let mut strip = scratch::take(mr * steps.len());
        for row in (0..a.rows()).step_by(mr) {
            let rows = mr.min(a.rows() - row);
            pack::panel(a.narrow_rows(row, rows), scale, tile.height(rows), &mut strip);
            for column in columns.clone().step_by(nr) {
                let cols = nr.min(columns.end - column);
                let b = packed[column * k + steps.start * nr..].as_ptr();
                let ptr = c[row * stride + column - columns.start..].as_mut_ptr();
                let out = kernel::Out {
                    ptr,
                    stride,
                    rows,
                    cols,
                    add: false,
                };
                // SAFETY: the packed strip and panel hold `steps` steps; the tile lies inside `c`.
                unsafe { tile.run(steps.len(), strip.as_ptr(), b, nr, out) };
            }
        }
    }
}
