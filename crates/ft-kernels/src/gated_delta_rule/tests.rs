use super::*;
use crate::testing::{backward, close, device, dot, gradient, ints, leaf, numeric, to_vec, values};
use burn::tensor::Device;

/// Grouped value heads, and widths that are no multiple of a register's.
const HEADS: DeltaHeads = DeltaHeads {
    key_heads: 2,
    value_heads: 4,
    key_dim: 5,
    value_dim: 37,
};

struct Case {
    b: usize,
    s: usize,
    heads: DeltaHeads,
    first: Option<Vec<i64>>,
}

impl Case {
    fn qkv(&self) -> Vec<f64> {
        values(self.b * self.s * self.heads.width(), 1)
    }

    /// Decays from almost none to almost all.
    fn decay(&self) -> Vec<f64> {
        let drawn = values(self.b * self.s * self.heads.value_heads, 2);
        drawn.iter().map(|x| -(3.0 * x).exp() * 0.2).collect()
    }

    fn beta(&self) -> Vec<f64> {
        let drawn = values(self.b * self.s * self.heads.value_heads, 3);
        drawn.iter().map(|x| 0.5 + 0.45 * x).collect()
    }

    fn run(&self, inputs: [&[f64]; 3], dtype: DType, tracked: bool) -> ([Tensor<3>; 3], Tensor<4>) {
        let [qkv, decay, beta] = inputs;
        let gates = [self.b, self.s, self.heads.value_heads];
        let leaves = [
            leaf(qkv, [self.b, self.s, self.heads.width()], dtype, tracked),
            leaf(decay, gates, dtype, tracked),
            leaf(beta, gates, dtype, tracked),
        ];
        let [q, g, b] = leaves.clone();
        let first = self.first.as_ref().map(|first| ints(first, [self.b, self.s]));
        let out = gated_delta_rule(q, g, b, self.heads, first);
        (leaves, out)
    }

    /// The definition, column by column.
    fn definition(&self, [qkv, decay, beta]: [&[f64]; 3]) -> Vec<f64> {
        let DeltaHeads {
            key_heads,
            value_heads,
            key_dim: dk,
            value_dim: dv,
        } = self.heads;
        let mut out = vec![0.0; self.b * self.s * value_heads * dv];
        for row in 0..self.b {
            for head in 0..value_heads {
                let key_head = head / (value_heads / key_heads);
                let mut state = vec![0.0; dk * dv];
                for i in 0..self.s {
                    let at = row * self.s + i;
                    let first = self.first.as_ref().map_or(i64::MIN, |first| first[at]);
                    if first >= i as i64 {
                        state.fill(0.0);
                    }
                    if first > i as i64 {
                        continue;
                    }
                    let x = &qkv[at * self.heads.width()..][..self.heads.width()];
                    let unit = |x: &[f64], scale: f64| -> Vec<f64> {
                        let by = scale / (dot(x, x) + EPS).sqrt();
                        x.iter().map(|x| by * x).collect()
                    };
                    let q = unit(&x[key_head * dk..][..dk], (dk as f64).powf(-0.5));
                    let k = unit(&x[(key_heads + key_head) * dk..][..dk], 1.0);
                    let v = &x[2 * key_heads * dk + head * dv..][..dv];
                    let (keep, beta) = (decay[at * value_heads + head].exp(), beta[at * value_heads + head]);
                    for c in 0..dv {
                        let known: f64 = (0..dk).map(|r| keep * state[r * dv + c] * k[r]).sum();
                        for r in 0..dk {
                            state[r * dv + c] = keep * state[r * dv + c] + k[r] * beta * (v[c] - known);
                        }
                        out[(at * value_heads + head) * dv + c] = (0..dk).map(|r| state[r * dv + c] * q[r]).sum();
                    }
                }
            }
        }
        out
    }
}

fn cases() -> Vec<Case> {
    let one = |s| Case {
        b: 2,
        s,
        heads: HEADS,
        first: None,
    };
    // Documents that end inside of a chunk, at its end and over several of them; padding before the first.
    let starts = |row: &[usize]| -> Vec<i64> {
        let last = |column: usize| row.iter().rev().find(|start| **start <= column);
        (0..150).map(|column| *last(column).unwrap_or(&row[0]) as i64).collect()
    };
    let packed = Case {
        first: Some([starts(&[0, 3, 64, 140]), starts(&[7, 128])].concat()),
        ..one(150)
    };
    vec![one(1), one(5), one(64), one(131), packed]
}

#[test]
fn outputs_are_the_definitions_in_every_type_oracle() {
    for case in cases() {
        let inputs = [case.qkv(), case.decay(), case.beta()];
        let inputs = inputs.each_ref().map(Vec::as_slice);
        let expected = case.definition(inputs);
        for (dtype, bound) in [(DType::F64, 1e-9), (DType::F32, 2e-6)] {
            let (_, out) = case.run(inputs, dtype, false);
            close(
                &to_vec(out),
                &expected,
                bound,
                &format!("{} columns in {dtype:?}", case.s),
            );
        }
    }
}

#[test]
fn gradients_are_those_of_differences_and_of_the_composition_oracle() {
    for case in cases() {
        let inputs = [case.qkv(), case.decay(), case.beta()];
        let inputs = inputs.each_ref().map(Vec::as_slice);
        let weights = values(case.b * case.s * case.heads.values(), 4);
        let mut found = [DType::F64, DType::F32].map(|dtype| {
            let (leaves, out) = case.run(inputs, dtype, true);
            let gradients = backward(out, &weights);
            leaves.map(|leaf| gradient(&leaf, &gradients).expect("tracked"))
        });
        if case.s <= 5 {
            for (which, found) in found[0].iter().enumerate() {
                let slope = |x: &[f64]| {
                    let mut moved = inputs;
                    moved[which] = x;
                    dot(&case.definition(moved), &weights)
                };
                close(found, &numeric(inputs[which], slope), 1e-6, "differences");
            }
        }
        let (own, composed) = found.split_at_mut(1);
        for (which, (exact, fused)) in own[0].iter().zip(&composed[0]).enumerate() {
            let what = format!("{} columns, input {which}", case.s);
            close(fused, exact, 2e-5, &what);
        }
    }
}

/// A text in pieces gives the same bits as in one, and a state that is gone on from is the one of the text before.
#[test]
fn a_state_goes_on() {
    let plain = Device::flex();
    let case = &cases()[3];
    let float = |x: Vec<f64>, width: usize| {
        let data = burn::tensor::TensorData::new(x, [case.b, case.s, width]).convert::<f32>();
        Tensor::<3>::from_data(data, &plain)
    };
    let qkv = float(case.qkv(), case.heads.width());
    let [decay, beta] = [case.decay(), case.beta()].map(|x| float(x, case.heads.value_heads));
    let run = |state, from: usize, len: usize| {
        let part = |x: &Tensor<3>| x.clone().narrow(1, from, len);
        gated_delta_rule_from(state, part(&qkv), part(&decay), part(&beta), case.heads, None)
    };
    let (whole, end) = run(None, 0, case.s);
    let (mut outs, mut state) = (Vec::new(), None);
    for (from, len) in [(0, 1), (1, 70), (71, 1), (72, case.s - 72)] {
        let (out, next) = run(state, from, len);
        outs.push(out);
        state = Some(next);
    }
    assert_eq!(to_vec(Tensor::cat(outs, 1)), to_vec(whole.clone()));
    assert_eq!(to_vec(state.unwrap()), to_vec(end.clone()));
    let (chunked, composed) = composed::chunked(qkv.clone(), decay, beta, case.heads, None, None);
    close(&to_vec(chunked), &to_vec(whole.clone()), 2e-6, "chunks");
    close(&to_vec(composed), &to_vec(end), 2e-6, "state");
    let inputs = [case.qkv(), case.decay(), case.beta()];
    let (_, trained) = case.run(inputs.each_ref().map(Vec::as_slice), DType::F32, false);
    close(&to_vec(trained), &to_vec(whole), 2e-6, "training");
    assert!(device().is_autodiff());
}

/// Keys that are all alike and are never forgotten: the system's inverse must not be a difference of large numbers.
#[test]
fn equal_keys_stay_exact() {
    let case = Case {
        b: 1,
        s: 128,
        heads: DeltaHeads {
            key_heads: 1,
            value_heads: 1,
            key_dim: 4,
            value_dim: 3,
        },
        first: None,
    };
    let mut qkv = case.qkv();
    qkv.chunks_mut(case.heads.width()).for_each(|x| x[..8].fill(1.0));
    let (decay, beta) = (vec![0.0; 128], vec![0.999; 128]);
    let inputs = [&qkv[..], &decay, &beta];
    let expected = case.definition(inputs);
    for (dtype, bound) in [(DType::F64, 1e-9), (DType::F32, 2e-6)] {
        close(
            &to_vec(case.run(inputs, dtype, false).1),
            &expected,
            bound,
            "equal keys",
        );
    }
}
