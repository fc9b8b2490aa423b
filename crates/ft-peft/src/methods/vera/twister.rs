//! VeRA's shared projections as PyTorch draws them: MT19937 (Matsumoto and Nishimura 1998), 24 bits to a float.

use burn::tensor::{Device, Tensor, TensorData};

const SIZE: usize = 624;
const SHIFT: usize = 397;

/// A `[rank, in]`, then B `[out, rank]`, uniform with variance 2/columns (He et al. 2015).
pub(super) fn projections(rank: usize, [out, inner]: [usize; 2], seed: u32, device: &Device) -> [Tensor<2>; 2] {
    let mut twister = Twister::new(seed);
    [[rank, inner], [out, rank]].map(|shape| {
        let bound = (6.0 / shape[1] as f64).sqrt() as f32;
        let values: Vec<f32> = (0..shape[0] * shape[1]).map(|_| twister.uniform(bound)).collect();
        Tensor::from_data(TensorData::new(values, shape), device)
    })
}

/// PyTorch's generator on the CPU.
pub(in crate::methods) struct Twister {
    state: [u32; SIZE],
    next: usize,
}

impl Twister {
    pub fn new(seed: u32) -> Self {
        let mut state = [seed; SIZE];
        for i in 1..SIZE {
            let last = state[i - 1];
            state[i] = (last ^ (last >> 30)).wrapping_mul(1_812_433_253).wrapping_add(i as u32);
        }
        Self { state, next: SIZE }
    }

    fn refill(&mut self) {
        for i in 0..SIZE {
            let mixed = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % SIZE] & 0x7fff_ffff);
            let twist = if mixed & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + SHIFT) % SIZE] ^ (mixed >> 1) ^ twist;
        }
        self.next = 0;
    }

    pub fn bits(&mut self) -> u32 {
        if self.next == SIZE {
            self.refill();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    /// In `-bound..bound`.
    fn uniform(&mut self, bound: f32) -> f32 {
        let unit = (self.bits() & 0x00ff_ffff) as f32 / 16_777_216.0;
        // PyTorch's compiler fuses the two, which shows in the last bit.
        unit.mul_add(bound - -bound, -bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ten_thousandth_draw_of_the_standard_seed_is_the_published_one() {
        let mut twister = Twister::new(5489);
        let draws = (0..10_000).map(|_| twister.bits());
        assert_eq!(draws.last(), Some(4_123_659_995));
    }
}
