use super::{cross_entropy, cross_entropy_rows, portable, smoothed_cross_entropy, token_nll};
use crate::Head;
use crate::testing::{bounded, close, gradient, ints, leaf, numeric, times_transposed, to_vec, tolerance, values};
use burn::tensor::{DType, Tensor};

/// Hidden states, head and targets.
struct Case {
    n: usize,
    d: usize,
    vocab: usize,
    hidden: Vec<f64>,
    head: Vec<f64>,
    targets: Vec<i64>,
    cap: Option<f64>,
}

impl Case {
    fn new(n: usize, d: usize, vocab: usize) -> Self {
        let targets = (0..n as i64).map(|i| i * 7919 % vocab as i64).collect();
        Self {
            n,
            d,
            vocab,
            hidden: values(n * d, 1),
            head: values(vocab * d, 2),
            targets,
            cap: None,
        }
    }

    fn bounded(self, cap: f64) -> Self {
        Self { cap: Some(cap), ..self }
    }

    fn of(&self, weight: &Tensor<2>) -> Head {
        let (weight, cap) = (weight.clone(), self.cap);
        Head { weight, cap }
    }

    fn nll(&self, hidden: &[f64], head: &[f64]) -> Vec<f64> {
        let logits = bounded(times_transposed(hidden, head, self.d), self.cap);
        let row = |(row, &target): (&[f64], &i64)| row.iter().map(|x| x.exp()).sum::<f64>().ln() - row[target as usize];
        logits.chunks(self.vocab).zip(&self.targets).map(row).collect()
    }

    fn tensors(&self, dtype: DType, hidden: bool, head: bool) -> (Tensor<2>, Tensor<2>) {
        (
            leaf(&self.hidden, [self.n, self.d], dtype, hidden),
            leaf(&self.head, [self.vocab, self.d], dtype, head),
        )
    }

    fn check(&self, dtype: DType, hidden_tracked: bool, head_tracked: bool) {
        let (hidden, head) = self.tensors(dtype, hidden_tracked, head_tracked);
        let loss = cross_entropy(hidden.clone(), self.of(&head), ints(&self.targets, [self.n]));
        assert_eq!(loss.dims(), [1]);
        let bound = tolerance(dtype) * 3.0;
        close(
            &to_vec(loss.clone()),
            &[self.nll(&self.hidden, &self.head).iter().sum()],
            bound,
            "loss",
        );
        if !(hidden_tracked || head_tracked) {
            return;
        }
        let grads = loss.mul_scalar(0.25).backward();
        let to_hidden = numeric(&self.hidden, |h| 0.25 * self.nll(h, &self.head).iter().sum::<f64>());
        let to_head = numeric(&self.head, |w| 0.25 * self.nll(&self.hidden, w).iter().sum::<f64>());
        for (got, want, tracked, name) in [
            (gradient(&hidden, &grads), to_hidden, hidden_tracked, "to hidden"),
            (gradient(&head, &grads), to_head, head_tracked, "to head"),
        ] {
            assert_eq!(got.is_some(), tracked, "gradient {name}");
            if let Some(got) = got {
                close(&got, &want, bound.max(1e-7), name);
            }
        }
    }
}

#[test]
fn loss_and_gradients_equal_the_oracle() {
    for dtype in [DType::F32, DType::F64] {
        for (hidden, head) in [(true, false), (true, true), (false, true), (false, false)] {
            Case::new(7, 5, 33).check(dtype, hidden, head);
            Case::new(7, 5, 33).bounded(0.7).check(dtype, hidden, head);
        }
    }
}

/// Rows beyond one block of 1024 and a vocabulary beyond one block; the oracle is the f64 composition.
#[test]
fn blocks_of_rows_and_vocabulary_add_up() {
    for case in [Case::new(1030, 4, 2100), Case::new(1030, 4, 2100).bounded(0.7)] {
        add_up(&case);
    }
}

fn add_up(case: &Case) {
    let run = |dtype| {
        let (hidden, head) = case.tensors(dtype, true, true);
        let loss = cross_entropy(hidden.clone(), case.of(&head), ints(&case.targets, [case.n]));
        let grads = loss.clone().backward();
        (
            to_vec(loss),
            gradient(&hidden, &grads).unwrap(),
            gradient(&head, &grads).unwrap(),
        )
    };
    let (wide, narrow) = (run(DType::F64), run(DType::F32));
    close(&narrow.0, &wide.0, 1e-5, "loss");
    close(&narrow.1, &wide.1, 1e-5, "to hidden, recomputed");
    close(&narrow.2, &wide.2, 1e-4, "to head");
    let (hidden, head) = case.tensors(DType::F32, true, false);
    let loss = cross_entropy(hidden.clone(), case.of(&head), ints(&case.targets, [case.n]));
    close(
        &gradient(&hidden, &loss.backward()).unwrap(),
        &wide.1,
        1e-5,
        "to hidden, with the loss",
    );
}

#[test]
fn large_logits_do_not_overflow_and_a_growing_maximum_rescales() {
    let (n, vocab) = (2, 2000);
    let mut case = Case::new(n, 1, vocab);
    case.hidden = vec![1.0, -1.0];
    case.head = (0..vocab).map(|v| v as f64 * 0.5 - 400.0).collect();
    let want: Vec<f64> = (case.hidden.iter().zip(&case.targets))
        .map(|(h, &t)| {
            let top = case.head.iter().map(|w| w * h).fold(f64::MIN, f64::max);
            case.head.iter().map(|w| (w * h - top).exp()).sum::<f64>().ln() + top - case.head[t as usize] * h
        })
        .collect();
    let (hidden, head) = case.tensors(DType::F32, true, false);
    let nll = token_nll(hidden.clone(), head.clone(), ints(&case.targets, [n]));
    close(&to_vec(nll), &want, 1e-5, "nll");
    let grads = cross_entropy(hidden.clone(), head, ints(&case.targets, [n])).backward();
    assert!(gradient(&hidden, &grads).unwrap().iter().all(|g| g.is_finite()));
}

#[test]
fn token_nll_is_a_constant_per_row() {
    let case = Case::new(9, 6, 50);
    let (hidden, head) = case.tensors(DType::F32, true, true);
    let nll = token_nll(hidden, head, ints(&case.targets, [9]));
    assert!(!nll.is_require_grad());
    close(&to_vec(nll), &case.nll(&case.hidden, &case.head), 1e-5, "nll");
}

#[test]
fn sixteen_bits_are_computed_in_f32() {
    let case = Case::new(6, 8, 40);
    let want: f64 = case.nll(&case.hidden, &case.head).iter().sum();
    for (hidden_dtype, head_dtype) in [
        (DType::F32, DType::BF16),
        (DType::BF16, DType::BF16),
        (DType::BF16, DType::F32),
    ] {
        let hidden = leaf(&case.hidden, [6, 8], hidden_dtype, true);
        let head = leaf(&case.head, [40, 8], head_dtype, true);
        let loss = cross_entropy(hidden.clone(), head.clone(), ints(&case.targets, [6]));
        assert_eq!(loss.dtype(), DType::F32);
        close(&to_vec(loss.clone()), &[want], 2e-2, "loss");
        let grads = loss.backward();
        assert_eq!(hidden.grad(&grads).unwrap().dtype(), hidden_dtype);
        assert_eq!(head.grad(&grads).unwrap().dtype(), head_dtype);
    }
}

#[test]
fn no_rows_give_zero() {
    for dtype in [DType::F32, DType::F64] {
        let head = leaf(&values(12, 1), [4, 3], dtype, true);
        let loss = cross_entropy(leaf(&[], [0, 3], dtype, true), head.clone(), ints(&[], [0]));
        assert_eq!(to_vec(loss.clone()), [0.0]);
        assert_eq!(gradient(&head, &loss.backward()).unwrap(), [0.0; 12]);
    }
}

#[test]
#[should_panic(expected = "target 4 outside the vocabulary of 4")]
fn a_target_outside_the_vocabulary_is_named() {
    let (hidden, head) = (
        leaf(&values(3, 1), [1, 3], DType::F32, false),
        leaf(&values(12, 1), [4, 3], DType::F32, false),
    );
    cross_entropy(hidden, head, ints(&[4], [1]));
}

/// The composition that other backends run, on the same f32 tensors.
#[test]
fn the_portable_composition_agrees_with_the_fused_code() {
    use burn::backend::Flex;
    let case = Case::new(20, 12, 70);
    let (hidden, head) = case.tensors(DType::F32, false, false);
    let fused = to_vec(token_nll(hidden.clone(), head.clone(), ints(&case.targets, [20])));
    let raw = |t: Tensor<2>| crate::cpu::flex::tensor(to_vec(t.clone()).iter().map(|&x| x as f32).collect(), t.dims());
    let targets = burn::backend::flex::FlexTensor::from_data(burn::tensor::TensorData::new(case.targets.clone(), [20]));
    let (nll, _) = portable::rows::<Flex>(raw(hidden), raw(head), targets, None);
    let composed: Vec<f64> = crate::cpu::flex::values(&nll).iter().map(|&x| f64::from(x)).collect();
    close(&fused, &composed, 1e-6, "nll");
}

/// torch's definition: the target's share is 1 - ε + ε/vocab, every other token's ε/vocab.
#[test]
fn smoothing_equals_the_oracle() {
    for case in [Case::new(7, 5, 33), Case::new(7, 5, 33).bounded(0.7)] {
        smoothed(&case, 0.3);
    }
}

fn smoothed(case: &Case, smoothing: f64) {
    let loss = |hidden: &[f64], head: &[f64]| -> f64 {
        let logits = bounded(times_transposed(hidden, head, case.d), case.cap);
        let row = |(row, &target): (&[f64], &i64)| {
            let lse = row.iter().map(|x| x.exp()).sum::<f64>().ln();
            let share = |i: usize| smoothing / 33.0 + if i == target as usize { 1.0 - smoothing } else { 0.0 };
            row.iter().enumerate().map(|(i, x)| share(i) * (lse - x)).sum::<f64>()
        };
        logits.chunks(case.vocab).zip(&case.targets).map(row).sum()
    };
    for dtype in [DType::F32, DType::F64] {
        for (hidden_tracked, head_tracked) in [(true, false), (true, true)] {
            let (hidden, head) = case.tensors(dtype, hidden_tracked, head_tracked);
            let targets = ints(&case.targets, [case.n]);
            let value = smoothed_cross_entropy(hidden.clone(), case.of(&head), targets, smoothing);
            let bound = tolerance(dtype) * 5.0;
            close(&to_vec(value.clone()), &[loss(&case.hidden, &case.head)], bound, "loss");
            let grads = value.backward();
            let to_hidden = numeric(&case.hidden, |h| loss(h, &case.head));
            close(
                &gradient(&hidden, &grads).unwrap(),
                &to_hidden,
                bound.max(1e-6),
                "to hidden",
            );
            if head_tracked {
                let to_head = numeric(&case.head, |w| loss(&case.hidden, w));
                close(&gradient(&head, &grads).unwrap(), &to_head, bound.max(1e-6), "to head");
            }
        }
    }
}

/// `torch.nn.functional.cross_entropy(hidden @ head.T, targets, reduction="sum", label_smoothing=0.1)`, torch 2.11, with
/// hidden[i][j] = sin(3i + j), head[v][j] = cos(2v + 5j), targets 4, 0, 2.
#[test]
fn smoothing_is_torchs() {
    let numbers = |rows: usize, f: fn(f64) -> f64, a: usize, b: usize| -> Vec<f64> {
        (0..rows * 4).map(|i| f((a * (i / 4) + b * (i % 4)) as f64)).collect()
    };
    let (hidden, head) = (numbers(3, f64::sin, 3, 1), numbers(6, f64::cos, 2, 5));
    let hidden = leaf(&hidden, [3, 4], DType::F32, true);
    let head = leaf(&head, [6, 4], DType::F32, false);
    let loss = smoothed_cross_entropy(hidden.clone(), head, ints(&[4, 0, 2], [3]), 0.1);
    close(&to_vec(loss.clone()), &[4.616878150], 1e-6, "loss");
    let got = gradient(&hidden, &loss.backward()).unwrap();
    close(
        &got[..4],
        &[-0.107105727, -0.301100999, -0.063716207, 0.264953242],
        1e-6,
        "gradient of the first row",
    );
}

/// Every row has its own weight, as in losses of preference (DPO), and a row of weight 0 teaches nothing.
#[test]
fn weighted_rows_equal_the_oracle() {
    let case = Case::new(7, 5, 33);
    let weights = [0.5, -2.0, 0.0, 1.0, 3.0, -0.25, 1.5];
    let weighted = |nll: Vec<f64>| -> f64 { nll.iter().zip(&weights).map(|(x, w)| x * w).sum() };
    for dtype in [DType::F32, DType::F64] {
        for (hidden_tracked, head_tracked) in [(true, false), (true, true), (false, true)] {
            let (hidden, head) = case.tensors(dtype, hidden_tracked, head_tracked);
            let nll = cross_entropy_rows(hidden.clone(), head.clone(), ints(&case.targets, [7]));
            let bound = tolerance(dtype) * 3.0;
            close(&to_vec(nll.clone()), &case.nll(&case.hidden, &case.head), bound, "nll");
            let grads = crate::testing::backward(nll, &weights);
            let to_hidden = numeric(&case.hidden, |h| weighted(case.nll(h, &case.head)));
            let to_head = numeric(&case.head, |w| weighted(case.nll(&case.hidden, w)));
            for (got, want, tracked, name) in [
                (gradient(&hidden, &grads), to_hidden, hidden_tracked, "to hidden"),
                (gradient(&head, &grads), to_head, head_tracked, "to head"),
            ] {
                assert_eq!(got.is_some(), tracked, "gradient {name}");
                if let Some(got) = got {
                    close(&got, &want, bound.max(1e-7), name);
                }
            }
        }
    }
}
