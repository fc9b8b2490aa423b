//! What a device does in the best case: bytes copied per second, and the rate of matrix products. One JSON line.

use std::process::ExitCode;
use std::time::Instant;

use burn::tensor::{DType, Device, Distribution, FloatDType, Tensor};
use clap::Parser;
use serde_json::json;

/// Measures a device.
#[derive(Parser, Debug)]
struct Args {
    /// As in `ft --device`.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Rows and columns of the square product, and as many million numbers that are copied, a sixteenth of it.
    #[arg(long, default_value_t = 8192)]
    size: usize,
}

/// The program.
pub fn main() -> ExitCode {
    let args = Args::parse();
    let device = ft_cli::open_device(&args.device);
    let types = [
        ("f32", FloatDType::F32),
        ("bf16", FloatDType::BF16),
        ("f16", FloatDType::F16),
    ];
    let mut products = serde_json::Map::new();
    for (name, dtype) in types {
        if device.supports_dtype(dtype) && (name != "f16" || !device.supports_dtype(FloatDType::BF16)) {
            products.insert(name.into(), product([args.size; 3], dtype, &device).into());
        }
    }
    let result = json!({
        "device": args.device,
        "copy_gb_per_s": copy(args.size * args.size * 4, &device),
        "gemm_gflops": products,
        "size": args.size,
    });
    println!("{result}");
    ExitCode::SUCCESS
}

/// Rate of the product `[m, k] x [k, n]` in GFLOP/s, the best of several runs.
pub fn product([m, k, n]: [usize; 3], dtype: FloatDType, device: &Device) -> f64 {
    let x = Tensor::<2>::random([m, k], Distribution::Default, (device, DType::from(dtype)));
    let w = Tensor::<2>::random([n, k], Distribution::Default, (device, DType::from(dtype)));
    let rate = |times: usize| {
        device.sync().expect("the device finishes its work");
        let start = Instant::now();
        for _ in 0..times {
            let _ = ft_kernels::linear(x.clone(), w.clone());
        }
        device.sync().expect("the device finishes its work");
        (times * 2 * m * k * n) as f64 / start.elapsed().as_secs_f64() / 1e9
    };
    rate(1); // kernels are chosen
    (0..10).map(|_| rate(10)).fold(0.0, f64::max)
}

/// Gigabytes read and written per second by `x + 1` over so many numbers in f32, the best of several runs.
fn copy(numbers: usize, device: &Device) -> f64 {
    let x = Tensor::<1>::zeros([numbers], device);
    let rate = |times: usize| {
        device.sync().expect("the device finishes its work");
        let start = Instant::now();
        for _ in 0..times {
            let _ = x.clone().add_scalar(1.0);
        }
        device.sync().expect("the device finishes its work");
        (times * 8 * numbers) as f64 / start.elapsed().as_secs_f64() / 1e9
    };
    rate(1);
    (0..5).map(|_| rate(5)).fold(0.0, f64::max)
}
