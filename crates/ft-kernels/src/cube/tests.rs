//! On the first Vulkan device of the machine, a software one included, against the CPU path.
//!
//! `FT_CARD=cuda` in the environment takes the first CUDA device instead; `FT_CARD=null`, too, and compares nothing: that is for
//! `xtask/null-cuda`, whose kernels are compiled and do not run.
use crate::frozen_matmul::tests::{CASES, TABLE, packed};
use crate::frozen_matmul::{FrozenOps, buffers, frozen_matmul, unpack};
use crate::packed::{Codes, Packed};
use crate::testing::{close, values};
use crate::{Output, dropout, frozen_lora, linear};
use burn::backend::Dispatch;
use burn::tensor::{DType, Device, DeviceType, FloatDType, Tensor, TensorData};

mod adamw;
mod attention;
mod cross_entropy;
mod gradients;
mod lora;
mod rows;

/// What the kernels compute for on this device, and how far off a result is that was rounded to it: software devices have no bf16.
fn types() -> Vec<(FloatDType, f64)> {
    let all = [
        (FloatDType::F32, DType::F32, 2e-5),
        (FloatDType::F16, DType::F16, 3e-3),
        (FloatDType::BF16, DType::BF16, 2.4e-2),
    ];
    let device = gpu();
    let here = all.into_iter().filter(|(_, dtype, _)| device.supports_dtype(*dtype));
    here.map(|(dtype, _, bound)| (dtype, bound)).collect()
}

fn card() -> Option<String> {
    std::env::var("FT_CARD").ok()
}

/// `run` on the card in a type, and on the CPU in f32 from the same numbers: results one by one.
#[track_caller]
fn compare(
    run: impl Fn(&Device, FloatDType) -> Vec<TensorData>,
    dtype: FloatDType,
    bound: f64,
    names: &[&str],
    case: &str,
) {
    let on = |device: &Device, dtype| run(device, dtype).into_iter().map(|data| data.convert::<f64>());
    let got: Vec<_> = on(&gpu(), dtype).collect();
    let want: Vec<_> = on(&crate::testing::device(), FloatDType::F32).collect();
    assert_eq!((got.len(), want.len()), (names.len(), names.len()), "{case}");
    if card().is_some_and(|card| card == "null") {
        return;
    }
    for ((got, want), name) in got.iter().zip(&want).zip(names) {
        assert_eq!(got.shape(), want.shape(), "{name}, {case}");
        let [got, want] = [got, want].map(|data| data.as_slice::<f64>().unwrap());
        close(got, want, bound, &format!("{name}, {case}, {dtype:?}"));
    }
}

/// Values that all the types hold: bf16 does, and f16 all but the smallest.
fn rounded(values: Vec<f64>) -> Vec<f64> {
    values.into_iter().map(|v| half::bf16::from_f64(v).to_f64()).collect()
}

fn tensor_of<const D: usize>(device: &Device, values: &[f64], dims: [usize; D], dtype: FloatDType) -> Tensor<D> {
    tensor(device, values, dims).cast(dtype)
}

/// A short block, one that is no power of two, one beyond the matrix, rows that are no whole words, 8-bit codes under nested
/// scales: with [`CASES`], every branch of the kernels.
fn cases() -> Vec<(usize, usize, Codes, bool)> {
    let four = |block| Codes::Four { table: &TABLE, block };
    let more = [
        (5, 24, four(2), false),
        (9, 48, four(6), true),
        (3, 63, four(4096), true),
        (70, 104, four(32), false),
        (6, 27, Codes::Eight, true),
    ];
    CASES.into_iter().chain(more).collect()
}

/// The small ones with rows of their own kind: Burn tunes its dense products for each shape, which takes software devices long.
fn small() -> Vec<(usize, usize, Codes, bool)> {
    let kinds = [(33, 65), (300, 96), (5, 37), (9, 48)];
    let chosen = cases().into_iter().filter(|case| kinds.contains(&(case.0, case.1)));
    chosen.collect()
}

fn gpu() -> Device {
    #[cfg(feature = "cuda")]
    if card().is_some() {
        return Device::cuda(0).autodiff();
    }
    let devices = Device::enumerate(DeviceType::Vulkan).into_vec();
    let first = devices.into_iter().next();
    first
        .expect("a Vulkan device; Mesa's lavapipe is one in software")
        .autodiff()
}

fn on(device: &Device, packed: &Packed) -> Packed {
    Packed {
        words: Tensor::from_data(packed.words.to_data(), (device, DType::U32)),
        scales: Tensor::from_data(packed.scales.to_data(), device),
        scale_codes: packed
            .scale_codes
            .as_ref()
            .map(|codes| Tensor::from_data(codes.to_data(), (device, DType::U32))),
        form: packed.form,
    }
}

fn floats<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor.into_data().convert::<f64>().try_to_vec().unwrap()
}

fn tensor<const D: usize>(device: &Device, values: &[f64], dims: [usize; D]) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values.to_vec(), dims), (device, DType::F32))
}

/// One product is exact. Compilers for cards regroup the factors of 8-bit codes, and round a nested scale once instead of twice.
/// Named results over a matrix `[rows, cols]`, on the card and on the CPU.
fn agree<const N: usize>(
    got: [Vec<f64>; N],
    want: [Vec<f64>; N],
    names: [&str; N],
    [rows, cols]: [usize; 2],
    case: &str,
) {
    let bound = 1e-5 * (rows.max(cols) as f64).sqrt();
    for ((got, want), what) in got.iter().zip(&want).zip(names) {
        close(got, want, bound, &format!("{what} of {rows}x{cols} {case}"));
    }
}

#[test]
fn unpacked_values_are_those_of_the_definition() {
    let device = gpu();
    for (rows, cols, codes, nested) in cases() {
        let (packed, dense) = packed(rows, cols, codes, nested);
        let got = unpack(&on(&device, &packed)).into_data().try_to_vec::<f32>().unwrap();
        assert_eq!(got.len(), dense.len());
        for (i, (got, want)) in got.iter().zip(&dense).enumerate() {
            let exact = !nested && codes != Codes::Eight;
            let bound = if exact { 0.0 } else { 1e-6 * want.abs() };
            assert!(
                (got - want).abs() <= bound,
                "{rows}x{cols} {codes:?} [{i}]: {got} for {want}"
            );
        }
    }
}

#[test]
fn half_precision_is_the_rounded_value() {
    let device = gpu();
    for (rows, cols, codes, nested) in cases().into_iter().filter(|case| !case.3) {
        let (packed, dense) = packed(rows, cols, codes, nested);
        let (words, scales, codes) = buffers(&on(&device, &packed));
        let w = <Dispatch as FrozenOps>::frozen_unpack(words, scales, codes, packed.form, DType::F16);
        let w = Tensor::<2>::from_dispatch(w);
        assert_eq!(w.dtype(), DType::F16);
        let want: Vec<f64> = dense.iter().map(|v| f64::from(half::f16::from_f32(*v))).collect();
        assert!(floats(w) == want, "{rows}x{cols}");
    }
}

#[test]
fn products_and_gradients_are_those_of_the_cpu() {
    let (card, cpu) = (gpu(), crate::testing::device());
    for (rows, cols, codes, nested) in small() {
        let (packed, _) = packed(rows, cols, codes, nested);
        for n in [8, 9] {
            let run = |device: &Device| {
                let packed = on(device, &packed);
                let x = tensor(device, &values(n * cols, 3), [1, n, cols]).require_grad();
                let y = frozen_matmul(x.clone(), &packed);
                let weights = tensor(device, &values(n * rows, 4), [1, n, rows]);
                let gradients = (y.clone() * weights).sum().backward();
                [floats(y), floats(x.grad(&gradients).unwrap())]
            };
            agree(
                run(&card),
                run(&cpu),
                ["y", "dx"],
                [rows, cols],
                &format!("{codes:?}, {n} rows"),
            );
        }
    }
}

/// What autodiff does not see: a view as input, and half precision, against the unpacked matrix on the same device.
#[test]
fn few_rows_of_any_layout_and_type_agree_with_the_dense_product() {
    let device = gpu().inner();
    for (rows, cols, codes, nested) in cases() {
        let packed = on(&device, &packed(rows, cols, codes, nested).0);
        for (dtype, bound) in [(FloatDType::F32, 1e-5), (FloatDType::F16, 4e-3)] {
            let x = tensor(&device, &values(cols * 4, 5), [cols, 4]).cast(dtype).transpose(); // [4, cols], a view
            let want = linear(x.clone().cast(FloatDType::F32), unpack(&packed));
            let got = floats(frozen_matmul(x, &packed));
            let bound = bound * (cols as f64).sqrt();
            close(
                &got,
                &floats(want),
                bound,
                &format!("{rows}x{cols} {codes:?}, {dtype:?}"),
            );
        }
    }
}

#[test]
fn adapters_over_codes_are_those_of_the_cpu() {
    let (card, cpu) = (gpu(), crate::testing::device());
    for (rows, cols, codes, nested) in small().into_iter().take(2) {
        let (packed, _) = packed(rows, cols, codes, nested);
        for (n, dropout) in [(2, None), (9, Some((0.3, 11)))] {
            let run = |device: &Device| {
                let packed = on(device, &packed);
                let x = tensor(device, &values(n * cols, 3), [1, n, cols]).require_grad();
                let a = tensor(device, &values(3 * cols, 5), [3, cols]).require_grad();
                let b = tensor(device, &values(rows * 3, 6), [rows, 3]).require_grad();
                let y = frozen_lora(x.clone(), &packed, a.clone(), b.clone(), 0.7, dropout, Output::Read);
                let weights = tensor(device, &values(n * rows, 4), [1, n, rows]);
                let gradients = (y.clone() * weights).sum().backward();
                let [da, db] = [a.grad(&gradients), b.grad(&gradients)].map(Option::unwrap);
                [floats(y), floats(x.grad(&gradients).unwrap()), floats(da), floats(db)]
            };
            let names = ["y", "dx", "da", "db"];
            agree(
                run(&card),
                run(&cpu),
                names,
                [rows, cols],
                &format!("{codes:?}, {n} rows"),
            );
        }
    }
}

#[test]
fn dropout_masks_are_those_of_the_cpu() {
    let run = |device: &Device| floats(dropout(tensor(device, &values(35 * 101, 3), [35, 101]), 0.3, 11));
    assert!(run(&gpu().inner()) == run(&Device::flex()));
}
