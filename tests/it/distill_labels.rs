//! Distillation of classifiers and encoders against float64, and runs: a teacher BERT, a student DistilBERT.

use std::collections::BTreeMap;
use std::fs;

use burn::optim::GradientsParams;
use burn::tensor::{Device, Int, Tensor, TensorData};
use ft_data::{Batch, Sample};
use ft_model::{LoadDtype, Model, ModelConfig};
use ft_peft::{Adaptable, AnyTensor, Pass, PeftConfig, attach, methods::full::FullConfig};
use ft_train::objectives::{Loss, Objective};
use serde_json::{Value, json};

use crate::production::{close_loss, in_gradients, objective, step_batch};
use crate::support::{Array, arrays, close, fixture};
use crate::train_support::Workshop;

fn load(name: &str, device: &Device) -> Model {
    let folder = fixture("heads").join(name);
    Model::load(&folder, LoadDtype::F32, device).unwrap()
}

/// The rows of the student's golden file without token types, with the labels of `labelled`.
fn batch(student: &str, labelled: &str) -> Batch {
    let folder = |name: &str| fixture("heads").join(name).join("golden.safetensors");
    let (rows, labels) = (arrays(&folder(student)), &arrays(&folder(labelled))["labels"]);
    let (ids, mask) = (&rows["input_ids"], &rows["attention_mask"]);
    let width = ids.shape[1];
    let masked = student.ends_with("masked");
    let of_row = labels.values.len() / ids.shape[0];
    let sample = |row: usize| {
        let length = mask.values[row * width..][..width].iter().sum::<f64>() as usize;
        let ids = ids.values[row * width..][..length].iter().map(|id| *id as u32);
        let sample = Sample::answered(ids.collect(), usize::MAX);
        let label: Vec<f32> = labels.values[row * of_row..][..of_row]
            .iter()
            .map(|x| *x as f32)
            .collect();
        if masked { sample } else { sample.labelled(&label) }
    };
    let samples: Vec<Sample> = (0..ids.shape[0]).map(sample).collect();
    let mut batch = Batch::packed(
        &[samples.iter().take(2).collect(), samples.iter().skip(2).collect()],
        0,
        8,
    );
    if masked {
        for sequence in 0..batch.sequences() {
            let own = &labels.values[sequence * width..];
            for (column, cell) in batch.cells(sequence).enumerate().filter(|(at, _)| own[*at] >= 0.0) {
                batch.positions.push(cell as i32);
                batch.targets.push(own[column] as i32);
                batch.sequence_of.push(sequence as i32);
            }
        }
    }
    batch
}

/// The loss of a batch as it is, through the hidden states between blocks.
fn loss(objective: &dyn Objective, model: &Model, batch: &Batch) -> (Loss, f64) {
    let step = step_batch(0, [batch.clone()]);
    let count = objective.unit().of(step.totals());
    let of = objective.loss(&step.micro_batches[0], &step);
    let ids = TensorData::new(batch.ids.clone(), [batch.rows, batch.width]);
    let ids = Tensor::<2, Int>::from_data(ids, &model.device());
    let (rows, pass) = (model.rows(batch.layout()), Pass::eval());
    let (mut hidden, mut layers) = (model.embed(ids, &rows, &pass), None::<Tensor<1>>);
    for block in 0..model.num_blocks() {
        hidden = model.blocks(block..block + 1, hidden, &rows, &pass);
        let inner = of.layers().expect("distillation looks at layers");
        if let Some(number) = inner
            .after
            .iter()
            .position(|after| *after == block + 1 && *after < model.num_blocks())
        {
            let own = (inner.sum)(model, number, hidden.clone());
            layers = Some(layers.map_or(own.clone(), |sum| sum + own));
        }
    }
    (of.loss(model, model.norm(hidden, &rows), layers), count as f64)
}

#[test]
fn losses_their_parts_and_gradients_equal_float64() {
    let cases: BTreeMap<String, Value> =
        serde_json::from_str(&fs::read_to_string(fixture("heads/distill.json")).unwrap()).unwrap();
    let golden = arrays(&fixture("heads/distill.safetensors"));
    for (name, case) in cases {
        let (student, teacher) = (case["student"].as_str().unwrap(), case["teacher"].as_str().unwrap());
        let mut options = case["options"].clone();
        options["kind"] = "distill".into();
        options["teacher"] = fixture("heads").join(teacher).display().to_string().into();
        let mut model = load(student, &Device::flex().autodiff());
        if name == "multi" {
            // As a plan puts the teacher's head on the student.
            let head = load(teacher, &Device::flex()).head().unwrap().clone();
            let config = model.config().clone().with_head(head, None).unwrap();
            let folder = fixture("heads").join(student);
            let device = Device::flex().autodiff();
            model = Model::load_configured(config, &folder, LoadDtype::F32, None, None, &device).unwrap();
        }
        let objective = objective(&options.to_string(), &model);
        let batch = batch(student, if name == "multi" { teacher } else { student });
        let expected = |key: &str| golden[&format!("{name}.{key}")].values[0];

        let held_out = match student.ends_with("masked") {
            true => None, // which masks anew
            false => Some(objective.held_out(&burn::module::Module::valid(&model), &batch)),
        };
        if let Some(judged) = held_out {
            close_loss(&name, judged.loss / judged.count as f64, expected("loss"), 1e-5);
            assert!(judged.said.is_some(), "{name}");
        }
        attach(&mut model, &PeftConfig::Full(FullConfig::default()), 0).unwrap();
        let (found, count) = loss(&*objective, &model, &batch);
        let mean = found.sum.clone().div_scalar(count);
        close_loss(&name, mean.clone().into_scalar::<f32>().into(), expected("loss"), 1e-5);
        for figure in found.figures {
            let own = figure.sum.into_scalar::<f32>() / figure.count as f32;
            let key = if figure.name == "nll" { "labels" } else { figure.name };
            close_loss(&format!("{name}.{key}"), own.into(), expected(key), 1e-5);
        }
        let grads = GradientsParams::from_grads(mean.backward(), &model);
        let mut of_model = BTreeMap::new();
        for mut module in in_gradients(&model, grads).target_modules() {
            of_model.extend(
                module
                    .tensors()
                    .into_iter()
                    .map(|(leaf, t)| (format!("{}.{leaf}", module.path), t)),
            );
        }
        let prefix = format!("{name}.grad.");
        let mut compared = 0;
        for (key, expected) in golden
            .iter()
            .filter_map(|(key, value)| Some((key.strip_prefix(&prefix)?, value)))
        {
            compare(&format!("{name}: {key}"), of_model[key].clone(), expected);
            compared += 1;
        }
        assert!(compared >= 20, "{name}: {compared}");
    }
}

fn compare(key: &str, found: AnyTensor, expected: &Array) {
    match found {
        AnyTensor::Vector(t) => close(key, t.without_autodiff(), expected, 1e-4),
        AnyTensor::Matrix(t) => close(key, t.without_autodiff(), expected, 1e-4),
    }
}

/// A workshop whose base is a student and whose `teacher` is a teacher, with texts and labels that a student can learn.
fn workshop(student: &str, teacher: &str) -> (Workshop, Vec<String>) {
    let workshop = Workshop::new();
    workshop.encoder("teacher", &fixture("heads").join(teacher));
    workshop.encoder("base", &fixture("heads").join(student));
    let lines = (0..24).map(|n| {
        let mut letters = vec!["a", "b", "c", "d", "e", "f", "g", "h"];
        letters.rotate_left(n % 8);
        letters.truncate(5 + n % 3);
        let label = ["negative", "neutral", "positive"][n % 3];
        json!({ "text": letters.join(" "), "label": label }).to_string() + "\n"
    });
    let path = workshop.path("labelled.jsonl");
    fs::write(&path, lines.collect::<String>()).unwrap();
    let sets = vec![
        "objective.kind=distill".into(),
        format!("objective.teacher={}", workshop.path("teacher").display()),
        "objective.temperature=2".into(),
        "objective.t_squared=true".into(),
        "objective.hidden_layers=[[1, 1], [2, 2]]".into(),
        format!("data.train={}", path.display()),
        format!("data.valid={}", path.display()),
        "eval.samples=0".into(),
        "optim.lr=1e-2".into(),
        "peft.method=full".into(),
    ];
    (workshop, sets)
}

fn refs<'a>(sets: &'a [String], more: &[&'a str]) -> Vec<&'a str> {
    sets.iter().map(String::as_str).chain(more.iter().copied()).collect()
}

#[test]
fn a_student_comes_nearer_to_its_teacher_and_gets_its_labels() {
    let (workshop, sets) = workshop("distilbert", "bert");
    let more = ["data.format=classification", "objective.alpha=0.9"];
    let outcome = workshop
        .fit("run", &refs(&sets, &more))
        .unwrap_or_else(|e| panic!("{e}"));
    let (before, after) = (outcome.before.unwrap(), outcome.after.unwrap());
    assert!(after.loss < 0.8 * before.loss, "{} to {}", before.loss, after.loss);
    let last = workshop
        .metrics("run")
        .into_iter()
        .rfind(|line| line["eval_loss"].is_number())
        .unwrap();
    for key in ["eval_accuracy", "eval_divergence", "eval_labels", "eval_hidden"] {
        assert!(last[key].is_number(), "{key}: {last}");
    }
    let config = ModelConfig::from_dir(&workshop.path("run/final")).unwrap();
    assert_eq!(config.head.unwrap().labels, ["negative", "neutral", "positive"]);

    workshop.fit_until("parts", &refs(&sets, &more), 6);
    workshop.resume("parts", &refs(&sets, &more)).unwrap();
    assert_eq!(workshop.result("run", 12), workshop.result("parts", 12));
}

#[test]
fn a_student_learns_what_its_teacher_fills_in() {
    let (workshop, sets) = workshop("distilbert_masked", "bert_masked");
    let more = ["data.format=text", "objective.mask_probability=0.3"];
    let outcome = workshop
        .fit("run", &refs(&sets, &more))
        .unwrap_or_else(|e| panic!("{e}"));
    let (before, after) = (outcome.before.unwrap(), outcome.after.unwrap());
    assert!(after.loss < 0.8 * before.loss, "{} to {}", before.loss, after.loss);
    assert!(
        ModelConfig::from_dir(&workshop.path("run/final"))
            .unwrap()
            .fills_masks()
    );
    // A student of the same teacher, made out of it: BERT's layers as DistilBERT's.
    let teacher = Model::load(&workshop.path("teacher"), LoadDtype::F32, &Device::flex()).unwrap();
    let logits = |model: &Model| {
        let ids = Tensor::<2, Int>::from_ints([[1, 7, 9, 3, 11, 2]], &Device::flex());
        let rows = model.rows(vec![vec![[0, 6, 6]]]);
        model.logits(model.forward(ids, &rows, None, &Pass::eval())).into_data()
    };
    let before = logits(&teacher);
    let student = teacher.into_distilbert().unwrap();
    logits(&student).assert_approx_eq::<f32>(&before, burn::tensor::Tolerance::absolute(1e-5));
    student.save(&workshop.path("student"), LoadDtype::Auto).unwrap();
    let read = Model::load(&workshop.path("student"), LoadDtype::F32, &Device::flex()).unwrap();
    assert_eq!(read.config().model_type, "distilbert");
    logits(&read).assert_approx_eq::<f32>(&before, burn::tensor::Tolerance::absolute(1e-5));
    let smaller = read.keep_layers(&[1]).unwrap();
    let text = smaller.config().to_json("float32", true, None);
    assert!(
        text.contains("\"n_layers\": 1") && text.contains("DistilBertForMaskedLM"),
        "{text}"
    );
}

#[test]
fn what_has_no_next_token_is_refused() {
    let (workshop, sets) = workshop("distilbert", "bert");
    let error = |more: &[&str]| workshop.plan("run", &refs(&sets, more)).unwrap_err().to_string();
    let classes = "data.format=classification";
    for (more, says) in [
        ("objective.lambda=0.5", "objective.lambda: is about the next token"),
        ("objective.divergence=uld", "the teacher is compared by ULD"),
        ("objective.hidden_layers=[[3, 1]]", "the student has 2 layers"),
    ] {
        let found = error(&[classes, more]);
        assert!(found.contains(says), "{found}");
    }
    let llama = format!("objective.teacher={}", fixture("heads/llama").display());
    let found = error(&[classes, &llama]);
    assert!(found.contains("one of the two is an encoder"), "{found}");
    let found = error(&["data.format=text"]);
    assert!(found.contains("learns from texts with labels"), "{found}");
}
