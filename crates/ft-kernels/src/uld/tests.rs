//! Values and gradients against the definition in f64, and laws.
use super::{SpanPair, UldOptions, UldTeacher, uld};
use crate::Head;
use crate::testing::{bounded, close, gradient, ints, leaf, numeric, times_transposed, to_vec, tolerance, values};
use burn::tensor::{DType, Tensor};

/// A model's rows: `[n, d]`, `[vocab, d]`, `[n]`.
#[derive(Clone)]
struct Side {
    d: usize,
    hidden: Vec<f64>,
    head: Vec<f64>,
    targets: Vec<i64>,
    cap: Option<f64>,
}

impl Side {
    fn new([n, d, vocab]: [usize; 3], seed: u64) -> Self {
        let wide = |n, seed| values(n, seed).iter().map(|x| 2.0 * x).collect::<Vec<_>>();
        Self {
            d,
            hidden: wide(n * d, seed),
            head: wide(vocab * d, seed + 1),
            targets: (0..n as i64).map(|i| i * 7919 % vocab as i64).collect(),
            cap: None,
        }
    }

    fn tensors(&self, dtype: DType, tracked: [bool; 2]) -> [Tensor<2>; 2] {
        let shape = |x: &[f64]| [x.len() / self.d, self.d];
        [
            leaf(&self.hidden, shape(&self.hidden), dtype, tracked[0]),
            leaf(&self.head, shape(&self.head), dtype, tracked[1]),
        ]
    }

    fn log_probs(&self, hidden: &[f64], head: &[f64], temperature: f64) -> Vec<Vec<f64>> {
        let logits = bounded(times_transposed(hidden, head, self.d), self.cap);
        let row = |z: &[f64]| {
            let lse = z.iter().map(|z| (z / temperature).exp()).sum::<f64>().ln();
            z.iter().map(|z| z / temperature - lse).collect()
        };
        logits.chunks(head.len() / self.d).map(row).collect()
    }

    /// The distribution over a span, largest first.
    fn merged(&self, log_p: &[Vec<f64>], rows: &std::ops::Range<usize>) -> Vec<f64> {
        let others: f64 = (rows.start + 1..rows.end)
            .map(|row| log_p[row][self.targets[row] as usize])
            .sum();
        let mut probs: Vec<f64> = log_p[rows.start].iter().map(|p| (p + others).exp()).collect();
        probs.sort_by(|a, b| b.total_cmp(a));
        probs
    }
}

#[derive(Clone)]
struct Case {
    student: Side,
    teacher: Side,
    spans: Vec<SpanPair>,
}

struct Run {
    sums: [f64; 3],
    to_hidden: Vec<f64>,
    to_head: Vec<f64>,
}

impl Run {
    #[track_caller]
    fn check(&self, want: &Self, bound: f64, what: &str) {
        close(&self.sums, &want.sums, bound, &format!("sums, {what}"));
        close(&self.to_hidden, &want.to_hidden, bound, &format!("to hidden, {what}"));
        if !self.to_head.is_empty() {
            close(&self.to_head, &want.to_head, bound, &format!("to head, {what}"));
        }
    }
}

impl Case {
    fn run(&self, dtype: DType, options: UldOptions, head_too: bool) -> Run {
        let [hidden, head] = self.student.tensors(dtype, [true, head_too]);
        let [teacher_hidden, teacher_head] = self.teacher.tensors(dtype, [false, false]);
        let list = |targets: &[i64]| ints(targets, [targets.len()]);
        let teacher = UldTeacher {
            hidden: teacher_hidden,
            head: Head {
                weight: teacher_head,
                cap: self.teacher.cap,
            },
            targets: list(&self.teacher.targets),
        };
        let targets = list(&self.student.targets);
        let whole = Head {
            weight: head.clone(),
            cap: self.student.cap,
        };
        let result = uld(hidden.clone(), whole, targets, teacher, &self.spans, options);
        assert!(!result.nll.is_require_grad() && !result.divergence.is_require_grad());
        let grads = result.loss.clone().mul_scalar(0.25).backward();
        let to_head = gradient(&head, &grads);
        assert_eq!(to_head.is_some(), head_too);
        Run {
            sums: [result.loss, result.nll, result.divergence].map(|x| to_vec(x)[0]),
            to_hidden: gradient(&hidden, &grads).unwrap(),
            to_head: to_head.unwrap_or_default(),
        }
    }

    /// Loss, negative log likelihood and distance by the definition.
    fn sums(&self, hidden: &[f64], head: &[f64], options: UldOptions) -> [f64; 3] {
        let UldOptions { alpha, temperature } = options;
        let plain = self.student.log_probs(hidden, head, 1.0);
        let targets = plain.iter().zip(&self.student.targets);
        let nll: f64 = targets.map(|(row, target)| -row[*target as usize]).sum();
        let own = self.student.log_probs(hidden, head, temperature);
        let theirs = self
            .teacher
            .log_probs(&self.teacher.hidden, &self.teacher.head, temperature);
        let apart = |span: &SpanPair| -> f64 {
            let (s, t) = (
                self.student.merged(&own, &span.student),
                self.teacher.merged(&theirs, &span.teacher),
            );
            let at = |x: &[f64], rank: usize| x.get(rank).copied().unwrap_or(0.0);
            (0..s.len().max(t.len()))
                .map(|rank| (at(&s, rank) - at(&t, rank)).abs())
                .sum()
        };
        let distance = self.spans.iter().map(apart).sum::<f64>();
        [(1.0 - alpha) * nll + alpha * distance, nll, distance]
    }

    fn want(&self, options: UldOptions) -> Run {
        let (hidden, head) = (&self.student.hidden, &self.student.head);
        let loss = |hidden: &[f64], head: &[f64]| 0.25 * self.sums(hidden, head, options)[0];
        Run {
            sums: self.sums(hidden, head, options),
            to_hidden: numeric(hidden, |h| loss(h, head)),
            to_head: numeric(head, |w| loss(hidden, w)),
        }
    }
}

fn pair(student: std::ops::Range<usize>, teacher: std::ops::Range<usize>) -> SpanPair {
    SpanPair { student, teacher }
}

/// One to one, two to one, one to three, two to two; a row of each side that is in no span.
fn spans() -> Vec<SpanPair> {
    vec![pair(0..1, 0..1), pair(1..3, 1..2), pair(4..5, 3..6), pair(5..7, 6..8)]
}

const PLAIN: UldOptions = UldOptions {
    alpha: 0.6,
    temperature: 1.0,
};

#[test]
fn spans_equal_the_oracle() {
    for (teacher_vocab, cap) in [(13, None), (17, None), (9, None), (17, Some(2.0))] {
        let mut case = Case {
            student: Side::new([8, 4, 13], 1),
            teacher: Side::new([9, 3, teacher_vocab], 5),
            spans: spans(),
        };
        (case.student.cap, case.teacher.cap) = (cap, cap.map(|cap| 2.0 * cap));
        for spans in [spans(), Vec::new()] {
            case.spans = spans;
            for alpha in [0.0, 0.6, 1.0] {
                for temperature in [1.0, 2.0] {
                    let options = UldOptions { alpha, temperature };
                    let want = case.want(options);
                    for dtype in [DType::F32, DType::F64] {
                        for head_too in [false, true] {
                            let got = case.run(dtype, options, head_too);
                            let what = format!("{dtype:?} {options:?}, {teacher_vocab} tokens of the teacher");
                            got.check(&want, (tolerance(dtype) * 3.0).max(1e-7), &what);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_model_is_at_no_distance_from_itself() {
    let student = Side::new([9, 6, 300], 1);
    let case = Case {
        teacher: student.clone(),
        student,
        spans: vec![pair(0..1, 0..1), pair(1..4, 1..4), pair(6..8, 6..8)],
    };
    for dtype in [DType::F32, DType::F64] {
        for temperature in [1.0, 0.5, 3.0] {
            let options = UldOptions { temperature, ..PLAIN };
            assert!(case.run(dtype, options, true).sums[2].abs() < tolerance(dtype) / 5.0);
        }
    }
}

/// Rows of two blocks on both paths, which are cut at other places.
#[test]
fn blocks_add_up_and_the_portable_composition_agrees_with_the_fused_code() {
    let rows = crate::cpu::distillation::step(70_000) + 11;
    let spans = (0..rows / 3).map(|i| pair(3 * i..3 * i + 1 + i % 3, 2 * i..2 * i + 1 + i % 2));
    let case = Case {
        student: Side::new([rows, 2, 70_000], 1),
        teacher: Side::new([rows, 3, 70_016], 5),
        spans: spans.collect(),
    };
    let options = UldOptions {
        temperature: 1.5,
        ..PLAIN
    };
    let [fused, portable] = [DType::F32, DType::F64].map(|dtype| case.run(dtype, options, true));
    fused.check(&portable, 3e-5, "fused");
}

#[test]
fn far_logits_and_no_rows_stay_finite() {
    let mut case = Case {
        student: Side::new([2, 1, 2000], 1),
        teacher: Side::new([2, 1, 1500], 5),
        spans: vec![pair(0..2, 0..1)],
    };
    case.student.head = (0..2000).map(|v| f64::from(v) * 0.5 - 400.0).collect();
    case.student.hidden = vec![1.0, -1.0];
    let none = Case {
        student: Side::new([0, 1, 20], 1),
        teacher: Side::new([0, 1, 15], 5),
        spans: Vec::new(),
    };
    for dtype in [DType::F32, DType::F64] {
        let got = case.run(dtype, PLAIN, true);
        let all = got.sums.iter().chain(&got.to_hidden).chain(&got.to_head);
        assert!(all.into_iter().all(|x| x.is_finite()), "{dtype:?}: {:?}", got.sums);
        let got = none.run(dtype, PLAIN, true);
        assert_eq!(got.sums, [0.0; 3]);
        assert_eq!(got.to_head, [0.0; 20]);
    }
}

#[test]
#[should_panic(expected = "begins before the one before it ends")]
fn spans_that_overlap_are_named() {
    let case = Case {
        student: Side::new([3, 1, 5], 1),
        teacher: Side::new([3, 1, 5], 5),
        spans: vec![pair(0..2, 0..1), pair(1..3, 1..2)],
    };
    case.run(DType::F32, PLAIN, false);
}
