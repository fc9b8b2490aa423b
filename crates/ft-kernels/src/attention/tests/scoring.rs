//! Bounded scores and sinks.
use super::{Case, PLAIN};
use crate::testing::{backward, close, dot, gradient, leaf, numeric, to_vec, tolerance, values};
use crate::{Scoring, attention, rope, rotary_attention, row_invariant};
use burn::tensor::{DType, Tensor};

const CAP: Option<f64> = Some(0.4);

fn sinks() -> Option<Vec<f64>> {
    Some(vec![0.5, -1.0, 2.0, 0.25])
}

/// Masks of every kind, short and long.
fn masks() -> Vec<Case> {
    let packed = vec![0, 0, 2, 2, 2, 0, 1, 1, 3, 4];
    vec![
        PLAIN,
        Case {
            first: Some(packed),
            window: Some(2),
            offset: 2,
            ..PLAIN
        },
        Case {
            prefix: 2,
            s: 1,
            offset: 4,
            window: Some(3),
            first: Some(vec![0, 5]),
            ..PLAIN
        },
        Case {
            first: Some(vec![3, 3, 3, 3, 3, 9, 9, 9, 9, 9]),
            ..PLAIN
        },
    ]
}

impl Case {
    fn scoring(&self, dtype: DType, learn: bool) -> Scoring {
        Scoring {
            scale: self.scale(),
            cap: self.cap,
            sinks: self.sinks.as_ref().map(|z| leaf(z, [z.len()], dtype, learn)),
        }
    }

    /// The output, and the gradients to q, k, v and the sinks.
    fn run(&self, dtype: DType, learn: bool) -> Vec<Option<Vec<f64>>> {
        let [q, k, v] = self.tensors(dtype, [true; 3]);
        let scoring = self.scoring(dtype, learn);
        let y = attention(q.clone(), k.clone(), v.clone(), &self.mask(), scoring.clone());
        let out = to_vec(y.clone());
        let gradients = backward(y, &values(out.len(), 4));
        let of_inputs = [q, k, v].map(|x| gradient(&x, &gradients));
        let of_sinks = scoring.sinks.and_then(|z| gradient(&z, &gradients));
        [Some(out)].into_iter().chain(of_inputs).chain([of_sinks]).collect()
    }

    fn check_scoring(&self) {
        let [q, k, v] = self.inputs();
        let weights = values(q.len(), 4);
        let of = |z: &[f64]| Case {
            sinks: Some(z.to_vec()),
            ..self.clone()
        };
        let mut want = vec![
            Some(self.oracle(&q, &k, &v)),
            Some(numeric(&q, |q| dot(&self.oracle(q, &k, &v), &weights))),
            Some(numeric(&k, |k| dot(&self.oracle(&q, k, &v), &weights))),
            Some(numeric(&v, |v| dot(&self.oracle(&q, &k, v), &weights))),
        ];
        let to_sinks = |z: &Vec<f64>| numeric(z, |z| dot(&of(z).oracle(&q, &k, &v), &weights));
        want.push(self.sinks.as_ref().map(to_sinks));
        for (dtype, learn) in [(DType::F32, true), (DType::F64, true), (DType::F32, false)] {
            for (number, (got, want)) in self.run(dtype, learn).iter().zip(&want).enumerate() {
                let there = want.is_some() && (number < 4 || learn);
                assert_eq!(got.is_some(), there, "{number} of {self:?}");
                if let (Some(got), Some(want)) = (got, want) {
                    close(got, want, tolerance(dtype).max(1e-7), &format!("{number} of {self:?}"));
                }
            }
        }
    }
}

#[test]
fn bounded_scores_and_sinks_equal_the_oracle() {
    for mask in masks() {
        for (cap, sinks) in [(CAP, None), (None, sinks()), (CAP, sinks())] {
            Case {
                cap,
                sinks,
                ..mask.clone()
            }
            .check_scoring();
        }
    }
}

/// Several blocks of queries; the f64 composition beside the fused code.
#[test]
fn long_sequences_are_bounded_alike() {
    let case = Case {
        s: 130,
        d: 16,
        window: Some(40),
        offset: 20,
        cap: CAP,
        sinks: sinks(),
        ..PLAIN
    };
    let [narrow, wide] = [DType::F32, DType::F64].map(|dtype| case.run(dtype, true));
    for (number, (narrow, wide)) in narrow.iter().zip(&wide).enumerate() {
        close(
            narrow.as_ref().unwrap(),
            wide.as_ref().unwrap(),
            2e-5,
            &number.to_string(),
        );
    }
}

/// Chunks of keys, and sums that do not depend on the number of rows.
#[test]
fn decoding_equals_the_oracle() {
    for s in [1, 3, 9] {
        let case = Case {
            s,
            offset: 1100,
            window: Some(700),
            cap: CAP,
            sinks: sinks(),
            ..PLAIN
        };
        let [q, k, v] = case.inputs();
        let want = case.oracle(&q, &k, &v);
        let run = || {
            let [q, k, v] = case.tensors(DType::F32, [false; 3]).map(|x| x.inner());
            let mut scoring = case.scoring(DType::F32, false);
            scoring.sinks = scoring.sinks.map(Tensor::inner);
            to_vec(attention(q, k, v, &case.mask(), scoring))
        };
        close(&run(), &want, 1e-5, "as it is");
        close(&row_invariant(run), &want, 1e-5, "row by row");
    }
}

#[test]
fn scores_of_queries_that_turn_are_bounded_too() {
    let case = Case {
        d: 8,
        cap: CAP,
        sinks: sinks(),
        ..PLAIN
    };
    let [q, k, v] = case.tensors(DType::F32, [false; 3]);
    let angles: Tensor<3> = leaf(&values(20, 6), [1, 5, 4], DType::F32, false);
    let turns = [angles.clone().cos(), angles.sin()];
    for sinks in [None, sinks()] {
        let case = Case { sinks, ..case.clone() };
        let scoring = case.scoring(DType::F32, false);
        let got = rotary_attention(
            q.clone(),
            k.clone(),
            v.clone(),
            turns.clone(),
            &case.mask(),
            scoring.clone(),
        );
        let [q, k] = [&q, &k].map(|x| rope(x.clone(), turns[0].clone(), turns[1].clone()));
        let want = attention(q, k, v.clone(), &case.mask(), scoring);
        close(&to_vec(got), &to_vec(want), 1e-6, "out");
    }
}
