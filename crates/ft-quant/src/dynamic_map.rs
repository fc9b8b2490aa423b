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
