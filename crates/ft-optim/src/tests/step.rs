use burn::module::{Module, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, GradientCheckpointingStrategy, Tensor};

use super::{Net, Values, bits};
use crate::{Optim, OptimConfig, scale_and_clip};

#[derive(Module, Debug)]
struct Big {
    weight: Param<Tensor<2>>,
}

fn big(device: &Device) -> Big {
    Big {
        weight: Param::from_tensor(Values(1).matrix([300, 401], device)),
    }
}

fn big_grads(big: &Big, seed: u64) -> GradientsParams {
    let mut grads = GradientsParams::new();
    grads.register(big.weight.id, Values(seed).matrix([300, 401], &Device::flex()));
    grads
}

fn address(big: &Big) -> *const f32 {
    let flex = big
        .weight
        .val()
        .without_autodiff()
        .try_into_primitive::<burn::backend::Flex>()
        .unwrap();
    flex.storage::<f32>().as_ptr()
}

#[test]
fn the_cpu_writes_in_place() {
    let mut model = big(&Device::flex().autodiff());
    let mut optim = Optim::new(&OptimConfig::default()).unwrap();
    let before = address(&model);
    for seed in 0..3 {
        let grads = big_grads(&model, seed);
        model = optim.step(1e-2, model, grads);
    }
    assert_eq!(address(&model), before);
}

#[test]
fn a_step_after_backward_is_in_place_too() {
    let device = Device::flex().autodiff();
    let mut model = big(&device);
    let before = address(&model);
    let loss = model.weight.val().square().sum();
    let grads = GradientsParams::from_grads(loss.backward(), &model);
    model = Optim::new(&OptimConfig::default()).unwrap().step(1e-2, model, grads);
    assert_eq!(address(&model), before);
}

#[test]
fn a_clone_keeps_its_values() {
    let device = Device::flex().autodiff();
    let model = Net::new(1, &device);
    let copy = model.clone();
    let before = bits(&copy);
    let grads = model.grads(3, &device);
    let model = Optim::new(&OptimConfig::default()).unwrap().step(1e-2, model, grads);
    assert_eq!(bits(&copy), before);
    assert_ne!(bits(&model), before);
}

#[test]
fn only_what_has_a_gradient_moves() {
    let device = Device::flex().autodiff();
    let model = Net::new(1, &device);
    let (before, frozen) = (bits(&model), model.frozen.to_data());
    let mut grads = GradientsParams::new();
    grads.register(model.norm.weight.id, Tensor::<1>::ones([4], &Device::flex()));
    let model = Optim::new(&OptimConfig::default()).unwrap().step(1e-2, model, grads);
    let after = bits(&model);
    let moved: Vec<_> = (0..after.len()).filter(|i| after[*i] != before[*i]).collect();
    assert_eq!(moved, [8], "only norm.weight");
    assert_eq!(model.frozen.to_data(), frozen);
    assert!(!model.frozen.is_require_grad() && model.norm.weight.is_require_grad());
}

#[test]
fn tied_parameters_stay_tied() {
    let device = Device::flex().autodiff();
    let mut model = Net::new(1, &device);
    let mut optim = Optim::new(&OptimConfig::default()).unwrap();
    let before = model.embed.to_data();
    for seed in 0..2 {
        let grads = model.grads(seed, &device);
        model = optim.step(1e-2, model, grads);
    }
    assert_ne!(model.embed.to_data(), before);
    assert_eq!(model.head.to_data(), model.embed.to_data());
    assert!(model.head.is_require_grad());
}

#[test]
fn the_checkpointing_strategy_survives() {
    let device = Device::flex().autodiff().gradient_checkpointing();
    let model = Net::new(1, &device);
    let grads = model.grads(3, &device);
    let model = Optim::new(&OptimConfig::default()).unwrap().step(1e-2, model, grads);
    let strategy = model.embed.gradient_checkpointing_strategy();
    assert_eq!(strategy, Some(GradientCheckpointingStrategy::Balanced));
    model.grads(4, &device);
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut model = big(&Device::flex().autodiff());
            let mut optim = Optim::new(&OptimConfig::default()).unwrap();
            let mut norms = vec![];
            for seed in 0..3 {
                let (grads, norm) = scale_and_clip(&model, big_grads(&model, seed), 0.5, Some(1.0));
                norms.push(norm.value().to_bits());
                model = optim.step(1e-2, model, grads);
            }
            (bits(&model), norms)
        })
    };
    assert_eq!(run(1), run(3));
}

/// A gradient that arrives as a view (a slice of a transposed tensor) is read in its logical order.
#[test]
fn strided_tensors_are_read_in_order() {
    let device = Device::flex().autodiff();
    let step = |view: bool| {
        let model = big(&device);
        let wide = Values(5).matrix([500, 300], &Device::flex());
        let grad = wide.slice([50..451, 0..300]).transpose(); // [300, 401]
        let grad = if view {
            grad
        } else {
            Tensor::from_data(grad.to_data(), &Device::flex())
        };
        let mut grads = GradientsParams::new();
        grads.register(model.weight.id, grad);
        let (grads, norm) = scale_and_clip(&model, grads, 1.0, Some(0.1));
        (
            bits(&Optim::new(&OptimConfig::default()).unwrap().step(1e-2, model, grads)),
            norm.value(),
        )
    };
    assert_eq!(step(true), step(false));
}
