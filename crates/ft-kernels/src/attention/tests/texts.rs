//! Texts that are seen as a whole: encoders.
use super::{Case, PLAIN};
use burn::tensor::DType;

#[test]
fn whole_texts_side_by_side_and_padding_behind_them() {
    // One text; two texts and a column of padding, which sees itself.
    let case = Case {
        first: Some(vec![0, 0, 0, 0, 0, 0, 0, 2, 2, 4]),
        last: Some(vec![4, 4, 4, 4, 4, 1, 1, 3, 3, 4]),
        ..PLAIN
    };
    case.check_all();
    Case {
        hq: 3,
        hkv: 3,
        d: 5,
        ..case.clone()
    }
    .check_all();
    case.check(DType::F32, [false, true, false]);
    // Few queries, which are read once.
    Case {
        s: 2,
        first: Some(vec![0, 0, 0, 1]),
        last: Some(vec![1, 1, 0, 1]),
        ..PLAIN
    }
    .check_all();
    // More than a block of queries, and tiles of keys.
    let s = 100;
    let (first, last): (Vec<i64>, Vec<i64>) = (0..s as i64)
        .map(|i| (i / 70 * 70, if i < 70 { 69 } else { 99 }))
        .unzip();
    Case {
        b: 1,
        s,
        hq: 1,
        hkv: 1,
        d: 2,
        first: Some(first),
        last: Some(last),
        ..PLAIN
    }
    .check(DType::F32, [false; 3]);
}
