//! LoRA beside a dense matrix.
use super::{compare, floats, rounded, tensor, tensor_of, types};
use crate::lora_linear::LoraOps;
use crate::lora_linear::factors::CastOps;
use crate::testing::{times_transposed, values};
use burn::backend::Dispatch;
use burn::tensor::{DType, Device, FloatDType, Tensor};

/// Rows and columns beyond a tile, ranks that are no whole vectors, and a factor that is a view.
#[test]
fn products_of_low_rank_are_added_in_place() {
    for (dtype, bound) in types() {
        for [n, out, rank, turned] in [
            [1, 1, 1, 0],
            [5, 33, 3, 0],
            [70, 100, 16, 0],
            [65, 129, 8, 1],
            [9, 64, 64, 1],
        ] {
            let run = |device: &Device, dtype| {
                let device = &device.clone().inner();
                let of =
                    |seed, dims: [usize; 2]| tensor_of(device, &rounded(values(dims[0] * dims[1], seed)), dims, dtype);
                let b = match turned {
                    0 => of(3, [out, rank]),
                    _ => of(3, [rank, out]).transpose(),
                };
                let base = of(1, [n, out]);
                let kept = base.clone();
                let [base, t, b] = [base, of(2, [n, rank]), b].map(Tensor::into_dispatch);
                let y = Tensor::<2>::from_dispatch(Dispatch::add_low_rank(base, t, b, 0.5));
                vec![y.into_data(), kept.into_data()]
            };
            let bound = bound * (rank as f64).sqrt();
            compare(run, dtype, bound, &["y", "base"], &format!("{n} x {out}, rank {rank}"));
        }
    }
}

/// Together of odd and even lengths, and a view.
#[test]
fn two_are_cast_and_scaled_together() {
    for (dtype, bound) in types() {
        for [n, rank] in [[1, 1], [33, 3], [64, 8], [1000, 16]] {
            let run = |device: &Device, dtype: FloatDType| {
                let device = &device.clone().inner();
                let of = |seed, dims: [usize; 2]| tensor(device, &values(dims[0] * dims[1], seed), dims);
                let there = [of(1, [rank, n]), of(2, [n, rank]).transpose()].map(Tensor::into_dispatch);
                let [a, b] = there;
                let (a, b) = Dispatch::cast_both(a, b, 1.0, dtype.into());
                let (wide_a, wide_b) = Dispatch::cast_both(a.clone(), b.clone(), 0.375, DType::F32);
                let all = [a, b, wide_a, wide_b].map(|x| Tensor::<2>::from_dispatch(x).into_data());
                all.into_iter().collect()
            };
            let names = ["a", "b", "back a", "back b"];
            compare(run, dtype, bound, &names, &format!("{rank} x {n}"));
        }
    }
}

/// Sums are f32, and what is 16 bits wide is rounded once, at the end: a product rounded by itself would be off in some of a hundred.
#[test]
fn sums_of_low_rank_are_rounded_once() {
    for (dtype, _) in types().into_iter().filter(|(dtype, _)| *dtype != FloatDType::F32) {
        let [n, out, rank] = [70, 100, 16];
        let device = super::gpu().inner();
        let [base, t, b] = [(1, n * out), (2, n * rank), (3, out * rank)].map(|(seed, len)| rounded(values(len, seed)));
        let of = |values: &[f64], dims| tensor_of(&device, values, dims, dtype).into_dispatch();
        let y = Dispatch::add_low_rank(of(&base, [n, out]), of(&t, [n, rank]), of(&b, [out, rank]), 0.5);
        let got = floats(Tensor::<2>::from_dispatch(y));
        if super::card().is_some_and(|card| card == "null") {
            continue;
        }
        let round = |v: f64| match dtype {
            FloatDType::BF16 => half::bf16::from_f64(v).to_f64(),
            _ => half::f16::from_f64(v).to_f64(),
        };
        let products = times_transposed(&t, &b, rank);
        let sums = |round_product: fn(f64) -> f64| -> Vec<f64> {
            let sum = |(base, product): (&f64, &f64)| round(base + round_product(0.5 * product));
            base.iter().zip(&products).map(sum).collect()
        };
        let off =
            |want: &[f64]| got.iter().zip(want).filter(|(got, want)| got != want).count() as f64 / (n * out) as f64;
        let twice: fn(f64) -> f64 = match dtype {
            FloatDType::BF16 => |v| half::bf16::from_f64(v).to_f64(),
            _ => |v| half::f16::from_f64(v).to_f64(),
        };
        let (once, twice) = (off(&sums(|v| v)), off(&sums(twice)));
        assert!(
            once < 0.002 && twice > 0.02,
            "{dtype:?}: {once} off, {twice} if the product were rounded, too"
        );
    }
}
