//! InfoNCE with in-batch negatives against sentence-transformers, and runs.

use std::collections::BTreeMap;
use std::fs;

use burn::optim::GradientsParams;
use burn::tensor::{Device, Int, Tensor, TensorData};
use ft_data::{Batch, Sample};
use ft_infer::{EmbeddingConfig, Pooling, embed};
use ft_model::{LoadDtype, Model, ModelConfig};
use ft_peft::{Adaptable, AnyTensor, Pass, PeftConfig, attach, methods::full::FullConfig};
use serde_json::json;

use crate::production::{close_loss, in_gradients, objective, step_batch};
use crate::support::{Array, arrays, close, fixture};
use crate::train_support::Workshop;

/// The pairs of the golden file, side by side and all in one row.
fn batches(golden: &BTreeMap<String, Array>) -> [Batch; 2] {
    let (ids, lengths) = (&golden["ids"], &golden["lengths"].values);
    let width = ids.shape[1];
    let text = |row: usize| {
        let ids = ids.values[row * width..][..lengths[row] as usize]
            .iter()
            .map(|id| *id as u32);
        Sample::answered(ids.collect(), 1)
    };
    let pairs: Vec<Sample> = (0..lengths.len() / 2)
        .map(|i| text(2 * i).over(text(2 * i + 1)))
        .collect();
    let all: Vec<&Sample> = pairs.iter().collect();
    [Batch::new(&all, 0, 1), Batch::packed(&[all], 0, 8)]
}

#[test]
fn losses_and_gradients_equal_sentence_transformers_padded_and_packed() {
    let golden = arrays(&fixture("heads/infonce.safetensors"));
    let folder = fixture("heads/distilbert");
    let config = ModelConfig::from_dir(&folder).unwrap().without_head().unwrap();
    for pooling in ["mean", "cls"] {
        let device = Device::flex().autodiff();
        let mut model = Model::load_configured(config.clone(), &folder, LoadDtype::F32, None, None, &device).unwrap();
        let options = json!({ "kind": "infonce", "pooling": pooling }).to_string();
        let objective = objective(&options, &model);
        attach(&mut model, &PeftConfig::Full(FullConfig::default()), 0).unwrap();
        for batch in batches(&golden) {
            let step = step_batch(0, [batch.clone()]);
            let ids = TensorData::new(batch.ids.clone(), [batch.rows, batch.width]);
            let ids = Tensor::<2, Int>::from_data(ids, &model.device());
            let hidden = model.forward(ids, &model.rows(batch.layout()), None, &Pass::eval());
            let sum = objective
                .loss(&step.micro_batches[0], &step)
                .loss(&model, hidden, None)
                .sum;
            let mean = sum.div_scalar(batch.examples() as f64);
            let expected = golden[&format!("{pooling}.loss")].values[0];
            close_loss(pooling, mean.clone().into_scalar::<f32>().into(), expected, 1e-5);
            let grads = GradientsParams::from_grads(mean.backward(), &model);
            let mut compared = 0;
            for mut module in in_gradients(&model, grads).target_modules() {
                for (leaf, tensor) in module.tensors() {
                    let key = format!("{pooling}.grad.{}.{leaf}", module.path);
                    let Some(expected) = golden.get(&key) else { continue };
                    match tensor {
                        AnyTensor::Vector(t) => close(&key, t.without_autodiff(), expected, 1e-4),
                        AnyTensor::Matrix(t) => close(&key, t.without_autodiff(), expected, 1e-4),
                    }
                    compared += 1;
                }
            }
            let all = golden
                .keys()
                .filter(|key| key.starts_with(&format!("{pooling}.grad.")))
                .count();
            assert_eq!(compared, all, "{pooling}: every gradient");
        }
    }
}

#[test]
fn texts_that_mean_the_same_come_near_and_the_result_says_how_it_makes_vectors() {
    let workshop = Workshop::new();
    workshop.encoder("base", &fixture("heads/bert"));
    // A letter means the one that follows it.
    let letters = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let lines = (0..8).map(|n| {
        let [anchor, positive] = [letters[n], letters[(n + 1) % 8]];
        json!({ "anchor": format!("{anchor} {anchor}"), "positive": format!("turn {positive}") }).to_string() + "\n"
    });
    let path = workshop.path("pairs.jsonl");
    fs::write(&path, lines.collect::<String>()).unwrap();
    let data = ["data.train", "data.valid"].map(|key| format!("{key}={}", path.display()));
    let sets = [
        "objective.kind=infonce",
        "data.format=text-pairs",
        &data[0],
        &data[1],
        "train.batch_size=8",
        "train.accumulation=1",
        "train.steps=40",
        "eval.batch_size=8",
        "eval.samples=0",
        "optim.lr=1e-2",
        "peft.method=full",
    ];
    let outcome = workshop.fit("run", &sets).unwrap_or_else(|e| panic!("{e}"));
    let (before, after) = (outcome.before.unwrap(), outcome.after.unwrap());
    assert!(after.loss < 0.3 * before.loss, "{} to {}", before.loss, after.loss);
    let folder = workshop.path("run/final");
    let said = EmbeddingConfig::from_dir(&folder).unwrap().unwrap();
    assert_eq!(
        (said.pooling, said.normalize, said.dimension),
        (Pooling::Mean, true, Some(16))
    );
    let model = Model::load(&folder, LoadDtype::F32, &Device::flex()).unwrap();
    assert!(model.head().is_none());
    // [CLS] a a [SEP], [CLS] turn b [SEP], [CLS] turn f [SEP]
    let [anchor, own, other] = [vec![1, 5, 5, 2], vec![1, 13, 6, 2], vec![1, 13, 10, 2]];
    let vectors = embed(&model, &[anchor, own, other], &said, [3, 1]);
    let near = |a: usize, b: usize| vectors[a].iter().zip(&vectors[b]).map(|(x, y)| x * y).sum::<f32>();
    assert!(near(0, 1) > near(0, 2) + 0.2, "{} and {}", near(0, 1), near(0, 2));

    workshop.fit_until("parts", &sets, 16);
    workshop.resume("parts", &sets).unwrap();
    assert_eq!(workshop.result("run", 40), workshop.result("parts", 40));
    let wrong = workshop.plan(
        "wrong",
        &[
            "objective.kind=infonce",
            &data[0],
            "data.format=text",
            "peft.method=full",
        ],
    );
    assert!(wrong.is_err());
}
