//! The gradient to a table of embeddings; norm and scaling of many tensors.
use super::{card, compare, floats, gpu, rounded, tensor, tensor_of, types};
use crate::testing::values;
use crate::{Many, embedding};
use burn::tensor::{Device, FloatDType, Int, Tensor, TensorData};

/// `n` ids below `rows`, the first ones often.
fn ids(n: usize, rows: usize) -> Vec<i64> {
    let drawn = values(n, 7).into_iter();
    drawn.map(|v| ((v * v * v).abs() * rows as f64) as i64).collect()
}

#[test]
fn gradients_to_embeddings_are_those_of_the_cpu() {
    for (dtype, bound) in types() {
        // One number, rows of odd length, more positions than a cube has units, rows longer than a cube.
        for [n, rows, d] in [[1, 1, 1], [9, 5, 33], [700, 40, 24], [3, 2, 3000], [530, 7, 1030]] {
            let run = |device: &Device, dtype: FloatDType| {
                let table = tensor_of(device, &rounded(values(rows * d, 1)), [rows, d], dtype).require_grad();
                let ids = Tensor::<1, Int>::from_data(TensorData::new(ids(n, rows), [n]), device);
                let found = embedding(table.clone(), ids);
                let weights = tensor_of(device, &rounded(values(n * d, 3)), [n, d], dtype);
                let gradients = (found.clone() * weights).sum().backward();
                vec![found.into_data(), table.grad(&gradients).unwrap().into_data()]
            };
            let case = format!("{n} of {rows} rows of {d}");
            compare(run, dtype, bound * (n as f64).sqrt(), &["rows", "dE"], &case);
        }
    }
}

#[test]
fn one_token_everywhere_is_the_sum_of_all_positions() {
    let device = gpu();
    let (n, d) = (1000, 8);
    let table = tensor(&device, &values(3 * d, 1), [3, d]).require_grad();
    let ids = Tensor::<1, Int>::from_data(TensorData::new(vec![2i64; n], [n]), &device);
    let gradients = embedding(table.clone(), ids).sum().backward();
    let got = floats(table.grad(&gradients).unwrap());
    if card().is_some_and(|card| card == "null") {
        return;
    }
    assert_eq!(got, [vec![0.0; 2 * d], vec![n as f64; d]].concat());
}

/// More than one launch takes, of odd and even lengths, one beyond what a cube takes at a time, and one that is a view.
fn many(device: &Device, dtype: FloatDType) -> (Vec<Tensor<2>>, Tensor<1>) {
    let shapes = [[8, 16], [3, 11], [1, 1], [300, 400], [64, 64], [5, 8], [16, 2], [7, 9]];
    let shapes = shapes.into_iter().chain([[40, 8]; 40]);
    let of = |(i, [n, d]): (usize, [usize; 2])| tensor_of(device, &rounded(values(n * d, i as u64)), [n, d], dtype);
    let mut all: Vec<_> = shapes.enumerate().map(of).collect();
    all.push(tensor_of(device, &rounded(values(96, 40)), [8, 12], dtype).transpose());
    (all, tensor_of(device, &rounded(values(50, 41)), [50], dtype))
}

#[test]
fn norms_of_many_are_those_of_each() {
    for (dtype, _) in types() {
        let device = gpu().inner();
        let (all, last) = many(&device, dtype);
        let sum = |x: Vec<f64>| x.into_iter().map(|v| v * v).sum::<f64>();
        let want = all.iter().map(|x| sum(floats(x.clone()))).sum::<f64>() + sum(floats(last.clone()));
        let mut gathered = Many::default();
        for x in all {
            gathered.push(x).unwrap();
        }
        gathered.push(last).unwrap();
        let [first, again] = [0, 1].map(|_| floats(gathered.sum_of_squares().unwrap())[0]);
        if card().is_none_or(|card| card != "null") {
            assert!((first - want).abs() < 1e-5 * want, "{first} for {want}, {dtype:?}");
            assert_eq!(first, again);
        }
    }
}

#[test]
fn scaled_together_are_scaled_each() {
    for (dtype, bound) in types() {
        let device = gpu().inner();
        let (all, last) = many(&device, dtype);
        let held = all[0].clone();
        let before: Vec<_> = all.iter().map(|x| (x.dims(), floats(x.clone()))).collect();
        let last_before = floats(last.clone());
        let mut gathered = Many::default();
        for x in all {
            gathered.push(x).unwrap();
        }
        gathered.push(last).unwrap();
        let mut scaled = gathered.scale(&tensor(&device, &[0.375], [1]));
        let same = |got: &[f64], before: &[f64], case: &str| {
            let want: Vec<_> = before.iter().map(|v| v * 0.375).collect();
            if card().is_none_or(|card| card != "null") {
                crate::testing::close(got, &want, bound, case);
            }
        };
        for (i, (dims, before)) in before.iter().enumerate() {
            let got = scaled.take::<2>().unwrap();
            assert_eq!(got.dims(), *dims);
            same(&floats(got), before, &format!("{i}, {dtype:?}"));
        }
        same(&floats(scaled.take::<1>().unwrap()), &last_before, "the last");
        assert!(scaled.take::<1>().is_none());
        assert_eq!(floats(held), before[0].1, "what others hold stays as it is");
    }
}

#[test]
fn what_lies_on_the_cpu_is_given_back() {
    let mut gathered = Many::default();
    assert!(gathered.push(tensor(&Device::flex(), &[1.0], [1])).is_err());
    assert!(gathered.is_empty() && gathered.sum_of_squares().is_none());
}
