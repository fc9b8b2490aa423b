use super::*;
#[cfg(target_arch = "x86_64")]
use crate::cpu::isa::Isa;

/// A deterministic value in [-1, 1).
fn value(i: usize) -> f32 {
    let mut bits = (i as u32).wrapping_add(1).wrapping_mul(0x9E37_79B9);
    bits = (bits ^ (bits >> 16)).wrapping_mul(0x21F0_AAAD);
    bits = (bits ^ (bits >> 15)).wrapping_mul(0x735A_2D97);
    ((bits ^ (bits >> 15)) >> 8) as f32 / (1 << 23) as f32 - 1.0
}

fn values(n: usize, seed: usize) -> Vec<f32> {
    (0..n).map(|i| value(i + seed * 7919)).collect()
}

/// The product in f64.
fn oracle(terms: &[Term], start: &[f32], stride: usize, add: bool) -> Vec<f64> {
    let (m, n) = (terms[0].a.rows(), terms[0].b.cols());
    let mut out = vec![0.0; m * n];
    for i in 0..m {
        for j in 0..n {
            let mut sum = if add { f64::from(start[i * stride + j]) } else { 0.0 };
            for t in terms {
                for k in 0..t.a.cols() {
                    let product = unsafe { f64::from(t.a.get(i, k)) * f64::from(t.b.dense().unwrap().get(k, j)) };
                    sum += f64::from(t.scale) * product;
                }
            }
            out[i * n + j] = sum;
        }
    }
    out
}

fn check(terms: &[Term], stride: usize, add: bool) {
    let (m, n) = (terms[0].a.rows(), terms[0].b.cols());
    let k: usize = terms.iter().map(|t| t.a.cols()).sum();
    let start = values(m * stride, 99);
    let expected = oracle(terms, &start, stride, add);
    for par in [Par::One, Par::All] {
        let mut c = start.clone();
        gemm(terms, &mut c, stride, add, par);
        for i in 0..m {
            for j in 0..stride {
                let got = c[i * stride + j];
                if j >= n {
                    assert_eq!(got, start[i * stride + j], "wrote outside the product at {i},{j}");
                    continue;
                }
                let want = expected[i * n + j];
                let bound = 1e-6 * (k as f64).sqrt() + 1e-6;
                assert!(
                    (f64::from(got) - want).abs() < bound,
                    "{m}x{n}x{k} at {i},{j}: {got} for {want}"
                );
            }
        }
    }
}

/// The four ways a pair of row-major matrices can be transposed.
fn layouts(m: usize, n: usize, k: usize, add: bool) {
    let (a, b) = (values(m * k, 1), values(k * n, 2));
    let lhs = [Mat::new(&a, m, k), Mat::strided(&a, m, k, 1, m)];
    let rhs = [Mat::new(&b, k, n), Mat::strided(&b, k, n, 1, k)];
    for a in lhs {
        for b in rhs {
            check(&[Term::scaled(a, b, 0.5)], n + 3, add);
        }
    }
}

#[test]
fn products_equal_the_oracle() {
    for (m, n, k) in [
        (1, 1, 1),
        (1, 40, 33),
        (5, 7, 9),
        (12, 32, 16),
        (13, 33, 17),
        (25, 70, 40),
        (8, 96, 130),
        (130, 8, 64),
        (37, 65, 700),
    ] {
        layouts(m, n, k, false);
        layouts(m, n, k, true);
    }
}

#[test]
fn large_products_are_split_over_rows_and_depth() {
    let (m, n, k) = (1600, 33, 20);
    layouts(m, n, k, false);
    let (m, n, k) = (9, 20, 1500);
    layouts(m, n, k, true);
}

#[test]
fn terms_share_one_pass() {
    let (m, n) = (50, 45);
    let (x, w) = (values(m * 100, 1), values(n * 100, 2));
    let (t, b) = (values(m * 8, 3), values(n * 8, 4));
    let first = Term::new(Mat::new(&x, m, 100), Mat::new(&w, n, 100).t());
    let second = Term::scaled(Mat::new(&t, m, 8), Mat::new(&b, n, 8).t(), 2.0);
    check(&[first, second], n, false);
    check(&[second, first], n, true);
}

#[test]
fn sixteen_bit_factors_are_widened() {
    for (m, n, k) in [(3, 50, 37), (40, 50, 37)] {
        let (a, b) = (values(m * k, 1), values(k * n, 2));
        let bf: Vec<half::bf16> = b.iter().map(|&v| half::bf16::from_f32(v)).collect();
        let hf: Vec<half::f16> = b.iter().map(|&v| half::f16::from_f32(v)).collect();
        let a = Mat::new(&a, m, k);
        for b in [
            Mat::new(&bf, k, n),
            Mat::new(&bf, n, k).t(),
            Mat::new(&hf, k, n),
            Mat::new(&hf, n, k).t(),
        ] {
            check(&[Term::new(a, b)], n, false);
        }
    }
}

#[test]
fn an_empty_inner_dimension_gives_zeros() {
    let mut c = vec![7.0; 6];
    let term = Term::new(Mat::new(&[] as &[f32], 2, 0), Mat::new(&[] as &[f32], 0, 3));
    gemm(&[term], &mut c, 3, true, Par::All);
    assert_eq!(c, [7.0; 6]);
    gemm(&[term], &mut c, 3, false, Par::All);
    assert_eq!(c, [0.0; 6]);
}

#[test]
fn a_shared_factor_multiplies_ranges() {
    let (k, n, m) = (70, 90, 29);
    let b = values(k * n, 2);
    for b in [Mat::new(&b, k, n), Mat::new(&b, n, k).t()] {
        let mut memory = vec![0.0; Rhs::packed_len(k, n)];
        let rhs = Rhs::new(b, &mut memory);
        let columns = rhs.panel()..77;
        let a = values(m * 40, 1);
        let a = Mat::new(&a, m, 40);
        let expected = [Term::scaled(
            a,
            b.narrow_rows(13, 40).narrow_cols(columns.start, columns.len()),
            0.3,
        )];
        let mut c = vec![f32::NAN; m * columns.len()];
        let want = oracle(&expected, &[], columns.len(), false);
        rhs.times(a, 0.3, 13..53, columns.clone(), &mut c);
        for (i, (got, want)) in c.iter().zip(&want).enumerate() {
            assert!((f64::from(*got) - want).abs() < 1e-5, "{i}: {got} for {want}");
        }
    }
}

#[test]
fn every_path_of_this_machine_agrees() {
    let (m, n, k) = (31, 70, 50);
    let (a, b) = (values(m * k, 1), values(k * n, 2));
    let terms = [Term::new(Mat::new(&a, m, k), Mat::new(&b, k, n))];
    let want = oracle(&terms, &[], n, false);
    let near = |c: &[f32]| c.iter().zip(&want).all(|(c, w)| (f64::from(*c) - w).abs() < 1e-5);
    let mut c = vec![0.0; m * n];
    fallback::run(
        &terms,
        &Dest {
            ptr: Shared::new(&mut c),
            stride: n,
        },
        false,
        Par::One,
    );
    assert!(near(&c), "the portable path differs");
    #[cfg(target_arch = "x86_64")]
    if Isa::detect() != Isa::Base {
        let tile = kernel::Tile::of(Isa::Avx2).unwrap();
        packed::run(
            tile,
            &terms,
            &Dest {
                ptr: Shared::new(&mut c),
                stride: n,
            },
            false,
            Par::All,
        );
        assert!(near(&c), "the AVX2 tile differs");
    }
}
