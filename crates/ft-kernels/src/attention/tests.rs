use super::{First, Mask, Scale, Span, attention, portable};
use crate::testing::{backward, close, dot, gradient, ints, leaf, numeric, to_vec, tolerance, values};
use burn::backend::Flex;
use burn::tensor::{DType, Tensor};

mod packed;
mod rotary;
mod scoring;
mod texts;

/// The sizes of a call and its mask.
#[derive(Debug, Clone)]
struct Case {
    b: usize,
    s: usize,
    hq: usize,
    hkv: usize,
    d: usize,
    offset: usize,
    window: Option<usize>,
    first: Option<Vec<i64>>,
    last: Option<Vec<i64>>,
    prefix: usize,
    cap: Option<f64>,
    sinks: Option<Vec<f64>>,
}

const PLAIN: Case = Case {
    b: 2,
    s: 5,
    hq: 4,
    hkv: 2,
    d: 6,
    offset: 0,
    window: None,
    first: None,
    last: None,
    prefix: 0,
    cap: None,
    sinks: None,
};

impl Case {
    fn t(&self) -> usize {
        self.prefix + self.offset + self.s
    }

    fn mask(&self) -> Mask {
        let columns = |of: &Option<Vec<i64>>| of.as_ref().map(|f| ints(f, [self.b, self.s]));
        Mask {
            offset: self.offset,
            window: self.window,
            first: columns(&self.first),
            last: columns(&self.last),
            prefix: self.prefix,
        }
    }

    fn scale(&self) -> f64 {
        1.0 / (self.d as f64).sqrt()
    }

    fn sees(&self, b: usize, i: usize, j: usize) -> bool {
        if j < self.prefix {
            return true;
        }
        let column = (j - self.prefix) as i64;
        let position = (self.offset + i) as i64;
        let from_first = self.first.as_ref().map_or(0, |f| f[b * self.s + i]);
        let from_window = self.window.map_or(0, |w| position + 1 - w as i64);
        column >= from_first.max(from_window)
            && column <= self.last.as_ref().map_or(position, |last| last[b * self.s + i])
    }

    /// The definition, one score at a time.
    fn oracle(&self, q: &[f64], k: &[f64], v: &[f64]) -> Vec<f64> {
        let Case { b, s, hq, hkv, d, .. } = *self;
        let t = self.t();
        let mut out = vec![0.0; b * s * hq * d];
        for (at, out) in out.chunks_mut(d).enumerate() {
            let (batch, i, head) = (at / (s * hq), at / hq % s, at % hq);
            let row = |x: &[f64], j: usize| x[((batch * t + j) * hkv + head / (hq / hkv)) * d..][..d].to_vec();
            let seen: Vec<usize> = (0..t).filter(|&j| self.sees(batch, i, j)).collect();
            let e: Vec<f64> = seen
                .iter()
                .map(|&j| self.scale() * dot(&q[at * d..][..d], &row(k, j)))
                .map(|score| self.cap.map_or(score, |cap| cap * (score / cap).tanh()).exp())
                .collect();
            let sum: f64 = e.iter().sum::<f64>() + self.sinks.as_ref().map_or(0.0, |sinks| sinks[head].exp());
            for (&j, e) in seen.iter().zip(&e) {
                out.iter_mut().zip(row(v, j)).for_each(|(o, v)| *o += e / sum * v);
            }
        }
        out
    }

    fn inputs(&self) -> [Vec<f64>; 3] {
        let keys = self.b * self.t() * self.hkv * self.d;
        [
            values(self.b * self.s * self.hq * self.d, 1),
            values(keys, 2),
            values(keys, 3),
        ]
    }

    fn tensors(&self, dtype: DType, tracked: [bool; 3]) -> [Tensor<4>; 3] {
        let [q, k, v] = self.inputs();
        let keys = [self.b, self.t(), self.hkv, self.d];
        [
            leaf(&q, [self.b, self.s, self.hq, self.d], dtype, tracked[0]),
            leaf(&k, keys, dtype, tracked[1]),
            leaf(&v, keys, dtype, tracked[2]),
        ]
    }

    fn check(&self, dtype: DType, tracked: [bool; 3]) {
        let [q, k, v] = self.inputs();
        let [qt, kt, vt] = self.tensors(dtype, tracked);
        let y = attention(qt.clone(), kt.clone(), vt.clone(), &self.mask(), self.scale());
        let bound = tolerance(dtype);
        close(
            &to_vec(y.clone()),
            &self.oracle(&q, &k, &v),
            bound,
            &format!("{self:?}"),
        );
        if !tracked.contains(&true) {
            return;
        }
        let weights = values(q.len(), 4);
        let grads = backward(y, &weights);
        let want = [
            numeric(&q, |q| dot(&self.oracle(q, &k, &v), &weights)),
            numeric(&k, |k| dot(&self.oracle(&q, k, &v), &weights)),
            numeric(&v, |v| dot(&self.oracle(&q, &k, v), &weights)),
        ];
        let got = [gradient(&qt, &grads), gradient(&kt, &grads), gradient(&vt, &grads)];
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            assert_eq!(got.is_some(), tracked[i], "gradient {i}");
            if let Some(got) = got {
                close(got, want, bound.max(1e-7), &format!("gradient {i} of {self:?}"));
            }
        }
    }

    fn check_all(&self) {
        for dtype in [DType::F32, DType::F64] {
            self.check(dtype, [true; 3]);
            self.check(dtype, [false; 3]);
        }
    }
}

#[test]
fn causal_equals_the_oracle() {
    PLAIN.check_all();
}

#[test]
fn one_head_and_equal_heads() {
    for (hq, hkv, d) in [(1, 1, 6), (3, 3, 5), (4, 1, 6)] {
        Case { hq, hkv, d, ..PLAIN }.check_all();
    }
}

#[test]
fn gradients_only_where_tracked() {
    for tracked in [[true, false, false], [false, true, false], [false, false, true]] {
        PLAIN.check(DType::F32, tracked);
    }
}

#[test]
fn after_a_cache() {
    Case { offset: 3, ..PLAIN }.check_all();
    for s in 1..4 {
        Case { s, offset: 7, ..PLAIN }.check_all();
    }
}

#[test]
fn sliding_window_equals_the_oracle() {
    for window in [1, 2, 4, 100] {
        Case {
            window: Some(window),
            ..PLAIN
        }
        .check_all();
        Case {
            s: 2,
            window: Some(window),
            offset: 4,
            ..PLAIN
        }
        .check_all();
    }
}

#[test]
fn left_padding_and_packed_samples() {
    let first = vec![0, 0, 0, 0, 0, 2, 2, 2, 2, 2];
    Case {
        first: Some(first),
        ..PLAIN
    }
    .check_all();
    let packed = vec![0, 0, 2, 2, 2, 0, 1, 1, 3, 4];
    Case {
        first: Some(packed.clone()),
        ..PLAIN
    }
    .check_all();
    Case {
        first: Some(packed),
        window: Some(2),
        offset: 2,
        ..PLAIN
    }
    .check_all();
    Case {
        s: 1,
        first: Some(vec![0, 4]),
        offset: 6,
        ..PLAIN
    }
    .check_all();
}

#[test]
fn learned_prefix() {
    Case { prefix: 3, ..PLAIN }.check_all();
    Case {
        prefix: 2,
        offset: 4,
        window: Some(3),
        first: Some(vec![0, 0, 5, 5, 5, 1, 1, 1, 9, 9]),
        ..PLAIN
    }
    .check_all();
    Case {
        prefix: 2,
        s: 1,
        offset: 4,
        window: Some(3),
        first: Some(vec![0, 5]),
        ..PLAIN
    }
    .check_all();
}

#[test]
fn rows_that_see_nothing_are_zero() {
    let case = Case {
        first: Some(vec![3, 3, 3, 3, 3, 9, 9, 9, 9, 9]),
        ..PLAIN
    };
    case.check_all();
    let [q, k, v] = case.tensors(DType::F32, [true; 3]);
    let y = attention(q.clone(), k, v, &case.mask(), case.scale());
    let width = case.hq * case.d;
    assert_eq!(to_vec(y.clone())[..3 * width], vec![0.0; 3 * width]);
    let dq = gradient(&q, &backward(y, &vec![1.0; case.b * case.s * width])).unwrap();
    assert_eq!(dq[..3 * width], vec![0.0; 3 * width]);
    assert!(dq.iter().all(|g| g.is_finite()));
    Case {
        s: 1,
        first: Some(vec![1, 3]),
        offset: 1,
        ..PLAIN
    }
    .check_all();
}

/// Several blocks of queries and more keys than a panel; the oracle is the f64 composition.
#[test]
fn long_sequences_equal_the_composition() {
    let plain = Case {
        b: 2,
        s: 130,
        hq: 4,
        hkv: 2,
        d: 16,
        ..PLAIN
    };
    let windowed = Case {
        window: Some(40),
        offset: 20,
        ..plain.clone()
    };
    let first = (0..260).map(|i| (i % 130) / 50 * 50).collect();
    let packed = Case {
        first: Some(first),
        prefix: 5,
        ..plain.clone()
    };
    for case in [plain, windowed, packed] {
        let weights = values(case.b * case.s * case.hq * case.d, 9);
        let run = |dtype| {
            let [q, k, v] = case.tensors(dtype, [true; 3]);
            let y = attention(q.clone(), k.clone(), v.clone(), &case.mask(), case.scale());
            let out = to_vec(y.clone());
            let grads = backward(y, &weights);
            [
                out,
                gradient(&q, &grads).unwrap(),
                gradient(&k, &grads).unwrap(),
                gradient(&v, &grads).unwrap(),
            ]
        };
        for (i, (narrow, wide)) in run(DType::F32).iter().zip(&run(DType::F64)).enumerate() {
            close(narrow, wide, 1e-5, &format!("{i} of {case:?}"));
        }
    }
}

#[test]
fn decoding_over_several_chunks_of_keys_equals_the_oracle() {
    for s in [1, 3] {
        Case {
            s,
            offset: 1100,
            ..PLAIN
        }
        .check(DType::F32, [false; 3]);
        Case {
            s,
            offset: 1100,
            window: Some(700),
            prefix: 4,
            ..PLAIN
        }
        .check(DType::F32, [false; 3]);
    }
}

#[test]
fn keys_in_a_larger_cache_are_read_in_place() {
    let case = Case {
        s: 5,
        offset: 6,
        ..PLAIN
    };
    let [q, k, v] = case.tensors(DType::F32, [false; 3]);
    let whole = to_vec(attention(q.clone(), k.clone(), v.clone(), &case.mask(), case.scale()));
    let spare = |x: Tensor<4>| Tensor::cat(vec![x.clone(), x.mul_scalar(f32::NAN)], 1);
    let (k_long, v_long) = (spare(k).narrow(1, 0, case.t()), spare(v).narrow(1, 0, case.t()));
    assert_eq!(to_vec(attention(q, k_long, v_long, &case.mask(), case.scale())), whole);
}

#[test]
fn sixteen_bits_go_through_f32_softmax() {
    let [q, k, v] = PLAIN.tensors(DType::BF16, [true; 3]);
    let y = attention(q.clone(), k, v, &PLAIN.mask(), PLAIN.scale());
    assert_eq!(y.dtype(), DType::BF16);
    let [qv, kv, vv] = PLAIN.inputs();
    close(&to_vec(y.clone()), &PLAIN.oracle(&qv, &kv, &vv), 2e-2, "y");
    assert_eq!(q.grad(&backward(y, &values(qv.len(), 4))).unwrap().dtype(), DType::BF16);
}

#[test]
fn a_cache_of_another_type_is_cast() {
    let [q, _, _] = PLAIN.tensors(DType::F32, [true; 3]);
    let [_, k, v] = PLAIN.tensors(DType::BF16, [true; 3]);
    let y = attention(q, k.clone(), v, &PLAIN.mask(), PLAIN.scale());
    assert_eq!(y.dtype(), DType::F32);
    assert_eq!(k.grad(&y.sum().backward()).unwrap().dtype(), DType::BF16);
}

#[test]
fn gradients_do_not_depend_on_threads() {
    let case = Case { s: 100, d: 8, ..PLAIN };
    let run = || {
        let [q, k, v] = case.tensors(DType::F32, [true; 3]);
        let y = attention(q.clone(), k.clone(), v.clone(), &case.mask(), case.scale());
        let grads = backward(y, &values(case.b * case.s * case.hq * case.d, 4));
        (gradient(&q, &grads), gradient(&k, &grads), gradient(&v, &grads))
    };
    let with = |threads| {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap()
            .install(run)
    };
    assert_eq!(with(1), with(3));
}

/// The composition that other backends run, on the same f32 tensors.
#[test]
fn the_portable_composition_agrees_with_the_fused_code() {
    let case = Case {
        first: Some(vec![0, 0, 2, 2, 2, 0, 1, 1, 3, 4]),
        window: Some(3),
        ..PLAIN
    };
    let [q, k, v] = case.tensors(DType::F32, [false; 3]);
    let fused = to_vec(attention(q.clone(), k.clone(), v.clone(), &case.mask(), case.scale()));
    let raw = |t: Tensor<4>| crate::cpu::flex::tensor(to_vec(t.clone()).iter().map(|&x| x as f32).collect(), t.dims());
    let first = burn::tensor::TensorData::new(case.first.clone().unwrap(), [case.b, case.s]);
    let first = First::At(burn::backend::flex::FlexTensor::from_data(first));
    let span = Span {
        offset: 0,
        window: Some(3),
        prefix: 0,
    };
    let scale = Scale {
        factor: case.scale(),
        cap: None,
    };
    let (out, _) = portable::forward::<Flex>(raw(q), raw(k), raw(v), first, span, scale);
    let out: Vec<f64> = crate::cpu::flex::values(&out).iter().map(|&x| f64::from(x)).collect();
    close(&fused, &out, 1e-6, "out");
}
