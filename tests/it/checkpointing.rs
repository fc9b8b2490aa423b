//! Computing blocks again instead of keeping what they need changes nothing but memory.

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor};
use ft_data::{Batch, Sample};
use ft_model::{LoadDtype, Model, ModelConfig};
use ft_peft::{PeftConfig, attach};
use ft_quant::{Kind, Scheme};
use ft_train::ActivationPolicy;
use ft_train::config::Checkpointing;

use crate::methods_laws::{BASES, METHODS, base, config, disturb};
use crate::production::{step_batch, train_model};
use crate::support::fixture;
use crate::train_support::Workshop;

const FULL: &str = r#"{"method": "full"}"#;
/// What reaches the embeddings and the head, or only the last blocks.
const PLACES: &[&str] = &[
    FULL,
    r#"{"method": "full", "layers": [1]}"#,
    r#"{"method": "full", "targets": ["embed_tokens"]}"#,
    r#"{"method": "full", "targets": ["model.norm"]}"#,
    r#"{"method": "lora", "rank": 2, "targets": ["embed_tokens", "q_proj"]}"#,
    r#"{"method": "lora", "rank": 2, "targets": ["lm_head"]}"#,
    r#"{"method": "lora", "rank": 2, "targets": ["v_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}"#,
    r#"{"method": "lora", "rank": 2, "layers": [1]}"#,
    r#"{"method": "lora", "rank": 2, "layers": [0]}"#,
];
/// With dropout: the masks of the second computation are those of the first.
const DROPOUT: &[&str] = &[
    r#"{"method": "lora", "rank": 2, "dropout": 0.3}"#,
    r#"{"method": "lora", "rank": 2, "dropout": 0.3, "dora": true}"#,
    r#"{"method": "vera", "rank": 8, "dropout": 0.3}"#,
    r#"{"method": "gralora", "rank": 4, "hybrid_r": 2, "dropout": 0.3}"#,
    r#"{"method": "miss", "rank": 4, "dropout": 0.3}"#,
];

fn every(blocks: usize, offload: bool) -> ActivationPolicy {
    ActivationPolicy {
        checkpointing: Checkpointing::Every(blocks),
        offload,
    }
}

/// Two micro-batches of rows of several lengths, the first tokens of each not learned.
fn batches() -> [Batch; 2] {
    let sample = |salt: usize, len: usize| {
        let ids = (0..len).map(|i| ((i * 7 + salt * 13) % 90 + 3) as u32).collect();
        Sample::new(ids, (0..len).map(|i| i > 2).collect())
    };
    let rows = [sample(1, 9), sample(2, 6), sample(3, 11)];
    [Batch::new(&[&rows[0], &rows[1]], 0, 1), Batch::new(&[&rows[2]], 0, 1)]
}

/// Mean loss and summed gradients over the micro-batches.
fn gradients(model: &Model, activations: ActivationPolicy) -> (f64, GradientsParams) {
    let train = train_model(model.clone(), activations);
    let output = train.gradients(&step_batch(0, batches()), &|| true).unwrap().unwrap();
    (output.item.mean_loss().unwrap(), output.grads)
}

struct Compare<'a> {
    what: &'a str,
    plain: &'a GradientsParams,
    again: &'a GradientsParams,
    seen: Vec<ParamId>,
}

impl ModuleVisitor for Compare<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.seen.push(param.id);
        let (plain, again) = (self.plain.get::<D>(param.id), self.again.get::<D>(param.id));
        let (Some(plain), Some(again)) = (&plain, &again) else {
            panic!("{}: {} and {}", self.what, plain.is_some(), again.is_some());
        };
        let scale = plain.clone().abs().max().into_scalar::<f32>();
        let error = (plain.clone() - again.clone()).abs().max().into_scalar::<f32>();
        let shape = plain.dims();
        assert!(error <= 1e-6 * scale, "{} {shape:?}: {error:e} of {scale:e}", self.what);
    }
}

fn same(what: &str, model: &Model, choices: &[ActivationPolicy]) {
    let (losses, plain) = gradients(model, ActivationPolicy::default());
    for activations in choices {
        let what = format!("{what}, {activations:?}");
        let (again_losses, again) = gradients(model, *activations);
        assert_eq!(losses, again_losses, "{what}");
        assert_eq!(plain.len(), again.len(), "{what}");
        let mut compare = Compare {
            what: &what,
            plain: &plain,
            again: &again,
            seen: Vec::new(),
        };
        model.visit(&mut compare);
        assert!(!compare.seen.is_empty(), "{what}");
    }
}

fn adapted(mut model: Model, options: &str) -> Model {
    attach(&mut model, &config(options), 3).unwrap_or_else(|e| panic!("{options}: {e}"));
    disturb(&mut model);
    model
}

#[test]
fn every_method_gets_the_gradients_of_the_plain_backward() {
    let device = Device::flex().autodiff();
    let methods = METHODS
        .iter()
        .map(|(options, _)| *options)
        .chain([FULL])
        .chain(DROPOUT.iter().copied());
    for options in methods {
        for name in BASES {
            // A Llama has no biases.
            if options.contains("bitfit") && name == "families/llama" {
                continue;
            }
            let model = adapted(base(name, &device), options);
            same(
                &format!("{options} on {name}"),
                &model,
                &[every(1, false), every(2, true)],
            );
        }
    }
}

#[test]
fn a_last_segment_may_be_shorter() {
    let device = Device::flex().autodiff();
    let text = std::fs::read_to_string(fixture("families/llama").join("config.json")).unwrap();
    for tied in [false, true] {
        let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
        json["num_hidden_layers"] = 5.into();
        json["tie_word_embeddings"] = tied.into();
        let shape = ModelConfig::from_json(&json.to_string(), "config.json".as_ref()).unwrap();
        for options in PLACES {
            // A tied head has no place of its own to adapt.
            if tied && options.contains("lm_head") && !options.contains("modules") {
                continue;
            }
            let model = adapted(Model::init(&shape, 1, &device), options);
            let choices = [1, 2, 3, 5, 9].map(|blocks| every(blocks, false));
            same(&format!("{options}, tied {tied}"), &model, &choices);
        }
    }
}

#[test]
fn every_storage_gets_them_too() {
    let device = Device::flex().autodiff();
    for kind in [Kind::Nf4, Kind::Fp4, Kind::Int8] {
        let scheme = Scheme::new(kind);
        let load = |name: &str| {
            Model::load_quantized(&fixture(name), LoadDtype::F32, Some(scheme), &device)
                .unwrap_or_else(|e| panic!("{name}: {e}"))
        };
        for options in [DROPOUT[0], r#"{"method": "ia3"}"#] {
            let model = adapted(load("families/llama"), options);
            same(&format!("{options} on {kind:?}"), &model, &[every(1, false)]);
        }
    }
}

#[test]
fn nothing_below_what_trains_asks_for_a_gradient() {
    let device = Device::flex().autodiff();
    let mut model = base("families/llama", &device);
    let config: PeftConfig = config(r#"{"method": "full", "layers": [1]}"#);
    attach(&mut model, &config, 0).unwrap();
    assert!(!model.trains_before(0) && !model.trains_before(1) && model.trains_before(2));
}

#[test]
fn a_run_is_the_same_with_it() {
    let workshop = Workshop::new();
    let sets = ["train.checkpointing=1", "train.offload_activations=true"];
    workshop.fit("plain", &[]).unwrap();
    workshop.fit("again", &sets).unwrap();
    for (a, b) in workshop.curve("plain").iter().zip(workshop.curve("again")) {
        let far = |x: Option<f64>, y: Option<f64>| (x.unwrap_or(0.0) - y.unwrap_or(0.0)).abs() > 1e-6;
        assert!(a.0 == b.0 && !far(a.1, b.1) && !far(a.2, b.2), "{a:?} and {b:?}");
    }
}

#[test]
fn waiting_in_host_memory_changes_no_bit_in_any_compute_type() {
    let workshop = Workshop::new();
    for compute in ["f32", "bf16", "f16"] {
        let compute_set = format!("model.compute={compute}");
        let sets = [
            compute_set.as_str(),
            "train.checkpointing=1",
            "train.offload_activations=true",
        ];
        let [resident, offloaded] = ["resident", "offloaded"].map(|name| format!("{name}-{compute}"));
        workshop.fit(&resident, &sets[..2]).unwrap();
        workshop.fit(&offloaded, &sets).unwrap();
        assert_eq!(workshop.curve(&resident), workshop.curve(&offloaded), "{compute}");
    }
}
