use super::*;
use crate::testing::{backward, close, dot, gradient, ints, leaf, numeric, to_vec, values};
use burn::tensor::DType;

const SIZES: [usize; 4] = [2, 9, 37, 4]; // rows, columns, channels, taps

struct Case {
    history: bool,
    first: Option<Vec<i64>>,
}

fn cases() -> [Case; 4] {
    let row = |starts: [i64; 9]| starts;
    // The second row's first text began two columns before the call.
    let first = [row([0, 0, 0, 3, 3, 5, 5, 5, 5]), row([-2, -2, -2, -2, 4, 4, 4, 4, 8])].concat();
    let padded = [row([2; 9]), row([0; 9])].concat();
    [
        Case {
            history: false,
            first: None,
        },
        Case {
            history: true,
            first: None,
        },
        Case {
            history: true,
            first: Some(first),
        },
        Case {
            history: false,
            first: Some(padded),
        },
    ]
}

impl Case {
    fn run(&self, x: &[f64], weight: &[f64], dtype: DType, tracked: bool) -> (Tensor<3>, Tensor<2>, Tensor<3>) {
        let [b, s, c, taps] = SIZES;
        let (x, weight) = (
            leaf(x, [b, s, c], dtype, tracked),
            leaf(weight, [c, taps], dtype, tracked),
        );
        let past = values(b * (taps - 1) * c, 7);
        let history = self.history.then(|| leaf(&past, [b, taps - 1, c], dtype, false));
        let first = self.first.as_ref().map(|first| ints(first, [b, s]));
        let y = causal_conv(x.clone(), weight.clone(), history, first);
        (x, weight, y)
    }

    fn definition(&self, x: &[f64], weight: &[f64]) -> Vec<f64> {
        let [b, s, c, taps] = SIZES;
        let past = values(b * (taps - 1) * c, 7);
        let mut out = Vec::new();
        for row in 0..b {
            for column in 0..s {
                let first = self.first.as_ref().map_or(i64::MIN, |first| first[row * s + column]);
                for channel in 0..c {
                    let mut sum = 0.0;
                    for tap in 0..taps {
                        let at = (column + tap) as i64 - 3;
                        let read = match () {
                            () if at < first => 0.0,
                            () if at >= 0 => x[(row * s + at as usize) * c + channel],
                            () if self.history => past[(row * 3 + (at + 3) as usize) * c + channel],
                            () => 0.0,
                        };
                        sum += weight[channel * taps + tap] * read;
                    }
                    out.push(sum / (1.0 + (-sum).exp()));
                }
            }
        }
        out
    }
}

#[test]
fn values_and_gradients_are_the_definitions_oracle() {
    let [b, s, c, taps] = SIZES;
    let (x, weight) = (values(b * s * c, 1), values(c * taps, 2));
    let weights = values(b * s * c, 3);
    for case in cases() {
        let expected = case.definition(&x, &weight);
        let to_x = numeric(&x, |x| dot(&case.definition(x, &weight), &weights));
        let to_weight = numeric(&weight, |weight| dot(&case.definition(&x, weight), &weights));
        for (dtype, bound) in [(DType::F64, 1e-7), (DType::F32, 5e-6)] {
            let (x, weight, y) = case.run(&x, &weight, dtype, true);
            close(&to_vec(y.clone()), &expected, bound, "y");
            let gradients = backward(y, &weights);
            close(&gradient(&x, &gradients).unwrap(), &to_x, bound, "dx");
            close(&gradient(&weight, &gradients).unwrap(), &to_weight, bound, "dw");
        }
    }
}

#[test]
fn a_frozen_weight_gets_no_gradient() {
    let [b, s, c, taps] = SIZES;
    let x = leaf(&values(b * s * c, 1), [b, s, c], DType::F32, true);
    let weight = leaf(&values(c * taps, 2), [c, taps], DType::F32, false);
    let gradients = backward(
        causal_conv(x.clone(), weight.clone(), None, None),
        &values(b * s * c, 3),
    );
    assert!(gradient(&x, &gradients).is_some() && gradient(&weight, &gradients).is_none());
}
