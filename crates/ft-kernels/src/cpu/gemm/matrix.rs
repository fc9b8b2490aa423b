//! Strided views of matrices, possibly stored in 16 bits.
use half::{bf16, f16};
use std::marker::PhantomData;

/// How the elements of a matrix are stored. They are widened to f32 when they are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Elem {
    F32,
    Bf16,
    F16,
}

/// A type that a matrix can be stored in.
pub(crate) trait Store: Copy {
    const ELEM: Elem;
}

impl Store for f32 {
    const ELEM: Elem = Elem::F32;
}
impl Store for bf16 {
    const ELEM: Elem = Elem::Bf16;
}
impl Store for f16 {
    const ELEM: Elem = Elem::F16;
}

/// A read-only `[rows, cols]` view with strides in elements.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mat<'a> {
    ptr: *const u8,
    elem: Elem,
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
    life: PhantomData<&'a [f32]>,
}

// SAFETY: a `Mat` is a shared borrow of plain numbers.
unsafe impl Send for Mat<'_> {}
// SAFETY: as above.
unsafe impl Sync for Mat<'_> {}

impl<'a> Mat<'a> {
    /// A dense row-major matrix.
    pub(crate) fn new<T: Store>(data: &'a [T], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols, 1)
    }

    /// A view whose element `(i, j)` is `data[i * row_stride + j * col_stride]`.
    ///
    /// # Panics
    /// If the last element lies outside `data`.
    pub(crate) fn strided<T: Store>(
        data: &'a [T],
        rows: usize,
        cols: usize,
        row_stride: usize,
        col_stride: usize,
    ) -> Self {
        let last = rows.saturating_sub(1) * row_stride + cols.saturating_sub(1) * col_stride;
        assert!(
            rows == 0 || cols == 0 || last < data.len(),
            "matrix {rows}x{cols} outside its {} values",
            data.len()
        );
        Self {
            ptr: data.as_ptr().cast(),
            elem: T::ELEM,
            rows,
            cols,
            row_stride,
            col_stride,
            life: PhantomData,
        }
    }

    /// The transposed view.
    pub(crate) fn t(self) -> Self {
        let Self {
            rows,
            cols,
            row_stride,
            col_stride,
            ..
        } = self;
        Self {
            rows: cols,
            cols: rows,
            row_stride: col_stride,
            col_stride: row_stride,
            ..self
        }
    }

    /// Rows `start..start + len`.
    pub(crate) fn narrow_rows(self, start: usize, len: usize) -> Self {
        assert!(start + len <= self.rows, "rows {start}+{len} of {}", self.rows);
        // SAFETY: the new view is a part of this one.
        let ptr = unsafe { self.ptr.add(start * self.row_stride * self.elem.size()) };
        Self { ptr, rows: len, ..self }
    }

    /// Columns `start..start + len`.
    pub(crate) fn narrow_cols(self, start: usize, len: usize) -> Self {
        self.t().narrow_rows(start, len).t()
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn cols(&self) -> usize {
        self.cols
    }

    pub(crate) fn row_stride(&self) -> usize {
        self.row_stride
    }

    pub(crate) fn col_stride(&self) -> usize {
        self.col_stride
    }

    pub(crate) fn elem(&self) -> Elem {
        self.elem
    }

    /// Pointer to element `(row, col)`; may point past the end for an empty rest.
    pub(crate) fn at<T: Store>(&self, row: usize, col: usize) -> *const T {
        debug_assert!(T::ELEM == self.elem && row <= self.rows && col <= self.cols);
        self.ptr
            .cast::<T>()
            .wrapping_add(row * self.row_stride + col * self.col_stride)
    }

    /// The values as f32, row-major, through memory: for the paths without packing.
    pub(crate) fn widen(&self, out: &mut [f32]) {
        for (i, row) in out.chunks_exact_mut(self.cols.max(1)).take(self.rows).enumerate() {
            for (j, value) in row.iter_mut().enumerate() {
                // SAFETY: (i, j) is inside the view.
                *value = unsafe { self.get(i, j) };
            }
        }
    }

    /// # Safety
    /// `row < rows` and `col < cols`.
    pub(crate) unsafe fn get(&self, row: usize, col: usize) -> f32 {
        // SAFETY: inside the view, of the type it was made from.
        unsafe {
            match self.elem {
                Elem::F32 => *self.at::<f32>(row, col),
                Elem::Bf16 => (*self.at::<bf16>(row, col)).to_f32(),
                Elem::F16 => (*self.at::<f16>(row, col)).to_f32(),
            }
        }
    }
}

impl Elem {
    fn size(self) -> usize {
        match self {
            Elem::F32 => 4,
            Elem::Bf16 | Elem::F16 => 2,
        }
    }
}
