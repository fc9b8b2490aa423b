//! Times products with matrices in codes against the same in f32 and bf16, at the sizes of a 135M-parameter Llama and of
//! larger ones: one row of x (decoding), eight rows, and a training batch, forward and backward.
//!
//! `cargo run -p ft-kernels --example packed [filter]` prints microseconds (best of several runs).
use burn::tensor::{DType, Device, Distribution, FloatDType, Int, Tensor, TensorData};
use ft_kernels::{Codes, Form, Nested, Output, Packed, frozen_lora, frozen_matmul, linear, lora_linear};
use std::time::Instant;

static TABLE: [f32; 16] = [
    -1.0, -0.7, -0.5, -0.4, -0.3, -0.2, -0.1, 0.0, 0.08, 0.16, 0.25, 0.34, 0.44, 0.56, 0.72, 1.0,
];
static MAP: [f32; 256] = [0.01; 256];
const SIZES: [[usize; 2]; 6] = [
    [192, 576],
    [576, 576],
    [1536, 576],
    [576, 1536],
    [2048, 2048],
    [4096, 4096],
];

fn main() {
    let filter = std::env::args().nth(1).unwrap_or_default();
    println!(
        "{:<28}{:>10}{:>10}{:>10}{:>10}{:>10}",
        "us", "f32", "bf16", "nf4", "nf4+dq", "int8"
    );
    for rows in [1, 4, 8, 1024] {
        for [out, input] in SIZES {
            for training in [false, true] {
                let what = if training { "lora fwd+bwd" } else { "forward" };
                let name = format!("{rows} x {input} -> {out} {what}");
                if (rows == 1024 || !training) && !(rows == 1024 && out > 2048) && name.contains(&filter) {
                    line(&name, rows, [out, input], training);
                }
            }
        }
    }
}

fn line(name: &str, rows: usize, [out, input]: [usize; 2], training: bool) {
    let device = Device::flex();
    let dense = Tensor::<2>::random([out, input], Distribution::Default, &device);
    let x = Tensor::<2>::random([rows, input], Distribution::Default, &device);
    let half = dense.clone().cast(FloatDType::BF16);
    let packed = [codes(Some(false)), codes(Some(true)), codes(None)].map(|c| c(out, input));
    let step = |product: &dyn Fn(Tensor<2>, Tensor<2>, Tensor<2>) -> Tensor<2>| {
        let leaf = |dims: [usize; 2]| Tensor::<2>::ones(dims, &device).autodiff().require_grad();
        let (a, b) = (leaf([8, input]), leaf([out, 8]));
        best(|| {
            drop(
                product(x.clone().autodiff().require_grad(), a.clone(), b.clone())
                    .sum()
                    .backward(),
            )
        })
    };
    let mut times: Vec<f64> = [&dense, &half]
        .map(|w| match training {
            false => best(|| drop(linear(x.clone(), w.clone()))),
            true => step(&|x, a, b| lora_linear(x, w.clone(), a, b, 2.0)),
        })
        .into();
    times.extend(packed.iter().map(|w| match training {
        false => best(|| drop(frozen_matmul(x.clone(), w))),
        true => step(&|x, a, b| frozen_lora(x, w, a, b, 2.0, None, Output::Read)),
    }));
    let columns: String = times.iter().map(|t| format!("{t:>10.1}")).collect();
    println!("{name:<28}{columns}");
}

/// 4-bit codes with plain or nested scales, or 8-bit ones.
fn codes(four: Option<bool>) -> impl Fn(usize, usize) -> Packed {
    move |rows, cols| {
        let codes = four.map_or(Codes::Eight, |_| Codes::Four {
            table: &TABLE,
            block: 64,
        });
        let nested = four.unwrap_or(false).then_some(Nested {
            map: &MAP,
            block: 256,
            offset: 0.5,
        });
        let n = rows * cols;
        let (bytes, scales) = if four.is_some() { (n / 2, n / 64) } else { (n, rows) };
        let stored = if nested.is_some() { scales.div_ceil(256) } else { scales };
        Packed {
            words: words(bytes.div_ceil(4)),
            scales: Tensor::ones([stored], &Device::flex()),
            scale_codes: nested.map(|_| words(scales.div_ceil(4))),
            form: Form {
                rows,
                cols,
                codes,
                nested,
            },
        }
    }
}

fn words(n: usize) -> Tensor<1, Int> {
    let words: Vec<u32> = (0..n as u32).map(|i| i.wrapping_mul(2_654_435_761)).collect();
    Tensor::from_data(TensorData::new(words, [n]), (&Device::flex(), DType::U32))
}

/// Microseconds.
fn best(mut run: impl FnMut()) -> f64 {
    let start = Instant::now();
    let mut best = f64::INFINITY;
    let mut runs = 0;
    while runs < 3 || (start.elapsed().as_secs_f64() < 0.15 && runs < 2000) {
        let now = Instant::now();
        run();
        best = best.min(now.elapsed().as_secs_f64() * 1e6);
        runs += 1;
    }
    best
}
