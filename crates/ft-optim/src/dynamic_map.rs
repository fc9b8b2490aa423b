//! The dynamic 8-bit data type of bitsandbytes (Dettmers et al., "8-bit Optimizers via Block-wise Quantization", 2022,
//! <https://arxiv.org/abs/2110.02861>): 256 values, dense around zero, times the largest magnitude of a block.

use std::sync::LazyLock;

use burn::tensor::{DType, Device, FloatDType, Int, IntDType, Tensor, TensorData};

/// Numbers that share a scale.
pub(crate) const BLOCK: usize = 256;

/// Numbers of either sign: -0.99 to 1.
pub(crate) static SIGNED: LazyLock<DynamicMap> = LazyLock::new(|| DynamicMap::new(true));

/// Numbers of at least 0.
pub(crate) static UNSIGNED: LazyLock<DynamicMap> = LazyLock::new(|| DynamicMap::new(false));

/// What the 256 codes stand for, ascending.
pub(crate) struct DynamicMap {
    pub values: [f32; 256],
    /// Between neighbours: what is above `middles[i]` is nearer to `values[i + 1]`.
    middles: [f32; 255],
    /// The code of 0.
    pub zero: u8,
}

impl DynamicMap {
    /// Each power of ten from 10⁻⁶ to 1 is split into twice as many equal parts as the one below it, and the middles of
    /// the parts are taken, of either sign for the signed map; zero and one complete it.
    fn new(signed: bool) -> Self {
        let mut values = vec![0.0f32, 1.0];
        for exponent in 0..7 {
            let parts = 1usize << if signed { exponent } else { exponent + 1 };
            let power = 10f64.powi(exponent - 6) as f32;
            for pair in linspace(parts + 1).windows(2) {
                let middle = power * ((pair[0] + pair[1]) / 2.0);
                values.push(middle);
                if signed {
                    values.push(-middle);
                }
            }
        }
        values.sort_by(f32::total_cmp);
        let values: [f32; 256] = values.try_into().expect("254 middles, zero and one");
        Self {
            middles: std::array::from_fn(|i| (values[i] + values[i + 1]) / 2.0),
            zero: values.iter().position(|v| *v == 0.0).expect("listed first") as u8,
            values,
        }
    }

    /// The nearest code; the lower one half-way.
    pub fn encode(&self, value: f32) -> u8 {
        // A binary search whose length does not depend on the value: eight comparisons, no branch to mispredict.
        let mut code = 0;
        for step in [128, 64, 32, 16, 8, 4, 2, 1] {
            let above = value > self.middles[code + step - 1];
            code += if above { step } else { 0 };
        }
        code as u8
    }

    /// What `codes` stand for: `[rows, BLOCK]` integers to f32.
    pub fn decode_on(&self, codes: Tensor<2, Int>) -> Tensor<2> {
        look_up(&self.values, codes)
    }

    /// The nearest codes, as [`encode`](Self::encode) finds them: `[rows, BLOCK]` f32 to i32.
    pub fn encode_on(&self, values: &Tensor<2>) -> Tensor<2, Int> {
        let mut codes = Tensor::<2, Int>::zeros(values.dims(), (&values.device(), DType::I32));
        for step in [128, 64, 32, 16, 8, 4, 2, 1] {
            let middle = look_up(&self.middles, codes.clone().add_scalar(step - 1));
            let above = values.clone().greater(middle).int().cast(IntDType::I32);
            codes = codes + above.mul_scalar(step);
        }
        codes
    }
}

/// `table[index]` for every index.
fn look_up(table: &[f32], indices: Tensor<2, Int>) -> Tensor<2> {
    let (dims, device) = (indices.dims(), indices.device());
    let table = Tensor::<1>::from_data(TensorData::new(table.to_vec(), [table.len()]), (&device, DType::F32));
    let flat = indices.cast(IntDType::I32).flatten::<1>(0, 1);
    table.select(0, flat).cast(FloatDType::F32).reshape(dims)
}

/// `n` values from 0.1 to 1 at equal distances, symmetric in their rounding like torch's.
fn linspace(n: usize) -> Vec<f32> {
    let (start, end) = (0.1f32, 1.0f32);
    let step = (end - start) / (n - 1) as f32;
    let value = |i: usize| {
        if i < n / 2 {
            step.mul_add(i as f32, start)
        } else {
            (-step).mul_add((n - 1 - i) as f32, end)
        }
    };
    (0..n).map(value).collect()
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

    const BOOKS: &[u8] = include_bytes!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/fixtures/bnb/codebooks.safetensors"
    ));

    fn book(name: &str) -> Vec<f32> {
        let file = safetensors::SafeTensors::deserialize(BOOKS).unwrap();
        let bytes = file.tensor(name).unwrap().data().as_chunks::<4>().0.to_vec();
        bytes.into_iter().map(f32::from_le_bytes).collect()
    }

    #[test]
    fn the_maps_are_bitsandbytes() {
        assert_eq!(SIGNED.values.to_vec(), book("dynamic_signed"));
        assert_eq!(UNSIGNED.values.to_vec(), book("dynamic_unsigned"));
        assert_eq!((SIGNED.zero, UNSIGNED.zero), (127, 0));
    }

    #[test]
    fn codes_are_the_nearest() {
        for map in [&*SIGNED, &*UNSIGNED] {
            for value in (-1200..1200).map(|i| (i as f32 / 1000.0).powi(3)) {
                let distance = |v: &f32| f64::from(v - value).abs();
                let nearest = map.values.iter().map(distance).fold(f64::INFINITY, f64::min);
                let found = distance(&map.values[usize::from(map.encode(value))]);
                assert!(found <= nearest + 1e-8, "{value}: {found}, not {nearest}");
            }
            for (code, value) in map.values.iter().enumerate() {
                assert_eq!(usize::from(map.encode(*value)), code);
            }
        }
    }

    #[test]
    fn tensors_are_coded_as_slices_are() {
        let device = Device::flex();
        let values: Vec<f32> = (0..2 * BLOCK).map(|i| ((i as f32 - 250.0) / 260.0).powi(3)).collect();
        let tensor = Tensor::<2>::from_data(TensorData::new(values.clone(), [2, BLOCK]), &device);
        for map in [&*SIGNED, &*UNSIGNED] {
            let codes: Vec<u8> = values.iter().map(|v| map.encode(*v)).collect();
            let joined = Codes::join(map.encode_on(&tensor));
            assert_eq!(joined.bytes(2 * BLOCK), codes);
            let packed = Codes::new(&codes, 2 * BLOCK - 3, map.zero, &device);
            assert_eq!(packed.bytes(2 * BLOCK - 3), codes[..2 * BLOCK - 3]);
            let decoded = map.decode_on(joined.split()).into_data().try_to_vec::<f32>().unwrap();
            let expected: Vec<f32> = codes.iter().map(|c| map.values[usize::from(*c)]).collect();
            assert_eq!(decoded, expected);
        }
    }
}
