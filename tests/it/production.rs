//! What `ft train` computes in a step, for goldens: the same code, from the model to the gradients that the optimizer takes.

use std::sync::Arc;

use burn::module::{Module, ModuleMapper, Param};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use ft_data::{Batch, Sample, Tokenizer};
use ft_infer::GenerationConfig;
use ft_model::{LoadDtype, Model};
use ft_peft::PeftConfig;
use ft_train::config::ObjectiveSection;
use ft_train::objectives::{Given, Objective, SftConfig};
use ft_train::{ActivationPolicy, MethodHook, MicroBatch, StepBatch, TrainModel};

use crate::support::{Array, arrays, fixture};

/// A model that is fine-tuned as `ft train` does where nothing else is asked for.
pub fn train_model(model: Model, activations: ActivationPolicy) -> TrainModel {
    TrainModel {
        model,
        activations,
        objective: Arc::new(SftConfig::default()),
        ranks: ft_train::Ranks::alone().into(),
    }
}

/// An objective by its options, `{"kind": ..}`, for a base without an adapter.
pub fn objective(options: &str, base: &Model) -> Arc<dyn Objective> {
    let options: ObjectiveSection = serde_json::from_str(options).unwrap();
    assert_eq!(options.kind().check(), Vec::<String>::new());
    let generation = GenerationConfig {
        eos_token_id: vec![2],
        ..GenerationConfig::default()
    };
    let given = Given::new(base, LoadDtype::F32, 7, &generation);
    options.kind().build(&given.reading(&masking_tokenizer())).unwrap()
}

/// What objectives that hide tokens need to know: which one stands for them.
fn masking_tokenizer() -> Tokenizer {
    let tokenizer = br#"{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": {"[UNK]": 0, "[MASK]": 3}, "unk_token": "[UNK]"}}"#;
    Tokenizer::from_memory(&[("tokenizer.json", tokenizer)]).unwrap()
}

/// A step of these micro-batches, whose dropout masks have the seeds `step`, `step + 1`, ...
pub fn step_batch(step: usize, batches: impl IntoIterator<Item = Batch>) -> StepBatch {
    let micro = batches.into_iter().zip(step as u64..);
    let micro = micro.map(|(batch, dropout_seed)| MicroBatch { batch, dropout_seed });
    StepBatch::new(step, micro.collect())
}

/// The step of a golden: ids and labels `[rows, width]` in the Hugging Face convention, -100 is no target.
pub fn golden_batch(ids: &Array, labels: &Array) -> StepBatch {
    let width = ids.shape[1];
    let rows = ids.values.chunks(width).zip(labels.values.chunks(width));
    let sample = |(ids, labels): (&[f64], &[f64])| {
        let ids = ids.iter().map(|id| *id as u32).collect();
        Sample::new(ids, labels.iter().map(|label| *label >= 0.0).collect())
    };
    let samples: Vec<Sample> = rows.map(sample).collect();
    step_batch(1, [Batch::new(&samples.iter().collect::<Vec<_>>(), 0, 1)])
}

/// The step that every golden of PEFT takes.
pub fn peft_batch() -> StepBatch {
    let forward = arrays(&fixture("peft/base_forward.safetensors"));
    golden_batch(&forward["input_ids"], &forward["labels"])
}

/// Mean loss of a step and the gradients that its optimizer takes.
pub fn step(model: &Model, hook: &mut MethodHook, batch: &StepBatch) -> (f64, GradientsParams) {
    let train = train_model(model.clone(), ActivationPolicy::default());
    let output = train.step_gradients(hook, batch, None, &|| true).unwrap().unwrap();
    (output.item.mean_loss().unwrap(), output.grads)
}

/// [`step`] of [`peft_batch`] for a method without a hook.
pub fn peft_step(model: &Model) -> (f64, GradientsParams) {
    step(model, &mut MethodHook::of(&PeftConfig::default()), &peft_batch())
}

#[track_caller]
pub fn close_loss(what: &str, found: f64, expected: f64, tolerance: f64) {
    let error = (found - expected).abs();
    assert!(error <= tolerance, "{what}: loss {found}, expected {expected}");
}

/// The model with its gradient in the place of every parameter.
pub fn in_gradients(model: &Model, grads: GradientsParams) -> Model {
    struct ToGradient(GradientsParams);

    impl ModuleMapper for ToGradient {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let gradient = self.0.get::<D>(param.id).expect("every parameter has a gradient");
            Param::initialized(param.id, Tensor::from_data(gradient.into_data(), &param.val().device()))
        }
    }

    model.clone().map(&mut ToGradient(grads))
}
