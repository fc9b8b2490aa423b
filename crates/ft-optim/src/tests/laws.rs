//! What every optimizer keeps to.

use burn::module::{Module, Param};
use burn::optim::{GradientsParams, ModuleOptimizer, MuonConfig as BurnMuon};
use burn::tensor::{DType, Device, Tensor};

use super::{Net, Values, bits};
use crate::{Group, Muon, Optim, OptimConfig, load_trainable_tensors, named_parameters, trainable_tensors};

/// Every kind, and the options that change what is kept.
const ALL: [&str; 10] = [
    "kind = 'adamw'",
    "kind = 'adamw_8bit'",
    "kind = 'paged_adamw_32bit'",
    "kind = 'adafactor'",
    "kind = 'adafactor'\nbeta1 = 0.9\nscale_parameter = true",
    "kind = 'lion'",
    "kind = 'sgd'",
    "kind = 'sgd'\nmomentum = 0.9\nnesterov = true",
    "kind = 'muon'",
    "kind = 'muon'\nadjust_lr_fn = 'match_rms_adamw'\nadamw_lr = 1e-4",
];

/// A matrix that is large enough for 8 bits and for several threads, a table, and a norm.
#[derive(Module, Debug)]
struct Big {
    proj: Param<Tensor<2>>,
    embed_tokens: Param<Tensor<2>>,
    norm: Param<Tensor<1>>,
}

impl Big {
    fn new(seed: u64) -> Self {
        let (device, mut values) = (Device::flex().autodiff(), Values(seed));
        Self {
            proj: Param::from_tensor(values.matrix([300, 201], &device)),
            embed_tokens: Param::from_tensor(values.matrix([70, 61], &device)),
            norm: Param::from_tensor(values.vector(61, &device)),
        }
    }

    fn grads(&self, seed: u64) -> GradientsParams {
        let (device, mut values) = (Device::flex(), Values(seed));
        let mut grads = GradientsParams::new();
        grads.register(self.proj.id, values.matrix([300, 201], &device));
        grads.register(self.embed_tokens.id, values.matrix([70, 61], &device));
        grads.register(self.norm.id, values.vector(61, &device));
        grads
    }
}

fn config(text: &str) -> OptimConfig {
    let config: OptimConfig = toml::from_str(text).unwrap_or_else(|e| panic!("{text}: {e}"));
    config.check().unwrap_or_else(|e| panic!("{text}: {e}"));
    config
}

fn train(mut model: Big, optim: &mut Optim, steps: std::ops::Range<u64>) -> Big {
    for step in steps {
        let grads = model.grads(step);
        model = optim.step(1e-2, model, grads);
    }
    model
}

fn bytes(saved: &[(String, burn::tensor::TensorData)]) -> Vec<(&str, &[u8])> {
    saved
        .iter()
        .map(|(name, data)| (name.as_str(), &data.bytes()[..]))
        .collect()
}

#[test]
fn two_and_three_are_five_for_every_optimizer() {
    for text in ALL {
        let new = || Optim::new(&config(text)).unwrap();
        let mut optim = new();
        let five = train(Big::new(1), &mut optim, 0..5);
        let expected = optim.state_dict(&five);

        let mut optim = new();
        let two = train(Big::new(1), &mut optim, 0..2);
        let (weights, state) = (trainable_tensors(&two), optim.state_dict(&two));
        let other = load_trainable_tensors(Big::new(2), weights).unwrap();
        let mut optim = new();
        optim
            .load_state_dict(&other, state.clone())
            .unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(bytes(&optim.state_dict(&other)), bytes(&state), "{text}");
        let resumed = train(other, &mut optim, 2..5);
        assert_eq!(bits(&resumed), bits(&five), "{text}");
        assert_eq!(bytes(&optim.state_dict(&resumed)), bytes(&expected), "{text}");
    }
}

#[test]
fn the_planned_bytes_are_those_of_the_state() {
    for text in ALL {
        let config = config(text);
        let mut optim = Optim::new(&config).unwrap();
        let model = train(Big::new(1), &mut optim, 0..1);
        let saved = optim.state_dict(&model);
        let planned = named_parameters(&model);
        let planned = planned
            .iter()
            .flat_map(|p| config.state(&p.path, &p.shape))
            .map(|t| t.bytes());
        let held = saved.iter().map(|(_, data)| data.bytes().len());
        assert_eq!(planned.sum::<usize>(), held.sum::<usize>(), "{text}");
    }
}

#[test]
fn results_do_not_depend_on_threads() {
    for text in ALL {
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| bits(&train(Big::new(1), &mut Optim::new(&config(text)).unwrap(), 0..3)))
        };
        // Matrix products may be cut differently for other numbers of threads.
        if !text.contains("muon") {
            assert_eq!(run(1), run(3), "{text}");
        }
    }
}

#[test]
fn the_fused_pass_follows_the_operations() {
    for text in ALL {
        let values = |dtype: DType| {
            let mut values = Values(8);
            let device = Device::flex();
            let mut optim = Optim::new(&config(text)).unwrap();
            let mut param = values
                .matrix([130, 259], &device)
                .cast(burn::tensor::FloatDType::from(dtype));
            for _ in 0..3 {
                let grad = values
                    .matrix([130, 259], &device)
                    .cast(burn::tensor::FloatDType::from(dtype));
                param = optim.update(1e-2, "proj", param, grad);
            }
            param.into_data().convert::<f32>().try_to_vec::<f32>().unwrap()
        };
        for (a, b) in values(DType::F32).iter().zip(values(DType::F64)) {
            assert!((a - b).abs() < 2e-6, "{text}: {a}, {b}");
        }
    }
}

#[test]
fn every_optimizer_learns() {
    let device = Device::flex().autodiff();
    for text in ALL {
        let loss = |net: &Net| f64::from(net.loss(1, &device).into_scalar::<f32>());
        let mut net = Net::new(1, &device);
        let mut optim = Optim::new(&config(text)).unwrap();
        let before = loss(&net);
        for _ in 0..30 {
            let grads = net.grads(1, &device);
            net = optim.step(5e-3, net, grads);
        }
        assert!(loss(&net) < 0.9 * before, "{text}: {} of {before}", loss(&net));
    }
}

#[test]
fn decay_spares_norms_and_biases_for_every_optimizer() {
    for text in ALL {
        let key = if text.contains("muon") {
            ""
        } else {
            "\nweight_decay = 0.5"
        };
        let mut optim = Optim::new(&config(&format!("{text}{key}"))).unwrap();
        let device = Device::flex();
        let ones = || Tensor::<2>::ones([8, 8], &device);
        let nothing = || Tensor::<2>::zeros([8, 8], &device);
        for path in ["layers.0.proj.weight", "embed_tokens.weight"] {
            let decayed = optim.update(0.1, path, ones(), nothing());
            assert!(decayed.max().into_scalar::<f32>() < 0.9995, "{text}: {path}");
        }
        for path in ["layers.0.proj.bias", "layers.0.norm.weight"] {
            let spared = optim.update(0.1, path, ones(), nothing());
            assert_eq!(spared.min().into_scalar::<f32>(), 1.0, "{text}: {path}");
        }
    }
}

#[test]
fn muon_takes_hidden_matrices_alone() {
    let hidden = |path, shape: &[usize]| Group::of(path, shape).hidden;
    assert!(hidden("model.layers.0.self_attn.q_proj.weight", &[8, 8]));
    assert!(hidden("model.layers.0.self_attn.q_proj.delta.a", &[2, 8]));
    assert!(!hidden("model.layers.0.self_attn.q_proj.delta.l", &[8, 1]));
    assert!(!hidden("model.layers.0.input_layernorm.weight", &[8]));
    for table in [
        "model.embed_tokens.weight",
        "lm_head.weight",
        "transformer.wte.weight",
        "prompt_embeddings",
    ] {
        assert!(!hidden(table, &[8, 8]), "{table}");
    }
}

/// Burn's Muon keeps the sum where ours keeps the mean, which points the same way.
#[test]
fn muon_steps_as_burns_does() {
    #[derive(Module, Debug)]
    struct One {
        weight: Param<Tensor<2>>,
    }
    let device = Device::flex().autodiff();
    let new = || One {
        weight: Param::from_tensor(Values(1).matrix([24, 40], &device)),
    };
    let rule = Muon {
        momentum: 0.95,
        nesterov: true,
        ns_coefficients: [3.4445, -4.775, 2.0315],
        ns_steps: 5,
        eps: 1e-7,
        adjust_lr_fn: crate::AdjustLr::Original,
        weight_decay: 0.0,
    };
    let (mut ours, mut theirs) = (new(), new());
    let mut optims = [
        ModuleOptimizer::from(rule),
        ModuleOptimizer::from(BurnMuon::new().build()),
    ];
    for step in 0..4 {
        let grads = |model: &One| {
            let mut grads = GradientsParams::new();
            grads.register(model.weight.id, Values(step + 10).matrix([24, 40], &Device::flex()));
            grads
        };
        let (a, b) = (grads(&ours), grads(&theirs));
        ours = optims[0].step(0.02, ours, a);
        theirs = optims[1].step(0.02, theirs, b);
    }
    let apart = (ours.weight.val() - theirs.weight.val())
        .abs()
        .max()
        .into_scalar::<f32>();
    assert!(apart < 1e-5, "{apart}");
}

#[test]
fn keys_of_another_optimizer_are_refused() {
    for (text, key) in [
        ("kind = 'lion'\neps = 1e-8", "eps"),
        ("kind = 'adamw_8bit'\nmomentum = 0.9", "momentum"),
        ("kind = 'sgd'\nbetas = [0.9, 0.99]", "betas"),
        ("kind = 'muon'\nbetas = [0.9, 0.99]", "betas"),
        ("kind = 'adafactor'\nbetas = [0.9, 0.99]", "betas"),
    ] {
        let error = toml::from_str::<OptimConfig>(text).unwrap_err().to_string();
        assert!(
            error.contains(&format!("unknown field `{key}`")) && error.contains("`lr`"),
            "{error}"
        );
    }
    for (text, message) in [
        (
            "kind = 'sgd'\nnesterov = true",
            "`optim.nesterov` needs `optim.momentum` above 0",
        ),
        (
            "kind = 'adafactor'\nrelative_step = true\nlr = 0.1",
            "`optim.lr` and `optim.relative_step` both",
        ),
        ("kind = 'adafactor'\nwarmup_init = true", "`optim.warmup_init` needs"),
        ("kind = 'muon'\nns_steps = 0", "`optim.ns_steps` is 0"),
        ("kind = 'lion'\nbetas = [0.9, 1.5]", "`optim.betas` is [0.9, 1.5]"),
    ] {
        let config: OptimConfig = toml::from_str(text).unwrap();
        let error = config.check().unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
}
