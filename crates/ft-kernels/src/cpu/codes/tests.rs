use super::decode::plain;
use super::*;
use crate::cpu::gemm::{Mat, Par, eight};

static TABLE: [f32; 16] = [
    -2.7, -2.33, -1.96, -1.59, -1.22, -0.85, -0.48, -0.11, 0.26, 0.63, 1.0, 1.37, 1.74, 2.11, 2.48, 2.85,
];

/// Bytes and scales for a matrix of these dimensions.
fn parts(form: &Form) -> (Vec<u8>, Vec<f32>) {
    let bytes = (0..form.len() as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8);
    let scales = (0..form.scales()).map(|i| 0.3 + (i % 5) as f32 * 0.2);
    (bytes.collect(), scales.collect())
}

fn form(rows: usize, cols: usize, block: Option<usize>) -> Form {
    let codes = block.map_or(Codes::Eight, |block| Codes::Four { table: &TABLE, block });
    Form {
        rows,
        cols,
        codes,
        nested: None,
    }
}

/// From the definition.
fn value(form: &Form, bytes: &[u8], scales: &[f32], i: usize) -> f32 {
    match form.codes {
        Codes::Four { table, block } => {
            let code = (bytes[i / 2] >> if i.is_multiple_of(2) { 4 } else { 0 }) & 15;
            table[usize::from(code)] * scales[i / block]
        }
        Codes::Eight => f32::from(bytes[i] as i8) * scales[i / form.cols] * crate::packed::INVERSE_127,
    }
}

const FORMS: [(usize, usize, Option<usize>); 8] = [
    (7, 101, Some(64)),
    (40, 96, Some(32)),
    (9, 64, Some(4096)),
    (5, 160, Some(64)),
    (33, 65, Some(64)),
    (5, 37, None),
    (12, 64, None),
    (8, 0, Some(64)),
];

#[test]
fn rectangles_are_exact_as_the_oracle_says() {
    for (rows, cols, block) in FORMS {
        let form = form(rows, cols, block);
        let (bytes, scales) = parts(&form);
        let view = View {
            bytes: &bytes,
            scales: Scales::Plain(&scales),
            form,
        };
        for (part, columns, stride) in [
            (0..rows, 0..cols, cols.max(1)),
            (1..3, cols / 3..cols, cols + 5),
            (rows - 1..rows, 0..cols.min(1), 32),
            (2..5, cols.min(3)..cols.min(35), 40),
        ] {
            let mut out = vec![f32::NAN; part.len() * stride];
            view.rows(part.clone(), |w| {
                w.rectangle(part.clone(), columns.clone(), stride, &mut out)
            });
            for (r, row) in part.clone().enumerate() {
                for (c, column) in columns.clone().enumerate() {
                    let want = value(&form, &bytes, &scales, row * cols + column);
                    assert_eq!(out[r * stride + c], want, "{rows}x{cols} {block:?} at {row},{column}");
                }
                assert!(
                    out[r * stride + columns.len()..(r + 1) * stride]
                        .iter()
                        .all(|v| v.is_nan())
                );
            }
        }
    }
}

#[test]
fn dot_products_equal_the_oracle() {
    let mut taken = 0;
    for (rows, cols, block) in FORMS {
        let form = form(rows, cols, block);
        let (bytes, scales) = parts(&form);
        let view = View {
            bytes: &bytes,
            scales: Scales::Plain(&scales),
            form,
        };
        let x: Vec<f32> = (0..7 * cols).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
        view.rows(1..rows, |w| {
            let Some(x_in_order) = Interleaved::new(Mat::new(&x, 7, cols), &w) else {
                return;
            };
            taken += 1;
            let mut seen = 0;
            dots(&x_in_order, &w, 1..rows, &mut |vector, row, sum| {
                let terms = (0..cols).map(|c| {
                    let w = value(&form, &bytes, &scales, row * cols + c);
                    f64::from(w) * f64::from(x[vector * cols + c])
                });
                let want: f64 = terms.sum();
                assert!(
                    (f64::from(sum) - want).abs() < 1e-4,
                    "{rows}x{cols} {block:?}: {sum} for {want}"
                );
                seen += 1;
            });
            assert_eq!(seen, 7 * (rows - 1));
        });
    }
    let vectors = crate::cpu::isa::Isa::detect() != crate::cpu::isa::Isa::Base;
    assert_eq!(taken, if vectors { 3 } else { 0 });
}

#[test]
fn products_with_bytes_equal_the_oracle_and_do_not_depend_on_other_rows() {
    for (rows, cols) in [(5, 37), (12, 64), (33, 100), (9, 16), (70, 515), (1, 3)] {
        let form = form(rows, cols, None);
        let (bytes, scales) = parts(&form);
        let view = View {
            bytes: &bytes,
            scales: Scales::Plain(&scales),
            form,
        };
        let x: Vec<f32> = (0..11 * cols).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
        let (codes, scales) = view.eight().unwrap();
        let product = |x: &[f32]| {
            let mut out = vec![f32::NAN; x.len() / cols * rows];
            eight(x, codes, scales, &mut out, Par::All);
            out
        };
        let all = product(&x);
        for (at, got) in all.iter().enumerate() {
            let (vector, row) = (at / rows, at % rows);
            let terms = (0..cols).map(|c| {
                let w = value(&form, &bytes, scales, row * cols + c);
                f64::from(w) * f64::from(x[vector * cols + c])
            });
            let want: f64 = terms.sum();
            assert!((f64::from(*got) - want).abs() < 3e-4, "{rows}x{cols}: {got} for {want}");
        }
        for (from, count) in [(0, 1), (3, 2), (4, 3), (1, 8)] {
            let some = product(&x[from * cols..(from + count) * cols]);
            assert_eq!(some, all[from * rows..(from + count) * rows], "{rows}x{cols}");
        }
    }
}

#[test]
fn nested_scales_are_looked_up_for_the_rows_asked_for() {
    static MAP: [f32; 256] = [0.25; 256];
    let nested = Nested {
        map: &MAP,
        block: 2,
        offset: 1.0,
    };
    let form = Form {
        nested: Some(nested),
        ..form(6, 32, Some(32))
    };
    let (bytes, _) = parts(&form);
    let view = View {
        bytes: &bytes,
        scales: Scales::Nested(&[0; 6], &[1.0, 2.0, 3.0], nested),
        form,
    };
    assert_eq!(view.rows(3..6, |w| w.scales.to_vec()), [1.5, 1.75, 1.75]);
    assert_eq!(view.whole(|w| w.scales.to_vec()), [1.25, 1.25, 1.5, 1.5, 1.75, 1.75]);
}

#[test]
fn every_look_up_of_this_machine_gives_the_same_bits() {
    let bytes: Vec<u8> = (0..70u32).map(|i| (i * 73 + 11) as u8).collect();
    for len in [139, 32, 40, 1, 0] {
        let (mut want, mut got) = (vec![0.0; len], vec![0.0; len]);
        plain(&bytes, &TABLE, 0.7, &mut want);
        #[cfg(target_arch = "x86_64")]
        if crate::cpu::isa::Isa::detect() != crate::cpu::isa::Isa::Base {
            // SAFETY: `detect` saw AVX2 at least.
            unsafe { super::decode::avx2(&bytes, &TABLE, 0.7, &mut got) };
            assert_eq!(got, want);
        }
        #[cfg(target_arch = "x86_64")]
        if crate::cpu::isa::Isa::detect() == crate::cpu::isa::Isa::Avx512 {
            got.fill(0.0);
            // SAFETY: `detect` saw it.
            unsafe { super::decode::avx512(&bytes, &TABLE, 0.7, &mut got) };
            assert_eq!(got, want);
        }
    }
}
