//! Documents that share a row: each is attended to as if it were alone.
use super::{Case, PLAIN};
use crate::attention::attention;
use crate::testing::{backward, close, gradient, leaf, to_vec, values};
use burn::tensor::{DType, Tensor};
use std::ops::Range;

/// The first column of the document of each column.
fn first(lengths: &[usize]) -> Vec<i64> {
    let starts = lengths.iter().scan(0, |end, length| {
        *end += length;
        Some(*end - length)
    });
    let columns = starts.zip(lengths);
    columns
        .flat_map(|(start, length)| std::iter::repeat_n(start as i64, *length))
        .collect()
}

/// Two rows of documents.
fn packed(rows: [&[usize]; 2], window: Option<usize>, prefix: usize) -> Case {
    let s = rows[0].iter().sum();
    assert_eq!(s, rows[1].iter().sum::<usize>());
    Case {
        s,
        window,
        prefix,
        first: Some(rows.iter().flat_map(|lengths| first(lengths)).collect()),
        ..PLAIN
    }
}

#[test]
fn documents_of_odd_lengths_and_of_one_token_equal_the_oracle() {
    let rows: [&[usize]; 2] = [&[1, 3, 1, 1, 5], &[7, 1, 2, 1]];
    packed(rows, None, 0).check_all();
    packed(rows, Some(2), 0).check_all();
    packed(rows, Some(7), 0).check_all();
    packed(rows, None, 2).check_all();
    packed(rows, Some(3), 2).check_all();
}

/// The output and the gradients to q, k and v of some columns of one row.
fn run(case: &Case, dtype: DType, row: usize, columns: Range<usize>, packed: bool) -> Vec<Vec<f64>> {
    let Case { b, s, hq, hkv, d, .. } = *case;
    let [q, k, v] = case.inputs();
    let weights = values(q.len(), 4);
    let part = |x: &[f64], heads: usize| match packed {
        true => x.to_vec(),
        false => x[(row * s + columns.start) * heads * d..(row * s + columns.end) * heads * d].to_vec(),
    };
    let [b, n] = if packed { [b, s] } else { [1, columns.len()] };
    let tensor = |x: &[f64], heads| leaf(&part(x, heads), [b, n, heads, d], dtype, true);
    let (q, k, v): (Tensor<4>, Tensor<4>, Tensor<4>) = (tensor(&q, hq), tensor(&k, hkv), tensor(&v, hkv));
    let own = Case {
        b,
        s: n,
        first: case.first.clone().filter(|_| packed),
        ..case.clone()
    };
    let y = attention(q.clone(), k.clone(), v.clone(), &own.mask(), case.scale());
    let grads = backward(y.clone(), &part(&weights, hq));
    let all = [
        to_vec(y),
        gradient(&q, &grads).unwrap(),
        gradient(&k, &grads).unwrap(),
        gradient(&v, &grads).unwrap(),
    ];
    all.to_vec()
}

/// More queries than a block, documents that end inside, at and behind its border; the fused code in f32 and the composition in f64,
/// against each document alone in f64.
#[test]
fn long_rows_equal_each_document_alone() {
    let rows: [&[usize]; 2] = [&[1, 47, 48, 1, 60, 143], &[100, 3, 1, 1, 129, 66]];
    for (window, groups) in [(None, 2), (Some(30), 2), (Some(143), 1)] {
        let case = Case {
            d: 16,
            hkv: 2,
            hq: 2 * groups,
            ..packed(rows, window, 0)
        };
        for (dtype, bound) in [(DType::F32, 1e-5), (DType::F64, 1e-10)] {
            let together = run(&case, dtype, 0, 0..case.s, true);
            for (row, lengths) in rows.iter().enumerate() {
                let mut start = 0;
                for length in *lengths {
                    let columns = start..start + length;
                    start += length;
                    let alone = run(&case, DType::F64, row, columns.clone(), false);
                    for (i, (alone, together)) in alone.iter().zip(&together).enumerate() {
                        let width = together.len() / (case.b * case.s);
                        let cells = (row * case.s + columns.start) * width..(row * case.s + columns.end) * width;
                        let what = format!("{i} of document {columns:?} in row {row}, {dtype:?}, window {window:?}");
                        close(&together[cells], alone, bound, &what);
                    }
                }
            }
        }
    }
}
