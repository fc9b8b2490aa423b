//! Times every operation against the same computation composed of Burn's own operations, forward and backward.
//!
//! `cargo run -p ft-kernels --example ops [filter]` prints milliseconds (best of several runs) at the dimensions of a
//! 135M-parameter Llama: 576 wide, 9 query and 3 key heads of 64, 1536 ffn, vocabulary 49152, batch 4 x 256.
use burn::tensor::{Bool, Device, Distribution, Int, Tensor, activation};
use ft_kernels::*;
use std::time::Instant;

const ROWS: usize = 1024;
const WIDE: usize = 576;
const FFN: usize = 1536;
const VOCAB: usize = 49152;
const BATCH: usize = 4;
const STEPS: usize = 256;
const HEADS: [usize; 2] = [9, 3];
const HEAD: usize = 64;

type Inputs = Vec<Tensor<4>>;
type Op = fn(&Inputs) -> Tensor<4>;

/// An operation, its inputs (shape, tracked), and the composition it replaces.
struct Bench {
    name: &'static str,
    inputs: Vec<([usize; 4], bool)>,
    fused: Op,
    composed: Op,
    /// Multiply-adds forward, for the rate.
    work: usize,
}

fn main() {
    let filter = std::env::args().nth(1).unwrap_or_default();
    println!(
        "{:<34}{:>10}{:>10}{:>10}{:>10}{:>8}{:>12}",
        "ms", "forward", "composed", "fwd+bwd", "composed", "ratio", "GFLOP/s fwd"
    );
    for bench in benches().iter().filter(|b| b.name.contains(&filter)) {
        let [forward, both] = measure(bench, bench.fused);
        let [forward_composed, both_composed] = measure(bench, bench.composed);
        let rate = 2.0 * bench.work as f64 / forward / 1e6;
        println!(
            "{:<34}{forward:>10.2}{forward_composed:>10.2}{both:>10.2}{both_composed:>10.2}{:>8.1}{:>12}",
            bench.name,
            both_composed / both,
            if bench.work > 0 {
                format!("{rate:.0}")
            } else {
                String::new()
            }
        );
    }
}

/// Milliseconds forward without a tape, and forward and backward with one.
fn measure(bench: &Bench, op: Op) -> [f64; 2] {
    let plain = Device::flex();
    let inputs: Inputs = bench
        .inputs
        .iter()
        .map(|(dims, _)| Tensor::random(*dims, Distribution::Default, &plain))
        .collect();
    let forward = best(|| drop(op(&inputs)));
    let both = best(|| {
        let leaf = |(x, (_, tracked)): (&Tensor<4>, &([usize; 4], bool))| {
            let x = x.clone().autodiff();
            if *tracked { x.require_grad() } else { x }
        };
        let inputs: Inputs = inputs.iter().zip(&bench.inputs).map(leaf).collect();
        if bench.inputs.iter().any(|i| i.1) {
            drop(op(&inputs).sum().backward());
        }
    });
    [forward, both]
}

fn best(mut run: impl FnMut()) -> f64 {
    let start = Instant::now();
    let mut best = f64::INFINITY;
    let mut runs = 0;
    while runs < 3 || (start.elapsed().as_secs_f64() < 1.0 && runs < 200) {
        let now = Instant::now();
        run();
        best = best.min(now.elapsed().as_secs_f64() * 1e3);
        runs += 1;
    }
    best
}

fn rows(width: usize) -> [usize; 4] {
    [1, BATCH, STEPS, width]
}

fn matrix(rows: usize, cols: usize) -> [usize; 4] {
    [1, 1, rows, cols]
}

fn flat(x: &Tensor<4>) -> Tensor<2> {
    let [a, b, c, d] = x.dims();
    x.clone().reshape([a * b * c, d])
}

fn vector(x: &Tensor<4>) -> Tensor<1> {
    flat(x).reshape([-1])
}

fn table(x: &Tensor<4>) -> Tensor<3> {
    x.clone().squeeze_dim(0)
}

fn targets(device: &Device) -> Tensor<1, Int> {
    Tensor::arange(0..ROWS as i64, &device.clone().inner()).mul_scalar(47)
}

fn benches() -> Vec<Bench> {
    let heads = |h: usize| [BATCH, STEPS, h, HEAD];
    let lora = |input: usize, out: usize| {
        vec![
            (rows(input), true),
            (matrix(out, input), false),
            (matrix(8, input), true),
            (matrix(out, 8), true),
        ]
    };
    let lora_bench = |name, input, out| Bench {
        name,
        inputs: lora(input, out),
        fused: |x| lora_linear(x[0].clone(), flat(&x[1]), flat(&x[2]), flat(&x[3]), 2.0),
        composed: |x| {
            let linear = |x: Tensor<4>, w: Tensor<2>| burn::tensor::module::linear(x, w.swap_dims(0, 1), None);
            let low = linear(linear(x[0].clone(), flat(&x[2])), flat(&x[3]));
            linear(x[0].clone(), flat(&x[1])) + low.mul_scalar(2.0)
        },
        work: ROWS * input * out,
    };
    vec![
        Bench {
            name: "linear 576 -> 1536, frozen",
            inputs: vec![(rows(WIDE), true), (matrix(FFN, WIDE), false)],
            fused: |x| linear(x[0].clone(), flat(&x[1])),
            composed: |x| burn::tensor::module::linear(x[0].clone(), flat(&x[1]).swap_dims(0, 1), None),
            work: ROWS * WIDE * FFN,
        },
        Bench {
            name: "linear 576 -> 1536, trained",
            inputs: vec![(rows(WIDE), true), (matrix(FFN, WIDE), true)],
            fused: |x| linear(x[0].clone(), flat(&x[1])),
            composed: |x| burn::tensor::module::linear(x[0].clone(), flat(&x[1]).swap_dims(0, 1), None),
            work: ROWS * WIDE * FFN,
        },
        lora_bench("lora_linear 576 -> 576 (q, o)", WIDE, WIDE),
        lora_bench("lora_linear 576 -> 192 (k, v)", WIDE, 192),
        lora_bench("lora_linear 576 -> 1536 (gate, up)", WIDE, FFN),
        lora_bench("lora_linear 1536 -> 576 (down)", FFN, WIDE),
        Bench {
            name: "cross_entropy, frozen head",
            inputs: vec![(rows(WIDE), true), (matrix(VOCAB, WIDE), false)],
            fused: |x| cross_entropy(flat(&x[0]), flat(&x[1]), targets(&x[0].device())).reshape([1, 1, 1, 1]),
            composed: composed_cross_entropy,
            work: ROWS * WIDE * VOCAB,
        },
        Bench {
            name: "cross_entropy, trained head",
            inputs: vec![(rows(WIDE), true), (matrix(VOCAB, WIDE), true)],
            fused: |x| cross_entropy(flat(&x[0]), flat(&x[1]), targets(&x[0].device())).reshape([1, 1, 1, 1]),
            composed: composed_cross_entropy,
            work: ROWS * WIDE * VOCAB,
        },
        distillation_bench("distillation, frozen head", false),
        distillation_bench("distillation, trained head", true),
        Bench {
            name: "attention 256 x 256, 9/3 heads",
            inputs: vec![
                (heads(HEADS[0]), true),
                (heads(HEADS[1]), true),
                (heads(HEADS[1]), true),
            ],
            fused: |x| attention(x[0].clone(), x[1].clone(), x[2].clone(), &Mask::default(), 0.125),
            composed: composed_attention,
            work: BATCH * HEADS[0] * STEPS * STEPS * HEAD,
        },
        Bench {
            name: "attention 1 x 2048 (decoding)",
            inputs: vec![
                ([1, 1, HEADS[0], HEAD], false),
                ([1, 2048, HEADS[1], HEAD], false),
                ([1, 2048, HEADS[1], HEAD], false),
            ],
            fused: |x| {
                let mask = Mask {
                    offset: 2047,
                    ..Mask::default()
                };
                attention(x[0].clone(), x[1].clone(), x[2].clone(), &mask, 0.125)
            },
            composed: composed_attention,
            work: 0,
        },
        Bench {
            name: "swiglu",
            inputs: vec![(rows(FFN), true), (rows(FFN), true)],
            fused: |x| swiglu(x[0].clone(), x[1].clone()),
            composed: |x| activation::silu(x[0].clone()) * x[1].clone(),
            work: 0,
        },
        Bench {
            name: "gelu_tanh",
            inputs: vec![(rows(FFN), true)],
            fused: |x| gelu_tanh(x[0].clone()),
            composed: |x| activation::gelu_approximate(x[0].clone()),
            work: 0,
        },
        Bench {
            name: "rms_norm, frozen",
            inputs: vec![(rows(WIDE), true), (matrix(1, WIDE), false)],
            fused: |x| rms_norm(x[0].clone(), vector(&x[1]), 1e-5),
            composed: |x| {
                let scale = x[0].clone().square().mean_dim(3).add_scalar(1e-5).sqrt().recip();
                x[0].clone() * scale * x[1].clone()
            },
            work: 0,
        },
        Bench {
            name: "layer_norm, trained",
            inputs: vec![(rows(WIDE), true), (matrix(1, WIDE), true), (matrix(1, WIDE), true)],
            fused: |x| layer_norm(x[0].clone(), vector(&x[1]), vector(&x[2]), 1e-5),
            composed: |x| {
                let centered = x[0].clone() - x[0].clone().mean_dim(3);
                let scale = centered.clone().square().mean_dim(3).add_scalar(1e-5).sqrt().recip();
                centered * scale * x[1].clone() + x[2].clone()
            },
            work: 0,
        },
        Bench {
            name: "rope, 9 heads",
            inputs: vec![
                (heads(HEADS[0]), true),
                ([1, 1, STEPS, HEAD / 2], false),
                ([1, 1, STEPS, HEAD / 2], false),
            ],
            fused: |x| rope(x[0].clone(), table(&x[1]), table(&x[2])),
            composed: |x| {
                let (cos, sin) = (x[1].clone().swap_dims(1, 2), x[2].clone().swap_dims(1, 2));
                let (left, right) = (
                    x[0].clone().narrow(3, 0, HEAD / 2),
                    x[0].clone().narrow(3, HEAD / 2, HEAD / 2),
                );
                let first = left.clone() * cos.clone() - right.clone() * sin.clone();
                Tensor::cat(vec![first, right * cos + left * sin], 3)
            },
            work: 0,
        },
        Bench {
            name: "dropout",
            inputs: vec![(rows(WIDE), true)],
            fused: |x| dropout(x[0].clone(), 0.1, 7),
            composed: |x| {
                let mask = x[0].random_like(Distribution::Bernoulli(0.9));
                x[0].clone() * mask.mul_scalar(1.0 / 0.9)
            },
            work: 0,
        },
        Bench {
            name: "residual addition (Burn's own)",
            inputs: vec![(rows(WIDE), true), (rows(WIDE), true)],
            fused: |x| x[0].clone() + x[1].clone(),
            composed: |x| x[0].clone() + x[1].clone(),
            work: 0,
        },
    ]
}

/// A student of the teacher's size; both heads' products count as work.
fn distillation_bench(name: &'static str, head: bool) -> Bench {
    Bench {
        name,
        inputs: vec![
            (rows(WIDE), true),
            (matrix(VOCAB, WIDE), head),
            (rows(WIDE), false),
            (matrix(VOCAB, WIDE), false),
        ],
        fused: |x| {
            let teacher = Teacher::Live {
                hidden: flat(&x[2]),
                head: flat(&x[3]).into(),
            };
            let options = DistillationOptions {
                alpha: 0.5,
                beta: 0.0,
                temperature: 1.0,
                t_squared: false,
            };
            let targets = targets(&x[0].device());
            let loss = distillation(flat(&x[0]), flat(&x[1]), targets, teacher, options).loss;
            loss.reshape([1, 1, 1, 1])
        },
        composed: |x| {
            let log_probs = |i: usize| activation::log_softmax(logits(&x[i..]), 1);
            let (q, p) = (log_probs(0), log_probs(2));
            let targets = targets(&x[0].device()).reshape([ROWS, 1]);
            let nll = q.clone().gather(1, targets).neg().sum();
            let divergence = (p.clone().exp() * (p - q)).sum();
            (nll + divergence).mul_scalar(0.5).reshape([1, 1, 1, 1])
        },
        work: 2 * ROWS * WIDE * VOCAB,
    }
}

/// Of the hidden states and the head that come first.
fn logits(x: &[Tensor<4>]) -> Tensor<2> {
    burn::tensor::module::linear(flat(&x[0]), flat(&x[1]).swap_dims(0, 1), None)
}

fn composed_cross_entropy(x: &Inputs) -> Tensor<4> {
    let targets = targets(&x[0].device()).reshape([ROWS, 1]);
    let nll = activation::log_softmax(logits(x), 1).gather(1, targets).neg();
    nll.sum().reshape([1, 1, 1, 1])
}

fn composed_attention(x: &Inputs) -> Tensor<4> {
    let [b, s, hq, d] = x[0].dims();
    let [_, t, hkv, _] = x[1].dims();
    let q = x[0]
        .clone()
        .reshape([b, s, hkv, hq / hkv, d])
        .permute([0, 2, 3, 1, 4])
        .reshape([b, hkv, hq / hkv * s, d]);
    let (k, v) = (x[1].clone().permute([0, 2, 3, 1]), x[2].clone().permute([0, 2, 1, 3]));
    let scores = q.matmul(k).mul_scalar(0.125).reshape([b, hkv, hq / hkv, s, t]);
    let hidden = Tensor::<2, Bool>::tril_mask([s, t], (t - s) as i64, &x[0].device().inner());
    let scores = scores.mask_fill(hidden.reshape([1, 1, 1, s, t]).expand([b, hkv, hq / hkv, s, t]), -1e30);
    let out = activation::softmax(scores, 4)
        .reshape([b, hkv, hq / hkv * s, t])
        .matmul(v);
    out.reshape([b, hkv, hq / hkv, s, d])
        .permute([0, 3, 1, 2, 4])
        .reshape([b, s, hq, d])
}
