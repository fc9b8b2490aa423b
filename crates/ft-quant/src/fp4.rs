//! 4-bit floating point as bitsandbytes defines it: three bits of magnitude, then the sign.

/// What the codes stand for; codes from 8 are negative.
pub const TABLE: [f32; 16] = [
    0.0,
    0.005_208_333_5,
    0.666_666_7,
    1.0,
    0.333_333_34,
    0.5,
    0.166_666_67,
    0.25,
    0.0,
    -0.005_208_333_5,
    -0.666_666_7,
    -1.0,
    -0.333_333_34,
    -0.5,
    -0.166_666_67,
    -0.25,
];

/// The codes by ascending value. Of the two zeros, bitsandbytes on a CPU gives 0 to negative values and 8 to positive ones.
const ORDER: [u8; 16] = [11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3];

/// The middles between neighbours: a value above `MIDDLES[i]` belongs to a code after `ORDER[i]`.
const MIDDLES: [f32; 15] = {
    let mut middles = [0.0; 15];
    let mut i = 0;
    while i < 15 {
        middles[i] = (TABLE[ORDER[i] as usize] + TABLE[ORDER[i + 1] as usize]) / 2.0;
        i += 1;
    }
    middles
};

/// The nearest code of a value in -1..=1.
#[inline]
pub fn code(x: f32) -> u8 {
    ORDER[MIDDLES.iter().filter(|&&middle| middle < x).count()]
}
