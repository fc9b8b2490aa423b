//! Branch-free scalar functions and reductions that the compiler turns into vector code inside `multiversion!` bodies.

/// Independent partial sums: enough for two AVX-512 registers, and the same number on every machine.
pub(crate) const LANES: usize = 32;

/// `eˣ` to about 1e-7 relative; 0 below -87.3, saturated above 88.3, NaN stays NaN (Cephes `expf`).
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Adding 1.5·2²³ rounds to an integer and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let low = if x < -87.3 { -87.3 } else { x };
    let bounded = if low > 88.3 { 88.3 } else { low };
    let shifted = bounded * LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = bounded - n * LN2_HIGH - n * LN2_LOW;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 0.166_666_65;
    let p = p * r + 0.5;
    let y = p * r * r + r + 1.0;
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    if x < -87.3 { 0.0 } else { y * power }
}

/// The natural logarithm of a positive normal number, to about 1e-7 relative; exactly 0 at 1 (Cephes `logf`).
#[inline(always)]
pub(crate) fn ln(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // x = m · 2ᵉ with m in [1/2, 1), then moved to [√½, √2).
    let bits = x.to_bits();
    let m = f32::from_bits((bits & 0x007f_ffff) | 0x3f00_0000);
    let e = ((bits >> 23) as i32 - 126) as f32;
    let low = m < std::f32::consts::FRAC_1_SQRT_2;
    let e = if low { e - 1.0 } else { e };
    let m = if low { m + m - 1.0 } else { m - 1.0 };
    let p = 7.037_683_6e-2;
    let p = p * m - 0.115_146_1;
    let p = p * m + 0.116_769_99;
    let p = p * m - 0.124_201_41;
    let p = p * m + 0.142_493_23;
    let p = p * m - 0.166_680_58;
    let p = p * m + 0.200_007_14;
    let p = p * m - 0.249_999_94;
    let p = p * m + 0.333_333_3;
    let z = m * m;
    let y = p * m * z + e * LN2_LOW - 0.5 * z;
    m + y + e * LN2_HIGH
}

/// `1 / (1 + e⁻ˣ)`.
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `tanh x` to about 2e-7 relative (Cephes `tanhf`).
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    let z = x * x;
    let p = -5.704_988_7e-3;
    let p = p * z + 2.063_909e-2;
    let p = p * z - 5.373_971_6e-2;
    let p = p * z + 0.133_314_42;
    let p = p * z - 0.333_332_8;
    let near = p * z * x + x;
    let far = 1.0 - 2.0 / (exp(2.0 * x.abs()) + 1.0);
    if z < 0.390_625 { near } else { far.copysign(x) }
}

/// `Σ f(i)` for `i < n`, over fixed lanes.
#[inline(always)]
pub(crate) fn sum(n: usize, f: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let whole = n / LANES * LANES;
    let mut i = 0;
    while i < whole {
        for (l, lane) in lanes.iter_mut().enumerate() {
            *lane += f(i + l);
        }
        i += LANES;
    }
    let mut tail = 0.0;
    while i < n {
        tail += f(i);
        i += 1;
    }
    total(&lanes) + tail
}

/// The sum of the lanes, halving.
#[inline(always)]
pub(crate) fn total(lanes: &[f32; LANES]) -> f32 {
    let mut lanes = *lanes;
    let mut width = LANES / 2;
    while width > 0 {
        for l in 0..width {
            lanes[l] += lanes[l + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// `Σ x`.
#[inline(always)]
pub(crate) fn sum_of(x: &[f32]) -> f32 {
    sum_by(x, |x| x)
}

/// `Σ f(x)`.
#[inline(always)]
pub(crate) fn sum_by(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut lanes = [0.0f32; LANES];
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(l, v)| *l += f(*v));
    }
    total(&lanes) + rest.iter().map(|v| f(*v)).sum::<f32>()
}

/// `Σ x·y`.
#[inline(always)]
pub(crate) fn dot(x: &[f32], y: &[f32]) -> f32 {
    let ((xs, x_rest), (ys, y_rest)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
    let mut lanes = [0.0f32; LANES];
    for (x, y) in xs.iter().zip(ys) {
        for l in 0..LANES {
            lanes[l] += x[l] * y[l];
        }
    }
    total(&lanes) + x_rest.iter().zip(y_rest).map(|(x, y)| x * y).sum::<f32>()
}

/// The largest value; `-inf` of nothing. NaN is passed over: the sums that follow carry it.
#[inline(always)]
pub(crate) fn max(x: &[f32]) -> f32 {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        lanes
            .iter_mut()
            .zip(chunk)
            .for_each(|(l, v)| *l = if *v > *l { *v } else { *l });
    }
    lanes
        .iter()
        .chain(rest)
        .fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a })
}

/// Replaces `x` by `exp(x - shift)` and returns the sum.
#[inline(always)]
pub(crate) fn exp_sum(x: &mut [f32], shift: f32) -> f32 {
    let (chunks, rest) = x.as_chunks_mut::<LANES>();
    let mut lanes = [0.0f32; LANES];
    for chunk in chunks {
        for (lane, v) in lanes.iter_mut().zip(chunk) {
            *v = exp(*v - shift);
            *lane += *v;
        }
    }
    let mut tail = 0.0;
    for v in rest {
        *v = exp(*v - shift);
        tail += *v;
    }
    total(&lanes) + tail
}

/// `log Σ exp(x·scale)` for a positive scale.
#[inline(always)]
pub(crate) fn log_sum_exp(x: &[f32], scale: f32) -> f32 {
    let max = max(x) * scale;
    max + sum_by(x, |x| exp(x * scale - max)).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_accurate_to_1e_7() {
        let mut worst = 0.0f64;
        for i in -87_000..88_000 {
            let x = i as f32 * 1e-3;
            let want = f64::from(x).exp();
            worst = worst.max(((f64::from(exp(x)) - want) / want).abs());
        }
        assert!(worst < 1.5e-7, "{worst}");
    }

    #[test]
    fn ln_is_accurate_to_2e_7() {
        for i in -8700..8800 {
            let x = (f64::from(i) * 1e-2).exp() as f32;
            let want = f64::from(x).ln();
            let error = (f64::from(ln(x)) - want).abs() / want.abs().max(1.0);
            assert!(error < 2e-7, "ln {x}: {error}");
        }
        for i in 0..20_000 {
            let x = 0.5 + i as f32 * 1e-4;
            let error = (f64::from(ln(x)) - f64::from(x).ln()).abs();
            assert!(error < 1.2e-7, "ln {x}: {error}");
        }
        assert_eq!(ln(1.0), 0.0);
    }

    #[test]
    fn tanh_is_accurate_to_3e_7() {
        for i in -40_000..40_000 {
            let x = i as f32 * 5e-4;
            let want = f64::from(x).tanh();
            let error = (f64::from(tanh(x)) - want).abs() / want.abs().max(1e-30);
            assert!(error < 3e-7, "tanh {x}: {error}");
        }
        assert_eq!((tanh(0.0), tanh(1e30), tanh(-1e30)), (0.0, 1.0, -1.0));
        assert!(tanh(f32::NAN).is_nan());
    }

    #[test]
    fn exp_at_the_edges() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-1e30), 0.0);
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(1e30) > 1e38);
    }

    #[test]
    fn reductions_take_every_value() {
        let x: Vec<f32> = (0..77).map(|i| i as f32).collect();
        assert_eq!(sum_of(&x), 2926.0);
        assert_eq!(sum(77, |i| x[i]), 2926.0);
        assert_eq!(dot(&x, &x), (0..77).map(|i| (i * i) as f32).sum::<f32>());
        assert_eq!(max(&x), 76.0);
        assert_eq!(max(&[]), f32::NEG_INFINITY);
        let mut y = vec![0.0; 77];
        assert_eq!(exp_sum(&mut y, 0.0), 77.0);
    }
}
