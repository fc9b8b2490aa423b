//! The dynamic 8-bit data type on tensors, and its codes in memory.

use burn::tensor::{DType, Device, FloatDType, Int, IntDType, Tensor, TensorData};
use ft_quant::DynamicMap;

/// Numbers that share a scale.
pub(crate) const BLOCK: usize = 256;

/// What `codes` stand for: `[rows, BLOCK]` integers to f32.
pub(crate) fn decode(map: &DynamicMap, codes: Tensor<2, Int>) -> Tensor<2> {
    look_up(&map.values, codes)
}

/// The nearest codes, as [`DynamicMap::encode`] finds them: `[rows, BLOCK]` f32 to i32.
pub(crate) fn encode(map: &DynamicMap, values: &Tensor<2>) -> Tensor<2, Int> {
    let mut codes = Tensor::<2, Int>::zeros(values.dims(), (&values.device(), DType::I32));
    for step in [128, 64, 32, 16, 8, 4, 2, 1] {
        let middle = look_up(&map.middles, codes.clone().add_scalar(step - 1));
        let above = values.clone().greater(middle).int().cast(IntDType::I32);
        codes = codes + above.mul_scalar(step);
    }
    codes
}

/// `table[index]` for every index.
fn look_up(table: &[f32], indices: Tensor<2, Int>) -> Tensor<2> {
    let (dims, device) = (indices.dims(), indices.device());
    let table = Tensor::<1>::from_data(TensorData::new(table.to_vec(), [table.len()]), (&device, DType::F32));
    let flat = indices.cast(IntDType::I32).flatten::<1>(0, 1);
    table.select(0, flat).cast(FloatDType::F32).reshape(dims)
}

/// Codes in memory: four to a u32, which every device can hold, whole blocks.
#[derive(Debug, Clone)]
pub(crate) struct Codes(pub Tensor<1, Int>);

/// Where in a word its four codes begin.
const SHIFTS: [u32; 4] = [0, 8, 16, 24];

impl Codes {
    /// `len` codes, the last block filled up with `filler`.
    pub fn new(codes: &[u8], len: usize, filler: u8, device: &Device) -> Self {
        let padded = len.div_ceil(BLOCK) * BLOCK;
        let bytes = |i: usize| codes.get(i).copied().unwrap_or(filler);
        let words = (0..padded / 4).map(|w| u32::from_le_bytes(std::array::from_fn(|i| bytes(4 * w + i))));
        let words: Vec<u32> = words.collect();
        let count = words.len();
        Self(Tensor::from_data(TensorData::new(words, [count]), (device, DType::U32)))
    }

    /// `len` codes that are all `code`, made on the device.
    pub fn filled(code: u8, len: usize, device: &Device) -> Self {
        let words = len.div_ceil(BLOCK) * BLOCK / 4;
        let word = u32::from_le_bytes([code; 4]);
        Self(Tensor::full([words], word, (device, DType::U32)))
    }

    /// The first `len` codes.
    pub fn bytes(&self, len: usize) -> Vec<u8> {
        let words = self
            .0
            .to_data()
            .convert::<u32>()
            .try_to_vec::<u32>()
            .expect("made of u32");
        let mut bytes: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
        bytes.truncate(len);
        bytes
    }

    /// One integer per code: `[blocks, BLOCK]` i32.
    pub fn split(&self) -> Tensor<2, Int> {
        let words = self.0.dims()[0];
        let field = |shift: u32| {
            let field = self
                .0
                .clone()
                .bitwise_right_shift_scalar(shift)
                .bitwise_and_scalar(255u32);
            field.cast(IntDType::I32).reshape([words, 1])
        };
        let fields = Tensor::cat(SHIFTS.map(field).to_vec(), 1);
        fields.reshape([words * 4 / BLOCK, BLOCK])
    }

    /// The reverse of [`split`](Self::split).
    pub fn join(codes: Tensor<2, Int>) -> Self {
        let [blocks, block] = codes.dims();
        let words = blocks * block / 4;
        let codes = codes.reshape([words, 4]).cast(IntDType::U32);
        let field = |index: usize| {
            let field = codes.clone().narrow(1, index, 1).reshape([words]);
            field.bitwise_left_shift_scalar(SHIFTS[index])
        };
        let [a, b, c, d] = [0, 1, 2, 3].map(field);
        Self(a.bitwise_or(b).bitwise_or(c.bitwise_or(d)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ft_quant::{SIGNED, UNSIGNED};

    #[test]
    fn tensors_are_coded_as_slices_are() {
        let device = Device::flex();
        let values: Vec<f32> = (0..2 * BLOCK).map(|i| ((i as f32 - 250.0) / 260.0).powi(3)).collect();
        let tensor = Tensor::<2>::from_data(TensorData::new(values.clone(), [2, BLOCK]), &device);
        for map in [&*SIGNED, &*UNSIGNED] {
            let filled = Codes::filled(map.zero, 2 * BLOCK - 3, &device);
            assert_eq!(filled.bytes(2 * BLOCK), vec![map.zero; 2 * BLOCK]);
            let codes: Vec<u8> = values.iter().map(|v| map.encode(*v)).collect();
            let joined = Codes::join(encode(map, &tensor));
            assert_eq!(joined.bytes(2 * BLOCK), codes);
            let packed = Codes::new(&codes, 2 * BLOCK - 3, map.zero, &device);
            assert_eq!(packed.bytes(2 * BLOCK - 3), codes[..2 * BLOCK - 3]);
            let decoded = decode(map, joined.split()).into_data().try_to_vec::<f32>().unwrap();
            let expected: Vec<f32> = codes.iter().map(|c| map.values[usize::from(*c)]).collect();
            assert_eq!(decoded, expected);
        }
    }
}
