//! Packing: panels of A and B in the order the register tiles read them, widened to f32.
//!
//! A panel holds `width` rows of A (or columns of B) as `[k][width]`: the same code packs both, since a column of B is
//! a row of Bᵀ.
use super::matrix::{Elem, Mat};
use super::transpose::{self, Lanes};
use half::{bf16, f16};

/// `out[k * width + r] = scale * m[r, k]`, zero for `m.rows() <= r < width`.
///
/// # Panics
/// If `m` has more than `width` rows or `out` is too small.
pub(super) fn panel(m: Mat, scale: f32, width: usize, out: &mut [f32]) {
    assert!(
        m.rows() <= width && out.len() >= m.cols() * width,
        "a panel of {width} x {}",
        m.cols()
    );
    match m.elem() {
        Elem::F32 => typed::<f32>(m, scale, width, out),
        Elem::Bf16 => typed::<bf16>(m, scale, width, out),
        Elem::F16 => typed::<f16>(m, scale, width, out),
    }
}

fn typed<T: Lanes>(m: Mat, scale: f32, width: usize, out: &mut [f32]) {
    if m.row_stride() == 1 {
        along_rows::<T>(m, scale, width, out);
    } else if m.col_stride() == 1 {
        transpose::into_panel::<T>(m.at(0, 0), m.row_stride(), m.rows(), m.cols(), scale, width, out);
    } else {
        scattered(m, scale, width, out);
    }
}

/// The values of one step of k lie side by side.
fn along_rows<T: Lanes>(m: Mat, scale: f32, width: usize, out: &mut [f32]) {
    if m.rows() == 0 || m.cols() == 0 {
        return out.fill(0.0);
    }
    let (steps, stride) = (m.cols(), m.col_stride());
    // SAFETY: with a row stride of 1 this is the view from its first to its last element.
    let values = unsafe { std::slice::from_raw_parts(m.at::<T>(0, 0), (steps - 1) * stride + m.rows()) };
    T::copy(values, stride, m.rows(), scale, width, &mut out[..steps * width]);
}

fn scattered(m: Mat, scale: f32, width: usize, out: &mut [f32]) {
    for (k, step) in out.chunks_exact_mut(width).take(m.cols()).enumerate() {
        for (r, value) in step.iter_mut().enumerate() {
            // SAFETY: (r, k) is inside the view.
            *value = if r < m.rows() {
                scale * unsafe { m.get(r, k) }
            } else {
                0.0
            };
        }
    }
}
