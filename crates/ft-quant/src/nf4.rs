//! 4-bit NormalFloat: the quantiles of a normal distribution, zero among them (QLoRA, appendix E).

/// What the codes stand for, ascending.
pub const TABLE: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// The middles between neighbours: a value above `THRESHOLDS[i]` belongs to a code above `i`.
const THRESHOLDS: [f32; 15] = [
    -0.848_096_4,
    -0.610_632_9,
    -0.459_995_27,
    -0.339_679_42,
    -0.234_607_4,
    -0.137_911_74,
    -0.045_525_018,
    0.039_790_15,
    0.120_255_25,
    0.203_521_25,
    0.292_013_76,
    0.389_312_54,
    0.501_663_45,
    0.642_786_9,
    0.861_478_45,
];

/// The nearest code of a value in -1..=1.
#[inline]
pub fn code(x: f32) -> u8 {
    // Binary search, four steps: the number of thresholds below x.
    let mut low = 0;
    for step in [8, 4, 2, 1] {
        low += if x > THRESHOLDS[low + step - 1] { step } else { 0 };
    }
    low as u8
}
