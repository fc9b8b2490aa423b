//! Unpacking as a composition of Burn's operations, for every backend that has u32.
use crate::packed::{Codes, Form, INVERSE_127, Nested, ScaleCodes};
use crate::portable::Val;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Scalar, TensorMetadata};
use burn::tensor::{IntDType, Shape, Slice, TensorData};

/// Where in a word the eight 4-bit codes begin, in the order of the values: the upper half of each byte first.
const NIBBLES: [u32; 8] = [4, 0, 12, 8, 20, 16, 28, 24];
/// The same for four bytes.
const BYTES: [u32; 4] = [0, 8, 16, 24];

pub(super) fn unpack<B: Backend>(
    words: IntTensor<B>,
    scales: FloatTensor<B>,
    codes: ScaleCodes<B>,
    form: Form,
) -> FloatTensor<B> {
    let scales = match (codes, form.nested) {
        (ScaleCodes::Words(codes), Some(nested)) => nested_scales::<B>(codes, Val(scales), nested, form.scales()),
        _ => Val(scales),
    };
    let n = form.len();
    let values = match form.codes {
        Codes::Four { table, .. } => look_up::<B>(split::<B>(words, &NIBBLES, 15, n), table),
        Codes::Eight => {
            let signed: [f32; 256] = std::array::from_fn(|code| f32::from(code as u8 as i8));
            look_up::<B>(split::<B>(words, &BYTES, 255, n), &signed)
        }
    };
    let values = (values * spread::<B>(scales, form.block(), n)).reshape(&[form.rows, form.cols]);
    match form.codes {
        Codes::Four { .. } => values.0,
        Codes::Eight => values.scale(f64::from(INVERSE_127)).0,
    }
}

fn nested_scales<B: Backend>(codes: IntTensor<B>, absmax: Val<B>, nested: Nested, n: usize) -> Val<B> {
    let shares = look_up::<B>(split::<B>(codes, &BYTES, 255, n), nested.map);
    (shares * spread::<B>(absmax, nested.block, n)).shift(f64::from(nested.offset))
}

/// The first `n` fields of every word, in order: `[words]` u32 -> `[n]` i32.
fn split<B: Backend>(words: IntTensor<B>, shifts: &[u32], mask: u32, n: usize) -> IntTensor<B> {
    let count = words.shape().num_elements();
    let field = |shift: &u32| {
        let shifted = B::bitwise_right_shift_scalar(words.clone(), Scalar::from(*shift));
        let field = B::bitwise_and_scalar(shifted, Scalar::from(mask));
        B::int_reshape(B::int_cast(field, IntDType::I32), Shape::new([count, 1]))
    };
    let fields = B::int_cat(shifts.iter().map(field).collect(), 1); // [words, fields]
    let flat = B::int_reshape(fields, Shape::new([count * shifts.len()]));
    B::int_slice(flat, &[Slice::new(0, Some(n as isize), 1)])
}

/// `table[index]` for every index.
fn look_up<B: Backend>(indices: IntTensor<B>, table: &[f32]) -> Val<B> {
    let table = TensorData::new(table.to_vec(), [table.len()]);
    let table = B::float_from_data(table, &indices.device());
    Val(B::float_select(table, 0, indices))
}

/// Every scale `block` times, `n` in all: `[scales]` -> `[n]`.
fn spread<B: Backend>(scales: Val<B>, block: usize, n: usize) -> Val<B> {
    let count = scales.dims()[0];
    let wide = B::float_expand(scales.reshape(&[count, 1]).0, Shape::new([count, block]));
    Val::<B>(wide).reshape(&[count * block]).narrow(0, 0, n)
}
