use super::{NonLinearity, bottleneck};
use crate::testing::{backward, close, gradient, leaf, to_vec, tolerance, values};
use burn::tensor::{DType, Tensor, activation};

const ALL: [NonLinearity; 7] = [
    NonLinearity::Relu,
    NonLinearity::LeakyRelu,
    NonLinearity::Silu,
    NonLinearity::Gelu,
    NonLinearity::GeluTanh,
    NonLinearity::Tanh,
    NonLinearity::Sigmoid,
];

const SCALE: f64 = 1.5;

/// Sizes, and what is tracked of x, base, down, its bias, up, its bias.
#[derive(Clone, Copy)]
struct Case {
    rows: usize,
    hidden: usize,
    width: usize,
    dtype: DType,
    tracked: [bool; 6],
    /// x is the base.
    one: bool,
    drop: Option<(f64, u64)>,
}

type Run = (Vec<f64>, Vec<Option<Vec<f64>>>);

impl Case {
    fn run(&self, a: NonLinearity, fused: bool) -> Run {
        let Case {
            rows,
            hidden,
            width,
            dtype,
            tracked,
            one,
            drop,
        } = *self;
        let matrix = |seed, shape: [usize; 2], tracked| leaf(&values(shape[0] * shape[1], seed), shape, dtype, tracked);
        let vector = |seed, n, tracked| leaf::<1>(&values(n, seed), [n], dtype, tracked);
        let stream = tracked[0] || (one && tracked[1]);
        let x = leaf(&values(rows * hidden, 1), [1, rows, hidden], dtype, stream);
        let base = if one {
            x.clone()
        } else {
            leaf(&values(rows * hidden, 2), [1, rows, hidden], dtype, tracked[1])
        };
        let (down, up) = (
            matrix(3, [width, hidden], tracked[2]),
            matrix(4, [hidden, width], tracked[4]),
        );
        let (down_bias, up_bias) = (vector(5, width, tracked[3]), vector(6, hidden, tracked[5]));
        let y = if fused {
            bottleneck(
                x.clone(),
                base.clone(),
                [down.clone(), up.clone()],
                [down_bias.clone(), up_bias.clone()],
                a,
                SCALE,
                drop,
            )
        } else {
            let inner = x.clone().matmul(down.clone().transpose().unsqueeze()) + down_bias.clone().unsqueeze();
            let branch = plain(a, inner).matmul(up.clone().transpose().unsqueeze()) + up_bias.clone().unsqueeze();
            let branch = branch.mul_scalar(SCALE);
            let branch = match drop {
                None => branch,
                Some((p, seed)) => crate::dropout(branch, p, seed),
            };
            base.clone() + branch
        };
        let out = to_vec(y.clone());
        if !tracked.contains(&true) {
            return (out, Vec::new());
        }
        let grads = backward(y, &values(rows * hidden, 7));
        let found = vec![
            gradient(&x, &grads),
            gradient(&base, &grads),
            gradient(&down, &grads),
            gradient(&down_bias, &grads),
            gradient(&up, &grads),
            gradient(&up_bias, &grads),
        ];
        (out, found)
    }

    fn check(&self, a: NonLinearity) {
        let ((y, gradients), (want, wanted)) = (self.run(a, true), self.run(a, false));
        let bound = tolerance(self.dtype);
        close(&y, &want, bound, &format!("{a:?}"));
        for (i, (got, want)) in gradients.iter().zip(&wanted).enumerate() {
            let what = format!("gradient {i} of {a:?} {:?}", self.tracked);
            assert_eq!(got.is_some(), want.is_some(), "{what}");
            if let (Some(got), Some(want)) = (got, want) {
                close(got, want, 4.0 * bound, &what);
            }
        }
    }
}

fn plain(a: NonLinearity, z: Tensor<3>) -> Tensor<3> {
    match a {
        NonLinearity::Relu => activation::relu(z),
        NonLinearity::LeakyRelu => activation::leaky_relu(z, 0.01),
        NonLinearity::Silu => activation::silu(z),
        NonLinearity::Gelu => activation::gelu(z),
        NonLinearity::GeluTanh => activation::gelu_approximate(z),
        NonLinearity::Tanh => activation::tanh(z),
        NonLinearity::Sigmoid => activation::sigmoid(z),
    }
}

const CASE: Case = Case {
    rows: 5,
    hidden: 18,
    width: 3,
    dtype: DType::F64,
    tracked: [true; 6],
    one: false,
    drop: None,
};

#[test]
fn every_activation_equals_the_composition() {
    for a in ALL {
        for dtype in [DType::F32, DType::F64] {
            CASE.check_with(a, |case| case.dtype = dtype);
            CASE.check_with(a, |case| (case.dtype, case.one) = (dtype, true));
        }
    }
}

impl Case {
    fn check_with(mut self, a: NonLinearity, change: impl FnOnce(&mut Self)) {
        change(&mut self);
        self.check(a);
    }
}

#[test]
fn every_choice_of_leaves() {
    for bits in 0..64 {
        let tracked = std::array::from_fn(|i| bits >> i & 1 == 1);
        CASE.check_with(NonLinearity::Silu, |case| case.tracked = tracked);
        CASE.check_with(NonLinearity::Relu, |case| {
            (case.tracked, case.one, case.dtype) = (tracked, true, DType::F32);
        });
    }
}

#[test]
fn more_rows_than_a_task_takes() {
    for one in [false, true] {
        CASE.check_with(NonLinearity::GeluTanh, |case| {
            (case.rows, case.hidden, case.width, case.dtype, case.one) = (700, 48, 20, DType::F32, one);
        });
    }
}

#[test]
fn dropout_is_on_the_branch_alone() {
    for dtype in [DType::F32, DType::F64] {
        CASE.check_with(NonLinearity::Tanh, |case| {
            (case.dtype, case.drop) = (dtype, Some((0.4, 11)))
        });
    }
    let case = Case {
        drop: Some((1.0, 3)),
        ..CASE
    };
    let base = values(case.rows * case.hidden, 2);
    close(
        &case.run(NonLinearity::Relu, true).0,
        &base,
        1e-12,
        "everything dropped",
    );
}
