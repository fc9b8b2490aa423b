//! Attention of every kind of mask, layout and size.
use super::{compare, rounded, tensor_of, types};
use crate::testing::values;
use crate::{Mask, attention};
use burn::tensor::{Device, FloatDType, Int, Tensor, TensorData};

struct Case {
    name: &'static str,
    b: usize,
    s: usize,
    hq: usize,
    hkv: usize,
    d: usize,
    offset: usize,
    window: Option<usize>,
    prefix: usize,
    /// Lengths of the documents of every row, where rows hold several.
    documents: Option<usize>,
    /// Whole texts: how far a position sees to both sides.
    texts: Option<usize>,
    /// Keys beyond the last column.
    spare: usize,
}

const PLAIN: Case = Case {
    name: "plain",
    b: 1,
    s: 5,
    hq: 1,
    hkv: 1,
    d: 8,
    offset: 0,
    window: None,
    prefix: 0,
    documents: None,
    texts: None,
    spare: 0,
};

fn cases() -> Vec<Case> {
    vec![
        PLAIN,
        Case {
            name: "one token",
            s: 1,
            d: 16,
            ..PLAIN
        },
        Case {
            name: "one number",
            s: 3,
            d: 1,
            ..PLAIN
        },
        Case {
            name: "odd heads",
            b: 2,
            s: 19,
            hq: 6,
            hkv: 2,
            d: 33,
            ..PLAIN
        },
        Case {
            name: "several tiles",
            b: 2,
            s: 75,
            hq: 4,
            hkv: 2,
            d: 64,
            ..PLAIN
        },
        Case {
            name: "wide heads",
            s: 40,
            hq: 2,
            d: 128,
            ..PLAIN
        },
        Case {
            name: "wider heads",
            s: 23,
            hq: 2,
            hkv: 2,
            d: 256,
            ..PLAIN
        },
        Case {
            name: "a window",
            s: 70,
            hq: 2,
            d: 32,
            window: Some(17),
            ..PLAIN
        },
        Case {
            name: "a window after a cache",
            s: 40,
            hq: 2,
            d: 32,
            offset: 45,
            window: Some(33),
            ..PLAIN
        },
        Case {
            name: "documents",
            b: 2,
            s: 90,
            hq: 4,
            hkv: 2,
            d: 32,
            documents: Some(29),
            ..PLAIN
        },
        Case {
            name: "documents with a window",
            s: 90,
            d: 16,
            documents: Some(31),
            window: Some(31),
            ..PLAIN
        },
        Case {
            name: "a prefix",
            s: 50,
            hq: 2,
            d: 16,
            prefix: 7,
            ..PLAIN
        },
        Case {
            name: "a prefix, documents and a cache",
            b: 2,
            s: 33,
            hq: 2,
            d: 16,
            prefix: 5,
            documents: Some(10),
            offset: 12,
            ..PLAIN
        },
        Case {
            name: "decoding in a longer cache",
            b: 2,
            s: 1,
            hq: 4,
            hkv: 2,
            d: 64,
            offset: 100,
            spare: 27,
            ..PLAIN
        },
        Case {
            name: "decoding by parts",
            b: 2,
            s: 1,
            hq: 8,
            hkv: 2,
            d: 64,
            offset: 700,
            ..PLAIN
        },
        Case {
            name: "decoding by parts of odd heads",
            s: 1,
            hq: 3,
            d: 33,
            offset: 256,
            ..PLAIN
        },
        Case {
            name: "decoding by parts with a window",
            s: 1,
            hq: 2,
            d: 80,
            offset: 900,
            window: Some(150),
            ..PLAIN
        },
        Case {
            name: "decoding by parts, a prefix and documents",
            b: 3,
            s: 1,
            hq: 2,
            d: 32,
            prefix: 6,
            offset: 610,
            documents: Some(400),
            ..PLAIN
        },
        Case {
            name: "decoding with more heads than parts take",
            s: 1,
            hq: 16,
            d: 32,
            offset: 300,
            ..PLAIN
        },
        Case {
            name: "whole texts",
            b: 2,
            s: 75,
            hq: 4,
            hkv: 2,
            d: 64,
            texts: Some(1000),
            ..PLAIN
        },
        Case {
            name: "whole texts of a position",
            b: 2,
            s: 1,
            d: 16,
            texts: Some(1000),
            ..PLAIN
        },
        Case {
            name: "texts with a window to both sides",
            b: 3,
            s: 140,
            hq: 2,
            hkv: 2,
            d: 32,
            texts: Some(9),
            ..PLAIN
        },
        Case {
            name: "texts of odd heads with a window",
            b: 2,
            s: 41,
            hq: 3,
            d: 33,
            texts: Some(20),
            ..PLAIN
        },
        Case {
            name: "a longer cache",
            b: 2,
            s: 20,
            hq: 2,
            d: 64,
            offset: 30,
            spare: 14,
            ..PLAIN
        },
    ]
}

impl Case {
    fn mask(&self, device: &Device) -> Mask {
        let first = self.documents.map(|length| {
            // Every row begins with padding that nobody sees.
            let column = |at: usize| (self.offset + at % self.s) / length * length + (at / self.s) + 1;
            let first: Vec<i64> = (0..self.b * self.s).map(|at| column(at) as i64).collect();
            Tensor::<2, Int>::from_data(TensorData::new(first, [self.b, self.s]), device)
        });
        let texts = self.texts.map(|reach| self.texts(reach, device));
        let (first, last) = texts.map_or((first, None), |[first, last]| (Some(first), Some(last)));
        Mask {
            offset: self.offset,
            window: self.window,
            first,
            last,
            prefix: self.prefix,
        }
    }

    /// Two texts a row, then padding, every position of which sees itself; one that sees nothing ends the last row.
    fn texts(&self, reach: usize, device: &Device) -> [Tensor<2, Int>; 2] {
        let (mut first, mut last) = (vec![], vec![]);
        for row in 0..self.b {
            let (middle, end) = (self.s / 3, self.s - (4 * row).min(self.s - 1));
            for i in 0..self.s {
                let (start, stop) = match i {
                    _ if i < middle => (0, middle),
                    _ if i < end => (middle, end),
                    _ => (i, i + 1),
                };
                first.push(start.max(i.saturating_sub(reach)) as i64);
                last.push((stop - 1).min(i + reach) as i64);
            }
        }
        if self.b > 1 && self.s > 1 {
            *last.last_mut().unwrap() = -1;
        }
        let columns = |values| Tensor::from_data(TensorData::new(values, [self.b, self.s]), device);
        [first, last].map(columns)
    }
}

#[test]
fn outputs_and_gradients_are_those_of_the_cpu() {
    for case in cases() {
        for (dtype, bound) in types() {
            let run = |device: &Device, dtype: FloatDType| {
                let Case { b, s, hq, hkv, d, .. } = case;
                let t = case.prefix + case.offset + s;
                let leaf = |seed, dims: [usize; 4]| {
                    let values = rounded(values(dims.iter().product(), seed));
                    tensor_of(device, &values, dims, dtype)
                };
                let q = leaf(1, [b, s, hq, d]).require_grad();
                let [k, v] = [2, 3].map(|seed| leaf(seed, [b, t + case.spare, hkv, d]));
                // Part of a cache: its rows are not one after the other.
                let [k, v] = [k, v].map(|x| x.narrow(1, 0, t).require_grad());
                let scale = 1.0 / (d as f64).sqrt();
                let y = attention(
                    q.clone(),
                    k.clone(),
                    v.clone(),
                    &case.mask(&device.clone().inner()),
                    scale,
                );
                let gradients = (y.clone() * leaf(4, [b, s, hq, d])).sum().backward();
                let mut all = vec![y.into_data()];
                all.extend([q, k, v].map(|x| x.grad(&gradients).unwrap().into_data()));
                all
            };
            compare(run, dtype, bound * 3.0, &["y", "dq", "dk", "dv"], case.name);
        }
    }
}

/// Sums have one order: no atomics.
#[test]
fn gradients_are_the_same_every_time() {
    let device = super::gpu();
    let run = || {
        let leaf = |seed| tensor_of(&device, &values(2 * 70 * 2 * 32, seed), [2, 70, 2, 32], FloatDType::F32);
        let [q, k, v] = [1, 2, 3].map(|seed| leaf(seed).require_grad());
        let gradients = attention(q.clone(), k.clone(), v.clone(), &Mask::default(), 0.2)
            .sum()
            .backward();
        [q, k, v].map(|x| super::floats(x.grad(&gradients).unwrap()))
    };
    assert!(run() == run());
}
