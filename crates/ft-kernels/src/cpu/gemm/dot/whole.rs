//! Products with 8-bit codes in whole numbers.
//!
//! ```text
//! x_i ≈ q_i · d    q_i = round(x_i / d) in 16 bits, d = max |x| / L for each row of x
//! x · w ≈ d · (Σ q_i · code_i) · scale / 127
//! ```
//!
//! Codes are widened to 16 bits and multiplied in pairs (`pmaddwd`), half the work of a product in f32. The sum is exact, so its bits depend
//! neither on an order nor on what shares a tile. L is the largest with which no lane can overflow, 32,767 for rows of up to 4,095 values
//! and 4,095 for 32,768 of them: x is rounded to some 2^-12 to 2^-15 of its largest value, where codes are rounded to 2^-8 of theirs.
use super::{Dest, Rows, Scale, TASK, Write};
use crate::cpu::gemm::Par;
use crate::cpu::isa::{Isa, multiversion};
#[cfg(target_arch = "x86_64")]
use crate::cpu::loads;
use crate::cpu::{par, team};
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// Lanes that share the sum of a row, where they are fewest.
const LANES: usize = 8;
/// Rows of W that are taken together, and rows of x.
const WIDE: usize = 4;
const HIGH: usize = 2;

/// `c = x · Wᵀ` for W `[n, k]` in bytes whose rows have scales: `code · scale / 127`. x and c are dense, `[m, k]` and `[m, n]`.
pub(crate) fn eight_whole(x: &[f32], codes: &[i8], scales: &[f32], c: &mut [f32], par: Par) {
    let n = scales.len();
    let k = codes.len() / n.max(1);
    let m = c.len() / n.max(1);
    assert!(codes.len() == n * k && x.len() == m * k && c.len() == m * n);
    if c.is_empty() {
        return;
    }
    let (mut whole, mut steps) = (vec![0i16; m * k], vec![0.0f32; m]);
    for (row, step) in steps.iter_mut().enumerate() {
        *step = round(
            &x[row * k..(row + 1) * k],
            largest(k),
            &mut whole[row * k..(row + 1) * k],
        );
    }
    let c = Dest {
        ptr: par::Shared::new(c),
        stride: n,
    };
    let write = Write {
        c: &c,
        add: false,
        scale: Scale::Codes(scales),
    };
    let (x, w) = (Rows::new(whole.as_ptr(), k, m), Rows::new(codes.as_ptr(), k, n));
    let height = (TASK / k.max(1)).next_multiple_of(WIDE).max(WIDE);
    let task = |i: usize| {
        let cols = i * height..((i + 1) * height).min(n);
        for row in (0..m).step_by(HIGH) {
            match m - row {
                1 => strip::<1>(x, w, row, cols.clone(), k, &steps, &write),
                _ => strip::<HIGH>(x, w, row, cols.clone(), k, &steps, &write),
            }
        }
    };
    let tasks = n.div_ceil(height);
    match par {
        Par::One => (0..tasks).for_each(task),
        Par::All => team::run(tasks, task),
    }
}

/// The largest whole number that x is rounded to.
fn largest(k: usize) -> f32 {
    // Of k / LANES products in a lane, each of a code of up to 128.
    let most = i32::MAX as usize / (128 * k.div_ceil(LANES).max(1));
    most.clamp(1, i16::MAX as usize) as f32
}

multiversion! {
    /// Rounds a row to multiples of what is returned. Where a value is not finite, that is no number.
    fn round(x: &[f32], most: f32, out: &mut [i16]) -> f32 {
        // Bits of magnitudes are in the order of magnitudes, with infinity and what is no number above all others.
        let top = x.iter().fold(0u32, |top, x| top.max(x.to_bits() & 0x7fff_ffff));
        let top = f32::from_bits(top);
        let inverse = most / top;
        if !inverse.is_finite() || !top.is_finite() {
            out.fill(0);
            return if top.is_finite() { 0.0 } else { f32::NAN };
        }
        for (out, x) in out.iter_mut().zip(x) {
            // Adding and taking away 1.5 · 2^23 rounds to even.
            let rounded = (x * inverse + 12_582_912.0) - 12_582_912.0;
            *out = rounded as i32 as i16;
        }
        top / most
    }
}

/// `R` rows of x against these rows of W.
fn strip<const R: usize>(
    x: Rows<i16>,
    w: Rows<i8>,
    row: usize,
    cols: std::ops::Range<usize>,
    k: usize,
    steps: &[f32],
    write: &Write,
) {
    let whole = cols.len() / WIDE * WIDE;
    for col in (cols.start..cols.start + whole).step_by(WIDE) {
        put::<R, WIDE>(x, w, row, col, k, steps, write);
    }
    for col in cols.start + whole..cols.end {
        put::<R, 1>(x, w, row, col, k, steps, write);
    }
}

#[inline(always)]
fn put<const R: usize, const C: usize>(
    x: Rows<i16>,
    w: Rows<i8>,
    row: usize,
    col: usize,
    k: usize,
    steps: &[f32],
    write: &Write,
) {
    // SAFETY: the rows have k values, and `largest` kept sums inside their lanes.
    let sums = unsafe { tile::<R, C>(x.from(row), w.from(col), k) };
    for (r, sums) in sums.iter().enumerate() {
        for (c, sum) in sums.iter().enumerate() {
            write.put(row + r, col + c, *sum as f32 * steps[row + r]);
        }
    }
}

/// `[r][c]` = x row r · w row c.
///
/// # Safety
/// Each pointer has `k` readable values; those of x are at most [`largest`].
#[inline]
unsafe fn tile<const R: usize, const C: usize>(xs: [*const i16; R], ws: [*const i8; C], k: usize) -> [[i64; C]; R] {
    // SAFETY: the caller's promise; `detect` saw the instructions.
    unsafe {
        match Isa::detect() {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => avx512(xs, ws, k),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2(xs, ws, k),
            Isa::Base => portable(xs, ws, 0, k),
        }
    }
}

/// The values from `from` on, in lanes that the compiler makes vectors of.
///
/// # Safety
/// As [`tile`].
#[inline(always)]
unsafe fn portable<const R: usize, const C: usize>(
    xs: [*const i16; R],
    ws: [*const i8; C],
    from: usize,
    k: usize,
) -> [[i64; C]; R] {
    let mut sums = [[0; C]; R];
    for (x, sums) in xs.iter().zip(&mut sums) {
        for (w, sum) in ws.iter().zip(sums) {
            // SAFETY: the caller's promise.
            let (x, w) = unsafe {
                (
                    std::slice::from_raw_parts(x.wrapping_add(from), k - from),
                    std::slice::from_raw_parts(w.wrapping_add(from), k - from),
                )
            };
            let mut lanes = [0i32; LANES];
            let (xs, ws) = (x.chunks_exact(LANES), w.chunks_exact(LANES));
            let rest = xs.remainder().iter().zip(ws.remainder());
            *sum = rest.map(|(x, w)| i64::from(*x) * i64::from(*w)).sum();
            for (x, w) in xs.zip(ws) {
                for ((lane, x), w) in lanes.iter_mut().zip(x).zip(w) {
                    *lane += i32::from(*x) * i32::from(*w);
                }
            }
            *sum += lanes.iter().map(|lane| i64::from(*lane)).sum::<i64>();
        }
    }
    sums
}

/// # Safety
/// As [`tile`]; AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn avx2<const R: usize, const C: usize>(xs: [*const i16; R], ws: [*const i8; C], k: usize) -> [[i64; C]; R] {
    let mut acc = [[_mm256_setzero_si256(); C]; R];
    let whole = k / 32 * 32;
    let mut at = 0;
    while at < whole {
        for half in [at, at + 16] {
            // SAFETY: 16 values from there on are inside the rows.
            let xs = xs.map(|x| unsafe { loads::bytes32(x.wrapping_add(half)) });
            for (c, w) in ws.iter().enumerate() {
                // SAFETY: as above.
                let w = _mm256_cvtepi8_epi16(unsafe { loads::bytes16(w.wrapping_add(half)) });
                for (x, acc) in xs.iter().zip(&mut acc) {
                    acc[c] = _mm256_add_epi32(acc[c], _mm256_madd_epi16(w, *x));
                }
            }
        }
        ws.iter()
            .for_each(|w| _mm_prefetch::<_MM_HINT_T0>(w.wrapping_add(at + C * k).cast()));
        at += 32;
    }
    // SAFETY: the caller's promise.
    let mut sums = unsafe { portable(xs, ws, whole, k) };
    for (sums, acc) in sums.iter_mut().zip(&acc) {
        for (sum, acc) in sums.iter_mut().zip(acc) {
            let wide = _mm256_add_epi64(
                _mm256_cvtepi32_epi64(_mm256_castsi256_si128(*acc)),
                _mm256_cvtepi32_epi64(_mm256_extracti128_si256::<1>(*acc)),
            );
            let pair = _mm_add_epi64(_mm256_castsi256_si128(wide), _mm256_extracti128_si256::<1>(wide));
            *sum += _mm_cvtsi128_si64(pair) + _mm_extract_epi64::<1>(pair);
        }
    }
    sums
}

/// # Safety
/// As [`tile`]; AVX-512.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
unsafe fn avx512<const R: usize, const C: usize>(xs: [*const i16; R], ws: [*const i8; C], k: usize) -> [[i64; C]; R] {
    let mut acc = [[_mm512_setzero_si512(); C]; R];
    let whole = k / 32 * 32;
    let mut at = 0;
    while at < whole {
        // SAFETY: 32 values from there on are inside the rows.
        let xs = xs.map(|x| unsafe { _mm512_maskz_loadu_epi16(!0, x.wrapping_add(at)) });
        for (c, w) in ws.iter().enumerate() {
            _mm_prefetch::<_MM_HINT_T0>(w.wrapping_add(at + C * k).cast());
            // SAFETY: as above.
            let w = _mm512_cvtepi8_epi16(unsafe { loads::bytes32(w.wrapping_add(at)) });
            for (x, acc) in xs.iter().zip(&mut acc) {
                acc[c] = _mm512_add_epi32(acc[c], _mm512_madd_epi16(w, *x));
            }
        }
        at += 32;
    }
    // SAFETY: the caller's promise.
    let mut sums = unsafe { portable(xs, ws, whole, k) };
    for (sums, acc) in sums.iter_mut().zip(&acc) {
        for (sum, acc) in sums.iter_mut().zip(acc) {
            let low = _mm512_cvtepi32_epi64(_mm512_castsi512_si256(*acc));
            let high = _mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64::<1>(*acc));
            *sum += _mm512_reduce_add_epi64(_mm512_add_epi64(low, high));
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..count).map(|_| next() + 0.5 * next()).collect()
    }

    /// Codes with both ends of their range, and a scale for each row.
    fn matrix(n: usize, k: usize) -> (Vec<i8>, Vec<f32>) {
        let codes = numbers(n * k, 7).into_iter().map(|v| (v * 100.0) as i8);
        let mut codes: Vec<i8> = codes.collect();
        if k > 1 {
            (codes[0], codes[1]) = (-128, 127);
        }
        (codes, (0..n).map(|row| 0.2 + row as f32 * 0.01).collect())
    }

    const SHAPES: [(usize, usize, usize); 7] = [
        (1, 9, 64),
        (2, 7, 100),
        (3, 40, 576),
        (9, 5, 33),
        (5, 4, 1),
        (17, 3, 5000),
        (1, 2, 40_000),
    ];

    #[test]
    fn sums_are_exact_as_the_oracle_says() {
        for (m, n, k) in SHAPES {
            let (x, (codes, scales)) = (numbers(m * k, 3), matrix(n, k));
            let mut found = vec![f32::NAN; m * n];
            eight_whole(&x, &codes, &scales, &mut found, Par::All);
            for row in 0..m {
                let x = &x[row * k..(row + 1) * k];
                let top = x.iter().fold(0.0f32, |top, x| top.max(x.abs()));
                let most = largest(k);
                for col in 0..n {
                    let codes = &codes[col * k..(col + 1) * k];
                    let whole = |x: f32| f64::from(x * (most / top)).round_ties_even() as i64;
                    let sum: i64 = x.iter().zip(codes).map(|(x, code)| whole(*x) * i64::from(*code)).sum();
                    let expected = sum as f32 * (top / most) * scales[col] * crate::packed::INVERSE_127;
                    assert_eq!(
                        found[row * n + col].to_bits(),
                        expected.to_bits(),
                        "{m} {n} {k} at {row} {col}"
                    );
                    // What rounding x can do: half a step for each code.
                    let exact: f64 = x
                        .iter()
                        .zip(codes)
                        .map(|(x, code)| f64::from(*x) * f64::from(*code))
                        .sum();
                    let codes: f64 = codes.iter().map(|code| f64::from(*code).abs()).sum();
                    let off = (f64::from(expected) - exact * f64::from(scales[col]) / 127.0).abs();
                    let allowed =
                        0.51 * f64::from(top / most) * codes * f64::from(scales[col]) / 127.0 + 1e-6 * exact.abs();
                    assert!(off <= allowed, "{m} {n} {k} at {row} {col}: {off} of {allowed}");
                }
            }
        }
    }

    #[test]
    fn the_largest_sums_stay_inside_their_lanes_as_the_oracle_says() {
        for k in [4095, 4096, 32_768, 100_000] {
            let (x, codes) = (vec![-3.0f32; k], vec![-128i8; k]);
            let mut found = [0.0];
            eight_whole(&x, &codes, &[127.0], &mut found, Par::One);
            let expected = 3.0 * 128.0 * k as f32;
            assert!((found[0] / expected - 1.0).abs() < 1e-5, "{k}: {} {expected}", found[0]);
        }
    }

    #[test]
    fn what_is_not_finite_stays_so() {
        let (codes, mut found) = (vec![1i8; 40], [0.0; 4]);
        let mut x = vec![1.0f32; 160];
        (x[3], x[47], x[121]) = (f32::NAN, f32::INFINITY, 1e-41);
        x[120..160].fill(1e-41);
        eight_whole(&x, &codes, &[127.0], &mut found, Par::One);
        assert!(found[0].is_nan() && found[1].is_nan());
        assert!((found[2] - 40.0).abs() < 1e-3 && found[3] == 0.0, "{found:?}");
    }
}
