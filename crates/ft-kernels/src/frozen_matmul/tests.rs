use super::portable;
use super::{frozen_matmul, unpack};
use crate::linear;
use crate::packed::{Codes, Form, Nested, Packed, ScaleCodes};
use crate::testing::{backward, close, device, gradient, leaf, to_vec, tolerance, values};
use burn::backend::Flex;
use burn::tensor::{DType, Tensor, TensorData};

pub(crate) static TABLE: [f32; 16] = [
    -1.0, -0.7, -0.5, -0.4, -0.3, -0.2, -0.1, 0.0, 0.08, 0.16, 0.25, 0.34, 0.44, 0.56, 0.72, 1.0,
];
static MAP: [f32; 256] = {
    let mut map = [0.0; 256];
    let mut i = 0;
    while i < 256 {
        map[i] = (i as f32 - 127.0) / 128.0;
        i += 1;
    }
    map
};

fn words(bytes: &[u8]) -> Tensor<1, burn::tensor::Int> {
    let word = |b: &[u8]| u32::from_le_bytes(std::array::from_fn(|i| b.get(i).copied().unwrap_or(0)));
    let words: Vec<u32> = bytes.chunks(4).map(word).collect();
    let len = words.len();
    Tensor::from_data(TensorData::new(words, [len]), (&device(), DType::U32))
}

fn bytes(n: usize, seed: u32) -> Vec<u8> {
    (0..n as u32)
        .map(|i| ((i + seed).wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect()
}

/// A packed matrix and its values, from the definition.
pub(crate) fn packed(rows: usize, cols: usize, codes: Codes, nested: bool) -> (Packed, Vec<f32>) {
    let nested = nested.then_some(Nested {
        map: &MAP,
        block: 256,
        offset: 1.5,
    });
    let form = Form {
        rows,
        cols,
        codes,
        nested,
    };
    let (n, count) = (form.len(), form.scales());
    let data = bytes(if codes == Codes::Eight { n } else { n.div_ceil(2) }, 1);
    let scale_codes = bytes(count, 2);
    let stored = count.div_ceil(if nested.is_some() { 256 } else { 1 });
    let stored: Vec<f32> = (0..stored).map(|i| 0.5 + (i % 7) as f32 * 0.1).collect();
    let scale = |i: usize| match nested {
        None => stored[i],
        Some(nested) => MAP[usize::from(scale_codes[i])] * stored[i / 256] + nested.offset,
    };
    let value = |i: usize| match codes {
        Codes::Four { block, .. } => {
            let code = (data[i / 2] >> if i.is_multiple_of(2) { 4 } else { 0 }) & 15;
            TABLE[usize::from(code)] * scale(i / block)
        }
        Codes::Eight => f32::from(data[i] as i8) * scale(i / cols) * crate::packed::INVERSE_127,
    };
    let dense = (0..n).map(value).collect();
    let packed = Packed {
        words: words(&data),
        scales: Tensor::from_data(TensorData::new(stored.clone(), [stored.len()]), &device()),
        scale_codes: nested.map(|_| words(&scale_codes)),
        form,
    };
    (packed, dense)
}

const FOUR: Codes = Codes::Four {
    table: &TABLE,
    block: 64,
};

/// Blocks inside rows, across rows, a short last block, an odd number of values, several slabs.
pub(crate) const CASES: [(usize, usize, Codes, bool); 8] = [
    (4, 128, FOUR, false),
    (33, 65, FOUR, false),
    (7, 101, FOUR, true),
    (300, 96, FOUR, true),
    (5, 37, Codes::Eight, false),
    (64, 64, Codes::Eight, false),
    (1200, 2048, FOUR, true),
    (1200, 2048, Codes::Eight, false),
];

#[test]
fn unpacking_is_exact_on_both_paths() {
    for (rows, cols, codes, nested) in CASES {
        let (packed, dense) = packed(rows, cols, codes, nested);
        let got = unpack(&packed).into_data().try_to_vec::<f32>().unwrap();
        assert!(got == dense, "{rows}x{cols} {codes:?}: the fused path differs");
        let flex = |data: TensorData| burn::backend::flex::FlexTensor::from_data(data);
        let slow = portable::unpack::<Flex>(
            flex(packed.words.to_data()),
            flex(packed.scales.to_data()),
            match &packed.scale_codes {
                None => ScaleCodes::Absent,
                Some(codes) => ScaleCodes::Words(flex(codes.to_data())),
            },
            packed.form,
        );
        let slow = slow.into_data().try_to_vec::<f32>().unwrap();
        assert!(slow == dense, "{rows}x{cols} {codes:?}: the portable path differs");
    }
}

#[test]
fn products_and_gradients_are_those_of_the_dense_oracle() {
    for (rows, cols, codes, nested) in CASES {
        let (packed, dense) = packed(rows, cols, codes, nested);
        let dense: Vec<f64> = dense.into_iter().map(f64::from).collect();
        for (n, dtype) in [(1, DType::F32), (8, DType::F32), (23, DType::F32), (3, DType::F64)] {
            let x = values(n * cols, 3);
            let run = |packed: Option<&Packed>| {
                let x = leaf(&x, [1, n, cols], dtype, true);
                let y = match packed {
                    Some(packed) => frozen_matmul(x.clone(), packed),
                    None => linear(x.clone(), leaf(&dense, [rows, cols], dtype, false)),
                };
                let grads = backward(y.clone(), &values(n * rows, 4));
                (to_vec(y), gradient(&x, &grads).unwrap())
            };
            let ((y, dx), (want_y, want_dx)) = (run(Some(&packed)), run(None));
            let bound = tolerance(dtype).max(1e-5) * (rows.max(cols) as f64).sqrt();
            close(&y, &want_y, bound, &format!("y of {rows}x{cols}, {n} rows, {dtype:?}"));
            close(
                &dx,
                &want_dx,
                bound,
                &format!("dx of {rows}x{cols}, {n} rows, {dtype:?}"),
            );
        }
    }
}

#[test]
fn nothing_is_tracked_for_a_constant_input() {
    let (packed, _) = packed(4, 128, FOUR, false);
    let y = frozen_matmul(leaf(&values(256, 3), [2, 128], DType::F32, false), &packed);
    assert!(!y.is_require_grad());
    assert!(!unpack(&packed).is_require_grad());
}
