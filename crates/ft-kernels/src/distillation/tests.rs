mod edges;
mod oracle;
mod topk;

use super::{DistillationOptions, Teacher, distillation};
use crate::Head;
use crate::testing::{bounded, close, gradient, ints, leaf, numeric, times_transposed, to_vec, tolerance, values};
use burn::tensor::{DType, Tensor};

/// A student and a teacher of other width and vocabulary.
#[derive(Clone)]
struct Case {
    n: usize,
    d: usize,
    vocab: usize,
    hidden: Vec<f64>,
    head: Vec<f64>,
    targets: Vec<i64>,
    teacher: [Vec<f64>; 2],
    teacher_d: usize,
    teacher_vocab: usize,
    /// Bounds of the student's and of the teacher's logits.
    caps: [Option<f64>; 2],
}

impl Case {
    fn new(n: usize, [d, vocab]: [usize; 2], [teacher_d, teacher_vocab]: [usize; 2]) -> Self {
        let wide = |n, seed| values(n, seed).iter().map(|x| 2.0 * x).collect::<Vec<_>>();
        Self {
            n,
            d,
            vocab,
            hidden: wide(n * d, 1),
            head: wide(vocab * d, 2),
            targets: (0..n as i64).map(|i| i * 7919 % vocab as i64).collect(),
            teacher: [wide(n * teacher_d, 3), wide(teacher_vocab * teacher_d, 4)],
            teacher_d,
            teacher_vocab,
            caps: [None, None],
        }
    }

    /// The student as its own teacher.
    fn of_itself(mut self) -> Self {
        self.teacher = [self.hidden.clone(), self.head.clone()];
        (self.teacher_d, self.teacher_vocab) = (self.d, self.vocab);
        self
    }

    fn common(&self) -> usize {
        self.vocab.min(self.teacher_vocab)
    }

    fn tensors(&self, dtype: DType, hidden: bool, head: bool) -> [Tensor<2>; 2] {
        [
            leaf(&self.hidden, [self.n, self.d], dtype, hidden),
            leaf(&self.head, [self.vocab, self.d], dtype, head),
        ]
    }

    fn teacher_tensors(&self, dtype: DType) -> [Tensor<2>; 2] {
        [
            leaf(&self.teacher[0], [self.n, self.teacher_d], dtype, false),
            leaf(&self.teacher[1], [self.teacher_vocab, self.teacher_d], dtype, false),
        ]
    }

    fn live(&self, dtype: DType) -> Teacher {
        let [hidden, weight] = self.teacher_tensors(dtype);
        let head = Head {
            weight,
            cap: self.caps[1],
        };
        Teacher::Live { hidden, head }
    }

    fn cache(&self, dtype: DType, k: usize, temperature: f64) -> Teacher {
        let ([hidden, weight], common) = (self.teacher_tensors(dtype), self.common());
        let head = Head {
            weight,
            cap: self.caps[1],
        };
        let (ids, log_probs) = super::teacher_topk(hidden, head, k, temperature, common);
        Teacher::TopK { ids, log_probs, common }
    }

    fn run(&self, dtype: DType, teacher: Teacher, options: DistillationOptions, head_too: bool) -> Run {
        let [hidden, head] = self.tensors(dtype, true, head_too);
        let targets = ints(&self.targets, [self.n]);
        let whole = Head {
            weight: head.clone(),
            cap: self.caps[0],
        };
        let result = distillation(hidden.clone(), whole, targets, teacher, options);
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
}

/// Loss, negative log likelihood, divergence; the gradients of a quarter of the loss.
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

const PLAIN: DistillationOptions = DistillationOptions {
    alpha: 0.5,
    beta: 0.0,
    temperature: 1.0,
    t_squared: false,
};

/// Every divergence at two temperatures.
fn divergences() -> Vec<DistillationOptions> {
    let mut all = vec![];
    for beta in [0.0, 0.3, 0.5, 1.0] {
        for (temperature, t_squared) in [(1.0, false), (2.0, false), (2.0, true)] {
            all.push(DistillationOptions {
                beta,
                temperature,
                t_squared,
                ..PLAIN
            });
        }
    }
    all
}
