//! Named random streams: one run seed, one independent generator per purpose.
//!
//! Drawing more numbers for one purpose (say dropout) never shifts another (say the data order), so runs stay comparable
//! when a method changes. The derivation is fixed for good: a saved run must find the same numbers in a later version.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// The generator for `name` under the run's `seed`. Same arguments, same numbers, on every machine and in every version.
///
/// ```
/// use rand_chacha::rand_core::Rng;
/// let (mut a, mut b) = (ft_seed::stream(7, "init"), ft_seed::stream(7, "dropout"));
/// assert_ne!(a.next_u64(), b.next_u64());
/// ```
pub fn stream(seed: u64, name: &str) -> ChaCha8Rng {
    let mut state = sub_seed(seed, name);
    let mut key = [0u8; 32];
    for word in key.chunks_exact_mut(8) {
        state = state.wrapping_add(GOLDEN);
        word.copy_from_slice(&mix(state).to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}

/// A seed for `name` derived from `seed`: for code that takes a number rather than a generator, and for nesting
/// (`stream(sub_seed(seed, "data"), "epoch 3")`).
pub fn sub_seed(seed: u64, name: &str) -> u64 {
    salted(seed, salt(name))
}

/// What [`salted`] takes for `name`, for who derives many seeds of one name.
pub fn salt(name: &str) -> u64 {
    fnv1a(name.as_bytes())
}

/// [`sub_seed`] of a name whose [`salt`] is at hand.
pub fn salted(seed: u64, salt: u64) -> u64 {
    mix(mix(seed.wrapping_add(GOLDEN)) ^ salt)
}

/// A uniform number below `bound`, without modulo bias (Lemire, <https://arxiv.org/abs/1805.10941>).
pub fn below(rng: &mut ChaCha8Rng, bound: usize) -> usize {
    let bound = bound as u64;
    loop {
        let wide = u128::from(rng.next_u64()) * u128::from(bound);
        if wide as u64 >= bound.wrapping_neg() % bound {
            return (wide >> 64) as usize;
        }
    }
}

/// Fisher-Yates. Our own, because the permutation must not change with a dependency's version.
pub fn shuffle<T>(items: &mut [T], rng: &mut ChaCha8Rng) {
    for i in (1..items.len()).rev() {
        items.swap(i, below(rng, i + 1));
    }
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The finalizer of SplitMix64 (Steele, Lea, Flood 2014): every input bit reaches every output bit.
pub fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// FNV-1a, 64 bits.
pub fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &b| {
        (hash ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_fixed_for_good() {
        let first: Vec<u64> = ["init", "data", "dropout", "sample"]
            .iter()
            .map(|n| stream(42, n).next_u64())
            .collect();
        assert_eq!(first, FIRST_OF_42);
        assert_ne!(stream(42, "init").next_u64(), stream(43, "init").next_u64());
        assert_eq!(stream(42, "init").next_u64(), stream(42, "init").next_u64());
    }

    const FIRST_OF_42: [u64; 4] = [
        297795821285548633,
        1339671970526096921,
        14227773884069053855,
        17886284302792401643,
    ];

    #[test]
    fn below_stays_below_and_reaches_everything() {
        let mut rng = stream(1, "below");
        let mut seen = [0usize; 7];
        for _ in 0..7000 {
            seen[below(&mut rng, 7)] += 1;
        }
        assert!(seen.iter().all(|&n| (800..1200).contains(&n)), "{seen:?}");
    }

    #[test]
    fn shuffle_is_a_permutation() {
        let mut items: Vec<usize> = (0..100).collect();
        shuffle(&mut items, &mut stream(3, "shuffle"));
        assert_ne!(items, (0..100).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
    }
}
