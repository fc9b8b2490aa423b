//! Norms, activations and rotations.
use super::{compare, rounded, tensor_of, types};
use crate::testing::values;
use crate::{Mask, gelu_tanh, layer_norm, residual_norm, rms_norm, rope, rotary_attention, swiglu};
use burn::tensor::{Device, FloatDType, Tensor};

/// Single numbers, rows of odd length, rows longer than a cube is wide, and more rows than there are blocks of them.
const SHAPES: [[usize; 2]; 7] = [[1, 1], [3, 33], [5, 576], [4, 2048], [2, 4096], [3, 1030], [301, 20]];

#[test]
fn rms_norm_and_its_gradients() {
    for (dtype, bound) in types() {
        for [n, d] in SHAPES {
            let run = |device: &Device, dtype: FloatDType| {
                let x = tensor_of(device, &rounded(values(n * d, 1)), [1, n, d], dtype).require_grad();
                let w = tensor_of(device, &rounded(values(d, 2)), [d], dtype).require_grad();
                let y = rms_norm(x.clone(), w.clone(), 1e-5);
                let weights = tensor_of(device, &rounded(values(n * d, 3)), [1, n, d], dtype);
                let gradients = (y.clone() * weights).sum().backward();
                vec![
                    y.into_data(),
                    x.grad(&gradients).unwrap().into_data(),
                    w.grad(&gradients).unwrap().into_data(),
                ]
            };
            compare(
                run,
                dtype,
                bound * (n as f64).sqrt(),
                &["y", "dx", "dw"],
                &format!("{n} x {d}"),
            );
        }
    }
}

/// A weight of another type than x, and a frozen one: another kernel computes the gradient to x alone.
#[test]
fn rms_norm_with_a_frozen_weight_in_f32() {
    for (dtype, bound) in types() {
        for [n, d] in SHAPES {
            let run = |device: &Device, dtype: FloatDType| {
                let x = tensor_of(device, &rounded(values(n * d, 1)), [n, d], dtype).require_grad();
                let w = tensor_of(device, &values(d, 2), [d], FloatDType::F32);
                let y = rms_norm(x.clone(), w, 1e-5);
                let gradients = y.clone().sum().backward();
                vec![y.into_data(), x.grad(&gradients).unwrap().into_data()]
            };
            compare(run, dtype, bound, &["y", "dx"], &format!("{n} x {d}"));
        }
    }
}

/// A trained weight and a frozen one, a stream that is joined and one that is there.
#[test]
fn norms_of_the_residual_stream_and_their_gradients() {
    for (dtype, bound) in types() {
        for [n, d] in SHAPES {
            for (frozen, joined) in [(false, true), (true, true), (true, false)] {
                let run = |device: &Device, dtype: FloatDType| {
                    let of = |seed| tensor_of(device, &rounded(values(n * d, seed)), [n, d], dtype);
                    let [x, added] = [1, 4].map(|seed| of(seed).require_grad());
                    let w = tensor_of(device, &rounded(values(d, 2)), [d], dtype);
                    let w = if frozen { w } else { w.require_grad() };
                    let (h, y) = residual_norm(x.clone(), joined.then(|| added.clone()), w.clone(), 1e-5);
                    let gradients = (y.clone() * of(3) + h.clone() * of(5)).sum().backward();
                    let mut all = vec![h.into_data(), y.into_data(), x.grad(&gradients).unwrap().into_data()];
                    all.extend([added.grad(&gradients)].into_iter().flatten().map(Tensor::into_data));
                    all.extend(w.grad(&gradients).map(Tensor::into_data));
                    all
                };
                let mut names = vec!["h", "y", "dx"];
                names.extend(joined.then_some("da"));
                names.extend((!frozen).then_some("dw"));
                let case = format!("{n} x {d}, frozen {frozen}, joined {joined}");
                // The sum is rounded before it is normalized.
                compare(run, dtype, 2.0 * bound * (n as f64).sqrt(), &names, &case);
            }
        }
    }
}

#[test]
fn layer_norm_and_its_gradients() {
    for (dtype, bound) in types() {
        // A row of one number is its own mean: its gradient is the rounding error of what cancels.
        for [n, d] in SHAPES.into_iter().filter(|[_, d]| *d > 1) {
            for affine in [true, false] {
                let run = |device: &Device, dtype: FloatDType| {
                    let x = tensor_of(device, &rounded(values(n * d, 1)), [n, d], dtype).require_grad();
                    let [mut w, mut b] = [2, 4].map(|seed| tensor_of(device, &rounded(values(d, seed)), [d], dtype));
                    if affine {
                        (w, b) = (w.require_grad(), b.require_grad());
                    }
                    let y = layer_norm(x.clone(), w.clone(), b.clone(), 1e-5);
                    let weights = tensor_of(device, &rounded(values(n * d, 3)), [n, d], dtype);
                    let gradients = (y.clone() * weights).sum().backward();
                    let mut all = vec![y.into_data(), x.grad(&gradients).unwrap().into_data()];
                    all.extend([w, b].iter().filter_map(|x| Some(x.grad(&gradients)?.into_data())));
                    all
                };
                let names = if affine {
                    &["y", "dx", "dw", "db"][..]
                } else {
                    &["y", "dx"]
                };
                compare(run, dtype, bound * (n as f64).sqrt(), names, &format!("{n} x {d}"));
            }
        }
    }
}

#[test]
fn empty_batches_stay_empty() {
    let device = super::gpu();
    let x = || Tensor::<3>::zeros([2, 0, 8], &device).require_grad();
    let w = || Tensor::<1>::ones([8], &device).require_grad();
    let (w, b) = (w(), w());
    let x4 = Tensor::<4>::zeros([2, 0, 2, 4], &device).require_grad();
    let table = Tensor::<3>::ones([1, 0, 2], &device);
    let outputs = [
        rms_norm(x(), w.clone(), 1e-5),
        layer_norm(x(), w.clone(), b.clone(), 1e-5),
        swiglu(x(), x()),
        gelu_tanh(x()),
        rope(x4, table.clone(), table).reshape([2, 0, 8]),
    ];
    for y in outputs {
        let gradients = y.clone().sum().backward();
        assert_eq!(y.into_data().shape().as_slice(), [2, 0, 8]);
        for leaf in [&w, &b] {
            if let Some(gradient) = leaf.grad(&gradients) {
                assert_eq!(super::floats(gradient), [0.0; 8]);
            }
        }
    }
}

#[test]
fn swiglu_and_its_gradients() {
    for (dtype, bound) in types() {
        for [n, d] in SHAPES {
            let run = |device: &Device, dtype: FloatDType| {
                // A view: rows are not whole.
                let both = tensor_of(device, &rounded(values(2 * n * d, 1)), [n, 2 * d], dtype).mul_scalar(4.0);
                let gate = both.clone().narrow(1, 0, d).require_grad();
                let up = both.narrow(1, d, d).require_grad();
                let y = swiglu(gate.clone(), up.clone());
                let weights = tensor_of(device, &rounded(values(n * d, 3)), [n, d], dtype);
                let gradients = (y.clone() * weights).sum().backward();
                vec![
                    y.into_data(),
                    gate.grad(&gradients).unwrap().into_data(),
                    up.grad(&gradients).unwrap().into_data(),
                ]
            };
            compare(run, dtype, bound, &["y", "dgate", "dup"], &format!("{n} x {d}"));
        }
    }
}

#[test]
fn gelu_and_its_gradient() {
    for (dtype, bound) in types() {
        for [n, d] in SHAPES {
            let run = |device: &Device, dtype: FloatDType| {
                let x = tensor_of(device, &rounded(values(n * d, 1)), [n, d], dtype).mul_scalar(4.0);
                let x = x.require_grad();
                let y = gelu_tanh(x.clone());
                let weights = tensor_of(device, &rounded(values(n * d, 3)), [n, d], dtype);
                let gradients = (y.clone() * weights).sum().backward();
                vec![y.into_data(), x.grad(&gradients).unwrap().into_data()]
            };
            compare(run, dtype, bound, &["y", "dx"], &format!("{n} x {d}"));
        }
    }
}

#[test]
fn rotations_of_queries_and_keys_before_attention() {
    for (dtype, bound) in types() {
        for [b, s, hq, hk, d] in [[1, 1, 1, 1, 2], [2, 5, 6, 2, 10], [1, 19, 4, 1, 64]] {
            let run = |device: &Device, dtype: FloatDType| {
                let of = |seed, heads| {
                    let numbers = rounded(values(b * s * heads * d, seed));
                    tensor_of(device, &numbers, [b, s, heads, d], dtype)
                };
                let [q, k, v] = [of(1, hq), of(2, hk), of(3, hk)].map(Tensor::require_grad);
                let angles = tensor_of(device, &values(s * d / 2, 4), [1, s, d / 2], FloatDType::F32);
                let turns = [angles.clone().cos(), angles.sin()];
                let y = rotary_attention(q.clone(), k.clone(), v.clone(), turns, &Mask::default(), 0.2);
                let gradients = (y.clone() * of(5, hq)).sum().backward();
                let inputs = [q, k, v].map(|x| x.grad(&gradients).unwrap().into_data());
                [y.into_data()].into_iter().chain(inputs).collect()
            };
            let case = format!("{b} x {s} x {hq} and {hk} x {d}");
            compare(run, dtype, bound * (s as f64).sqrt(), &["y", "dq", "dk", "dv"], &case);
        }
    }
}

#[test]
fn rotations_and_their_gradients() {
    for (dtype, bound) in types() {
        for [b, s, h, d, tables] in [
            [1, 1, 1, 2, 1],
            [2, 5, 3, 10, 1],
            [2, 3, 4, 64, 2],
            [1, 7, 2, 128, 1],
            [3, 4, 1, 6, 3],
        ] {
            let run = |device: &Device, dtype: FloatDType| {
                let n = b * s * h * d;
                let x = tensor_of(device, &rounded(values(n, 1)), [b, s, h, d], dtype).require_grad();
                let angles = tensor_of(
                    device,
                    &values(tables * s * d / 2, 2),
                    [tables, s, d / 2],
                    FloatDType::F32,
                );
                let y = rope(x.clone(), angles.clone().cos(), angles.sin());
                let weights = tensor_of(device, &rounded(values(n, 3)), [b, s, h, d], dtype);
                let gradients = (y.clone() * weights).sum().backward();
                vec![y.into_data(), x.grad(&gradients).unwrap().into_data()]
            };
            compare(run, dtype, bound, &["y", "dx"], &format!("{b} x {s} x {h} x {d}"));
        }
    }
}
