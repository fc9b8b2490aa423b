//! Values and gradients against the definition in f64.
use super::*;

/// The teacher as the definition sees it.
pub(super) enum Known {
    Live,
    /// Tokens of every row.
    Top(Vec<Vec<usize>>),
}

fn log_softmax(x: &[f64], temperature: f64) -> Vec<f64> {
    let lse = x.iter().map(|x| (x / temperature).exp()).sum::<f64>().ln();
    x.iter().map(|x| x / temperature - lse).collect()
}

/// `KL(a ‖ b)` of logarithms.
fn kl(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a.exp() * (a - b)).sum()
}

fn divergence(q: &[f64], p: &[f64], beta: f64) -> f64 {
    if beta == 0.0 {
        return kl(p, q);
    }
    if beta == 1.0 {
        return kl(q, p);
    }
    let mixture: Vec<f64> = (q.iter().zip(p))
        .map(|(q, p)| (beta * p.exp() + (1.0 - beta) * q.exp()).ln())
        .collect();
    beta * kl(p, &mixture) + (1.0 - beta) * kl(q, &mixture)
}

/// The tokens' categories and one of all others, if there are any.
fn categories(log_probs: &[f64], tokens: &[usize]) -> Vec<f64> {
    let mut all: Vec<f64> = tokens.iter().map(|&t| log_probs[t]).collect();
    let others = (0..log_probs.len()).filter(|t| !tokens.contains(t));
    let rest: f64 = others.map(|t| log_probs[t].exp()).sum();
    if tokens.len() < log_probs.len() {
        all.push(rest.ln());
    }
    all
}

impl Case {
    /// Loss, negative log likelihood and divergence.
    fn sums(&self, hidden: &[f64], head: &[f64], known: &Known, options: &DistillationOptions) -> [f64; 3] {
        let z = bounded(times_transposed(hidden, head, self.d), self.caps[0]);
        let y = times_transposed(&self.teacher[0], &self.teacher[1], self.teacher_d);
        let y = bounded(y, self.caps[1]);
        let (common, temperature) = (self.common(), options.temperature);
        let mut sums = [0.0; 2];
        for (row, &target) in self.targets.iter().enumerate() {
            let z = &z[row * self.vocab..][..self.vocab];
            let y = &y[row * self.teacher_vocab..][..common];
            let (q, p) = (log_softmax(&z[..common], temperature), log_softmax(y, temperature));
            let value = match known {
                Known::Live => divergence(&q, &p, options.beta),
                Known::Top(tokens) => {
                    let cut = |x: &[f64]| categories(x, &tokens[row]);
                    divergence(&cut(&q), &cut(&p), options.beta)
                }
            };
            let scale = if options.t_squared {
                temperature * temperature
            } else {
                1.0
            };
            sums[0] -= log_softmax(z, 1.0)[target as usize];
            sums[1] += scale * value;
        }
        [
            (1.0 - options.alpha) * sums[0] + options.alpha * sums[1],
            sums[0],
            sums[1],
        ]
    }

    pub(super) fn want(&self, known: &Known, options: &DistillationOptions) -> Run {
        let loss = |hidden: &[f64], head: &[f64]| 0.25 * self.sums(hidden, head, known, options)[0];
        Run {
            sums: self.sums(&self.hidden, &self.head, known, options),
            to_hidden: numeric(&self.hidden, |h| loss(h, &self.head)),
            to_head: numeric(&self.head, |w| loss(&self.hidden, w)),
        }
    }
}

fn options() -> impl Iterator<Item = DistillationOptions> {
    let weigh = |options| [0.0, 0.5, 1.0].map(|alpha| DistillationOptions { alpha, ..options });
    divergences().into_iter().flat_map(weigh)
}

/// Equal vocabularies, a larger and a smaller one of the teacher; bounded logits.
fn cases() -> [Case; 4] {
    let caps = [None, None, None, Some(2.0)];
    std::array::from_fn(|number| Case {
        caps: [caps[number], caps[number].map(|cap| 2.0 * cap)],
        ..Case::new(5, [4, 13], [3, [13, 16, 11, 16][number]])
    })
}

#[test]
fn a_live_teacher_equals_the_oracle() {
    for case in cases() {
        for options in options() {
            let want = case.want(&Known::Live, &options);
            for dtype in [DType::F32, DType::F64] {
                for head_too in [false, true] {
                    let got = case.run(dtype, case.live(dtype), options, head_too);
                    got.check(
                        &want,
                        (tolerance(dtype) * 3.0).max(1e-7),
                        &format!("{dtype:?} {options:?}"),
                    );
                }
            }
        }
    }
}

#[test]
fn the_teachers_best_tokens_equal_the_oracle() {
    for case in cases() {
        let y = times_transposed(&case.teacher[0], &case.teacher[1], case.teacher_d);
        let best = |y: &[f64]| {
            let mut order: Vec<usize> = (0..case.common()).collect();
            order.sort_by(|&a, &b| y[b].total_cmp(&y[a]));
            order[..4].to_vec()
        };
        let known = Known::Top(y.chunks(case.teacher_vocab).map(best).collect());
        for options in options() {
            let want = case.want(&known, &options);
            for dtype in [DType::F32, DType::F64] {
                for head_too in [false, true] {
                    let teacher = case.cache(dtype, 4, options.temperature);
                    let got = case.run(dtype, teacher, options, head_too);
                    got.check(
                        &want,
                        (tolerance(dtype) * 3.0).max(1e-7),
                        &format!("{dtype:?} {options:?}"),
                    );
                }
            }
        }
    }
}

/// `trl.experimental.gkd.GKDTrainer.generalized_jsd_loss(s[None], t[None], beta=beta, temperature=2.0, reduction="sum")`,
/// trl 1.16.0 with torch 2.11, logits `s[i][v] = 3 sin(3i + v)`, `t[i][v] = 3 cos(2i + 5v)`, 3 rows of 6.
#[test]
fn divergences_are_trls() {
    let identity: Vec<f64> = (0..36).map(|i| f64::from(i % 7 == 0)).collect();
    let logits = |f: fn(f64) -> f64, a: usize, b: usize| -> Vec<f64> {
        (0..18).map(|i| 3.0 * f((a * (i / 6) + b * (i % 6)) as f64)).collect()
    };
    let mut case = Case::new(3, [6, 6], [6, 6]);
    case.hidden = logits(f64::sin, 3, 1);
    case.head = identity.clone();
    case.teacher = [logits(f64::cos, 2, 5), identity];
    for (beta, want) in [
        (0.0, 3.795_184),
        (0.3, 0.670_140_9),
        (0.5, 0.777_642_1),
        (1.0, 3.654_194_8),
    ] {
        let options = DistillationOptions {
            beta,
            temperature: 2.0,
            ..PLAIN
        };
        let got = case.run(DType::F32, case.live(DType::F32), options, false);
        close(&got.sums[2..], &[want], 1e-5, &format!("beta {beta}"));
    }
}
