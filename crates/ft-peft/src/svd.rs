//! The singular value decomposition of weights.

use burn::linalg;
use burn::tensor::{DType, FloatDType, Tensor};

use crate::stream::normal;

/// `U diag(s) Vᵀ`, with falling values.
pub(crate) struct Svd {
    /// `[rows, k]`, columns of length 1.
    pub u: Tensor<2>,
    /// `[k]`.
    pub s: Tensor<1>,
    /// `[k, columns]`, rows of length 1.
    pub vt: Tensor<2>,
}

/// Whether every number is zero.
pub(crate) fn is_zero<const D: usize>(tensor: Tensor<D>) -> bool {
    tensor.abs().max().into_scalar::<f32>() == 0.0
}

/// Upper bound of the steps of the iteration for each singular value; it takes two or three.
const SWEEPS: usize = 30;

/// All k = min(rows, columns) singular triplets in f32, computed in the most exact type that the device has.
pub(crate) fn svd(matrix: Tensor<2>) -> Svd {
    let matrix = matrix.detach().without_autodiff();
    if is_zero(matrix.clone()) {
        let ([rows, columns], device) = (matrix.dims(), matrix.device());
        let k = rows.min(columns);
        return Svd {
            u: Tensor::eye(rows, &device).narrow(1, 0, k),
            s: Tensor::zeros([k], &device),
            vt: Tensor::eye(columns, &device).narrow(0, 0, k),
        };
    }
    let wide = matrix.device().supports_dtype(DType::F64);
    let exact = matrix.cast(if wide { FloatDType::F64 } else { FloatDType::F32 });
    let (u, s, vt) = linalg::svd::<2, 1>(exact, SWEEPS);
    Svd {
        u: u.cast(FloatDType::F32),
        s: s.cast(FloatDType::F32),
        vt: vt.cast(FloatDType::F32),
    }
}

impl Svd {
    /// The first `rank` of the triplets.
    pub fn narrowed(self, rank: usize) -> Self {
        Self {
            u: self.u.narrow(1, 0, rank),
            s: self.s.narrow(0, 0, rank),
            vt: self.vt.narrow(0, 0, rank),
        }
    }
}

/// Directions that are followed beside those that are asked for: what is behind converges last.
const BESIDE: usize = 16;
/// Most steps of the iteration.
const STEPS: usize = 24;
/// The iteration ends when the sum of squares grows by no more than this share in a step.
const STILL: f64 = 1e-9;

/// The largest `rank` singular triplets. Of a large matrix, by iterating a subspace (Halko, Martinsson and Tropp 2011, algorithm 4.4) until it
/// stands still, which costs products and the decomposition of a narrow matrix.
pub(crate) fn leading(matrix: Tensor<2>, rank: usize) -> Svd {
    let [rows, columns] = matrix.dims();
    let (width, all) = (rank + BESIDE, rows.min(columns));
    if all < 128 || 3 * width > all {
        return svd(matrix).narrowed(rank);
    }
    let matrix = matrix.detach().without_autodiff().cast(FloatDType::F32);
    let start = normal(
        [columns, width],
        1.0,
        0,
        "leading singular directions",
        &matrix.device(),
    );
    let mut basis = orthonormal(matrix.clone().matmul(start)); // [rows, width]
    let mut held = 0.0;
    for _ in 0..STEPS {
        let across = orthonormal(matrix.clone().transpose().matmul(basis));
        let product = matrix.clone().matmul(across);
        let now = f64::from(product.clone().powi_scalar(2).sum().into_scalar::<f32>());
        basis = orthonormal(product);
        if now <= held * (1.0 + STILL) {
            break;
        }
        held = now;
    }
    let small = svd(basis.clone().transpose().matmul(matrix)); // [width, columns]
    let found = Svd {
        u: basis.matmul(small.u),
        ..small
    };
    found.narrowed(rank)
}

/// An orthonormal basis of the columns.
fn orthonormal(matrix: Tensor<2>) -> Tensor<2> {
    linalg::qr(matrix, true).0
}
