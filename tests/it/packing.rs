//! Samples that share a row compute what they compute alone: loss and gradients, for every method, storage and family.

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor};
use ft_data::{Batch, Sample};
use ft_model::{Model, ModelConfig};
use ft_peft::attach;
use ft_train::ActivationPolicy;
use ft_train::config::Checkpointing;

use crate::families::FAMILIES;
use crate::methods_held::each_on;
use crate::methods_laws::{BASES, config, disturb};
use crate::production::{step_batch, train_model};

/// Documents of odd lengths, of one token and longer than any window of the fixtures.
fn documents() -> Vec<Sample> {
    let lengths = [7, 1, 3, 21, 1, 2, 12, 17];
    let document = |(salt, length): (usize, &usize)| {
        let ids = (0..*length).map(|i| ((i * 7 + salt * 13) % 90 + 3) as u32).collect();
        Sample::new(ids, (0..*length).map(|i| i != 2).collect())
    };
    lengths.iter().enumerate().map(document).collect()
}

/// The documents in rows of their own, and in two rows.
fn unpacked_and_packed() -> [Batch; 2] {
    let documents = documents();
    let all: Vec<&Sample> = documents.iter().collect();
    let (first, second) = all.split_at(5);
    [
        Batch::new(&all, 0, 1),
        Batch::packed(&[first.to_vec(), second.to_vec()], 0, 1),
    ]
}

fn gradients(model: &Model, activations: ActivationPolicy, batch: Batch) -> (f64, GradientsParams) {
    let train = train_model(model.clone(), activations);
    let output = train.gradients(&step_batch(0, [batch]), &|| true).unwrap().unwrap();
    (output.item.mean_loss().unwrap(), output.grads)
}

struct Compare<'a> {
    what: &'a str,
    alone: &'a GradientsParams,
    packed: &'a GradientsParams,
    /// Of all gradients together.
    largest: f32,
    seen: usize,
}

impl ModuleVisitor for Compare<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let (Some(alone), Some(packed)) = (self.alone.get::<D>(param.id), self.packed.get::<D>(param.id)) else {
            panic!("{}: a gradient is missing", self.what);
        };
        let scale = alone.clone().abs().max().into_scalar::<f32>();
        let error = (alone - packed).abs().max().into_scalar::<f32>();
        self.largest = self.largest.max(scale);
        self.seen += 1;
        assert!(
            error <= 1e-5 * scale.max(1e-2),
            "{} {:?}: {error:e} of {scale:e}",
            self.what,
            param.val().dims()
        );
    }
}

fn same(what: &str, model: &Model, activations: ActivationPolicy) {
    let [alone, packed] = unpacked_and_packed().map(|batch| gradients(model, activations, batch));
    assert!(
        (alone.0 - packed.0).abs() < 1e-5 * alone.0,
        "{what}: {} {}",
        alone.0,
        packed.0
    );
    assert_eq!(alone.1.len(), packed.1.len(), "{what}");
    let mut compare = Compare {
        what,
        alone: &alone.1,
        packed: &packed.1,
        largest: 0.0,
        seen: 0,
    };
    model.visit(&mut compare);
    assert!(
        compare.seen > 0 && compare.largest > 1e-3,
        "{what}: {:e}",
        compare.largest
    );
}

#[test]
fn every_method_in_every_storage_on_every_family() {
    let bases = [BASES[0], BASES[1], BASES[2], "families/mistral", "families/qwen3"];
    each_on(&bases, |what, held, _, config| {
        let mut model = held.load(&Device::flex().autodiff());
        attach(&mut model, config, 3).unwrap();
        disturb(&mut model);
        same(what, &model, ActivationPolicy::default());
    });
}

#[test]
fn full_fine_tuning_on_every_family_however_much_is_kept() {
    for name in FAMILIES {
        let mut model = crate::methods_laws::base(&format!("families/{name}"), &Device::flex().autodiff());
        attach(&mut model, &config(r#"{"method": "full"}"#), 3).unwrap();
        for checkpointing in [Checkpointing::Off, Checkpointing::Every(1)] {
            let activations = ActivationPolicy {
                checkpointing,
                offload: false,
            };
            same(&format!("{name}, {activations:?}"), &model, activations);
        }
    }
}

#[test]
fn prompts_stand_before_every_document_when_blocks_are_computed_again() {
    for method in ["prompt_tuning", "p_tuning", "prefix_tuning"] {
        for name in BASES {
            let mut model = crate::methods_laws::base(name, &Device::flex().autodiff());
            let options = format!(r#"{{"method": "{method}", "num_virtual_tokens": 3}}"#);
            attach(&mut model, &config(&options), 3).unwrap();
            disturb(&mut model);
            let activations = ActivationPolicy {
                checkpointing: Checkpointing::Every(1),
                offload: false,
            };
            same(&format!("{method} on {name}"), &model, activations);
        }
    }
}

/// Windows of 5 in the second layer alone.
#[test]
fn windows_of_some_layers_end_at_documents() {
    let text = r#"{"model_type": "qwen2", "vocab_size": 96, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 2, "use_sliding_window": true, "sliding_window": 5, "max_window_layers": 1}"#;
    let config = ModelConfig::from_json(text, "config.json".as_ref()).unwrap();
    assert_eq!(config.windows, [None, Some(5)]);
    let mut model = Model::init(&config, 3, &Device::flex().autodiff());
    attach(&mut model, &self::config(r#"{"method": "full"}"#), 3).unwrap();
    same("qwen2 with a window", &model, ActivationPolicy::default());
}

#[test]
fn a_document_of_a_packed_row_is_blind_to_the_others() {
    let model = crate::methods_laws::base("families/llama", &Device::flex().autodiff());
    let documents = documents();
    let loss = |other: &Sample| {
        let batch = Batch::packed(&[vec![other, &documents[3]]], 0, 1);
        let learned = batch.sequence_of.iter().filter(|of| **of == 1).count();
        let last = batch.positions.len() - learned;
        let only = Batch {
            positions: batch.positions[last..].to_vec(),
            targets: batch.targets[last..].to_vec(),
            sequence_of: batch.sequence_of[last..].to_vec(),
            ..batch
        };
        ft_eval::evaluate(&model.valid(), [only]).unwrap().nll_sum
    };
    assert_eq!(loss(&documents[0]), loss(&Sample::answered(vec![50; 7], 1)));
}
