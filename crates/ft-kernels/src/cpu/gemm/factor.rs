//! The right factor of a product: floats, or codes that packing turns into floats.
use super::matrix::{Elem, Mat};
use super::{pack, transpose};
use crate::cpu::codes::Coded;
use crate::cpu::scratch;
use std::ops::Range;

/// `B [k, n]`.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Factor<'a> {
    /// Floats.
    Dense(Mat<'a>),
    /// Codes `[rows, cols]`.
    Codes {
        matrix: Coded<'a>,
        /// B is the transposed matrix.
        transposed: bool,
    },
}

impl<'a> From<Mat<'a>> for Factor<'a> {
    fn from(matrix: Mat<'a>) -> Self {
        Factor::Dense(matrix)
    }
}

/// Columns of a matrix in codes that are decoded before they are transposed: 32 rows of them stay in the first-level cache.
const CHUNK: usize = 128;

impl<'a> Factor<'a> {
    /// A matrix in codes as it lies.
    pub(crate) fn codes(matrix: Coded<'a>) -> Self {
        Factor::Codes {
            matrix,
            transposed: false,
        }
    }

    /// The transposed factor.
    pub(crate) fn t(self) -> Self {
        match self {
            Factor::Dense(matrix) => Factor::Dense(matrix.t()),
            Factor::Codes { matrix, transposed } => Factor::Codes {
                matrix,
                transposed: !transposed,
            },
        }
    }

    pub(crate) fn rows(&self) -> usize {
        match self {
            Factor::Dense(matrix) => matrix.rows(),
            Factor::Codes {
                matrix,
                transposed: false,
            } => matrix.height(),
            Factor::Codes {
                matrix,
                transposed: true,
            } => matrix.width(),
        }
    }

    pub(crate) fn cols(&self) -> usize {
        self.t().rows()
    }

    /// The matrix, where it is one of floats.
    pub(super) fn dense(&self) -> Option<Mat<'a>> {
        match self {
            Factor::Dense(matrix) => Some(*matrix),
            Factor::Codes { .. } => None,
        }
    }

    /// The matrix, where it is one of f32.
    pub(super) fn plain(&self) -> Option<Mat<'a>> {
        self.dense().filter(|matrix| matrix.elem() == Elem::F32)
    }

    /// `out[k * width + c]` = element `(k, c)` for steps `k` and columns `c` counted from the first of each; zero for the
    /// columns up to `width` that are not there.
    pub(super) fn pack(&self, steps: Range<usize>, columns: Range<usize>, width: usize, out: &mut [f32]) {
        match self {
            Factor::Dense(matrix) => {
                let columns = matrix.t().narrow_rows(columns.start, columns.len());
                pack::panel(columns.narrow_cols(steps.start, steps.len()), 1.0, width, out);
            }
            Factor::Codes {
                matrix,
                transposed: false,
            } => {
                let real = columns.len();
                let out = &mut out[..steps.len() * width];
                matrix.rectangle(steps, columns, width, out);
                if real < width {
                    out.chunks_exact_mut(width).for_each(|step| step[real..].fill(0.0));
                }
            }
            Factor::Codes {
                matrix,
                transposed: true,
            } => {
                let mut tile = scratch::take(columns.len() * CHUNK);
                for from in steps.clone().step_by(CHUNK) {
                    let chunk = from..(from + CHUNK).min(steps.end);
                    let out = &mut out[(from - steps.start) * width..];
                    matrix.rectangle(columns.clone(), chunk.clone(), CHUNK, &mut tile);
                    transpose::into_panel(tile.as_ptr(), CHUNK, columns.len(), chunk.len(), 1.0, width, out);
                }
            }
        }
    }
}
