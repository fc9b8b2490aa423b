//! Matrices in 4-bit or 8-bit codes as the products read them: rectangles of values, and dot products with their rows.
mod decode;
mod dot;
#[cfg(test)]
mod tests;

use super::flex::{contiguous, values};
use super::scratch;
use crate::packed::{Codes, Form, Nested, ScaleCodes};
use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use std::ops::Range;

pub(crate) use dot::{Interleaved, dots};

/// A packed matrix `[rows, cols]` in memory.
pub(crate) struct View<'a> {
    bytes: &'a [u8],
    scales: Scales<'a>,
    form: Form,
}

enum Scales<'a> {
    Plain(&'a [f32]),
    /// Codes, their scales, and what they mean.
    Nested(&'a [u8], &'a [f32], Nested),
}

/// Codes with plain scales for some range of blocks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Coded<'a> {
    bytes: &'a [u8],
    scales: &'a [f32],
    /// The block of `scales[0]`.
    first: usize,
    form: Form,
}

/// Runs `f` with the view of the tensors.
pub(crate) fn with_view<R>(
    words: FlexTensor,
    scales: FlexTensor,
    codes: ScaleCodes<Flex>,
    form: Form,
    f: impl FnOnce(&View<'_>) -> R,
) -> R {
    let (words, scales) = (contiguous(words), contiguous(scales));
    let codes = match codes {
        ScaleCodes::Absent => None,
        ScaleCodes::Words(words) => Some(contiguous(words)),
    };
    let scales = match (&codes, form.nested) {
        (Some(codes), Some(nested)) => Scales::Nested(bytes(codes), values(&scales), nested),
        _ => Scales::Plain(values(&scales)),
    };
    f(&View {
        bytes: bytes(&words),
        scales,
        form,
    })
}

/// The bytes of u32 words, the lowest first.
fn bytes(words: &FlexTensor) -> &[u8] {
    let (start, end) = words.layout().contiguous_offsets().expect("made contiguous");
    let words = &words.storage::<u32>()[start..end];
    const { assert!(cfg!(target_endian = "little"), "the first byte is the lowest") };
    // SAFETY: u32 has no padding, and any alignment suits u8.
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), words.len() * 4) }
}

impl View<'_> {
    /// `[rows, cols]`.
    pub(crate) fn dims(&self) -> [usize; 2] {
        [self.form.rows, self.form.cols]
    }

    /// Runs `f` with the codes and the scales of these rows, which nested ones are looked up for first.
    pub(crate) fn rows<R>(&self, rows: Range<usize>, f: impl FnOnce(Coded<'_>) -> R) -> R {
        let (block, cols) = (self.form.block().max(1), self.form.cols);
        let first = rows.start * cols / block;
        let blocks = first..(rows.end * cols).div_ceil(block).max(first);
        let coded = |scales| Coded {
            bytes: self.bytes,
            scales,
            first,
            form: self.form,
        };
        match &self.scales {
            Scales::Plain(scales) => f(coded(&scales[blocks])),
            Scales::Nested(codes, absmax, nested) => {
                let mut scales = scratch::take(blocks.len());
                look_up(&codes[blocks], first, absmax, nested, &mut scales);
                f(coded(&scales))
            }
        }
    }

    /// Codes of 8 bits, row by row, and the scale of each row.
    pub(crate) fn eight(&self) -> Option<(&[i8], &[f32])> {
        let bytes = self.bytes.get(..self.form.len())?;
        // SAFETY: i8 has the size and alignment of u8.
        let codes = unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast::<i8>(), bytes.len()) };
        match (self.form.codes, &self.scales) {
            (Codes::Eight, Scales::Plain(scales)) => Some((codes, scales)),
            _ => None,
        }
    }

    /// [`View::rows`] for the whole matrix.
    pub(crate) fn whole<R>(&self, f: impl FnOnce(Coded<'_>) -> R) -> R {
        self.rows(0..self.form.rows, f)
    }
}

/// Scales from their codes, the first of which is number `first`.
fn look_up(codes: &[u8], first: usize, absmax: &[f32], nested: &Nested, out: &mut [f32]) {
    let (mut codes, mut out, mut index) = (codes, out, first / nested.block);
    // The first of the codes that share a scale may lie before these.
    let mut len = nested.block - first % nested.block;
    while !out.is_empty() {
        let (now, later) = out.split_at_mut(len.min(out.len()));
        let absmax = absmax[index];
        for (scale, code) in now.iter_mut().zip(codes) {
            *scale = nested.map[usize::from(*code)] * absmax + nested.offset;
        }
        codes = &codes[now.len()..];
        (out, index, len) = (later, index + 1, nested.block);
    }
}

impl Coded<'_> {
    pub(crate) fn height(&self) -> usize {
        self.form.rows
    }

    pub(crate) fn width(&self) -> usize {
        self.form.cols
    }

    /// The values of a rectangle, its rows `stride` apart in `out`.
    ///
    /// # Panics
    /// If the rectangle lies outside the matrix or does not fit into `out`.
    pub(crate) fn rectangle(&self, rows: Range<usize>, cols: Range<usize>, stride: usize, out: &mut [f32]) {
        assert!(rows.end <= self.form.rows && cols.end <= self.form.cols && cols.len() <= stride);
        if rows.is_empty() || cols.is_empty() {
            return;
        }
        assert!((rows.len() - 1) * stride + cols.len() <= out.len());
        decode::rectangle(self, rows, cols, stride, out);
    }

    /// The table of 4-bit codes.
    fn table(&self) -> Option<&'static [f32; 16]> {
        match self.form.codes {
            Codes::Four { table, .. } => Some(table),
            Codes::Eight => None,
        }
    }
}
