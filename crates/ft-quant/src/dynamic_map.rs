//! The dynamic 8-bit data type of bitsandbytes (Dettmers et al., "8-bit Optimizers via Block-wise Quantization", 2022,
//! <https://arxiv.org/abs/2110.02861>): 256 values, dense around zero, times the largest magnitude of a block. The scales of
//! double quantization and the moments of 8-bit optimizers are stored in it.

use std::sync::LazyLock;

/// Numbers of either sign: -0.99 to 1.
pub static SIGNED: LazyLock<DynamicMap> = LazyLock::new(|| DynamicMap::new(true));

/// Numbers of at least 0.
pub static UNSIGNED: LazyLock<DynamicMap> = LazyLock::new(|| DynamicMap::new(false));

/// What 256 codes stand for.
#[derive(Debug)]
pub struct DynamicMap {
    /// Ascending.
    pub values: [f32; 256],
    /// Between neighbours: what is above `middles[i]` is nearer to `values[i + 1]`.
    pub middles: [f32; 255],
    /// The code of 0.
    pub zero: u8,
    /// For the upper bits of a value, the code of the least value that has them: the code of any other is the same or the next.
    first: Vec<u8>,
}

/// The lower bits of an f32 that [`DynamicMap::first`] does not look at: cells of a 128th of a power of two.
const LOWER: u32 = 16;
/// Cells of either sign: from 2⁻²⁴, below which all is nearest to 0, to 1, and one beyond.
const CELLS: usize = 24 * 128 + 1;
/// The upper bits of 2⁻²⁴.
const LEAST: u32 = (127 - 24) << (23 - LOWER);

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
        let middles: [f32; 255] = std::array::from_fn(|i| (values[i] + values[i + 1]) / 2.0);
        let code = |value: f32| middles.iter().filter(|middle| value > **middle).count() as u8;
        let bits = |cell: usize| (LEAST + cell as u32) << LOWER;
        let positive = (0..CELLS).map(|cell| code(f32::from_bits(bits(cell))));
        // What lies furthest from 0 is the least of a cell of negative numbers.
        let negative = (0..CELLS).map(|cell| code(-f32::from_bits(bits(cell + 1) - 1)));
        Self {
            first: positive.chain(negative).collect(),
            middles,
            zero: values.iter().position(|v| *v == 0.0).expect("listed first") as u8,
            values,
        }
    }

    /// The nearest code; the lower one half-way. Of what is not a number, the least.
    #[inline]
    pub fn encode(&self, value: f32) -> u8 {
        if value.is_nan() {
            return 0;
        }
        let bits = value.to_bits();
        let cell = ((bits & 0x7fff_ffff) >> LOWER)
            .saturating_sub(LEAST)
            .min(CELLS as u32 - 1);
        let code = self.first[cell as usize + (bits >> 31) as usize * CELLS];
        code + u8::from(code < 255 && value > self.middles[usize::from(code.min(254))])
    }
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
    fn cells_have_at_most_one_middle() {
        for map in [&*SIGNED, &*UNSIGNED] {
            let near = |middle: &f32| {
                let bits = middle.to_bits();
                [bits - 1, bits, bits + 1].map(f32::from_bits)
            };
            let edges = (0..=CELLS as u32).flat_map(|cell| {
                let bits = (LEAST + cell) << LOWER;
                [bits - 1, bits].map(f32::from_bits)
            });
            let edges = edges.flat_map(|edge| [edge, -edge]);
            let beyond = [0.0, -0.0, 1e-30, -1e-30, 2.0, -2.0, f32::INFINITY, f32::NEG_INFINITY];
            for value in map.middles.iter().flat_map(near).chain(edges).chain(beyond) {
                let expected = map.middles.iter().filter(|middle| value > **middle).count();
                assert_eq!(usize::from(map.encode(value)), expected, "{value}");
            }
            assert_eq!(map.encode(f32::NAN), 0);
        }
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
}
