//! Token-exact perplexity against transformers' loss, and its laws.

use burn::tensor::{Device, activation::log_softmax};
use ft_data::Sample;
use ft_eval::{Error, Evaluation, batches, check, evaluate};
use ft_model::{LoadDtype, Model, Rows};
use ft_peft::Pass;

use crate::support::{Array, arrays, fixture};

const FAMILIES: [&str; 6] = ["llama", "llama3_rope", "mistral", "qwen2", "qwen3", "gpt2"];

fn load(family: &str) -> Model {
    Model::load(&fixture("families").join(family), LoadDtype::F32, &Device::flex()).unwrap()
}

/// The rows of ids and Hugging Face labels as samples.
fn samples(ids: &Array, labels: &Array) -> Vec<Sample> {
    let width = ids.shape[1];
    let row = |(ids, labels): (&[f64], &[f64])| {
        let learn = labels.iter().map(|label| *label >= 0.0).collect();
        Sample::new(ids.iter().map(|id| *id as u32).collect(), learn)
    };
    ids.values.chunks(width).zip(labels.values.chunks(width)).map(row).collect()
}

/// Samples of many lengths with gaps in what is learned.
fn mixed() -> Vec<Sample> {
    let sample = |n: usize| {
        let ids = (0..n).map(|i| (3 + (i * 31 + n * 17) % 93) as u32).collect();
        Sample::new(ids, (0..n).map(|i| (i + n) % 3 > 0).collect())
    };
    [1, 2, 3, 5, 9, 14, 14, 22, 30, 41].into_iter().map(sample).collect()
}

fn run(model: &Model, samples: &[Sample], batch_size: usize, multiple: usize) -> Evaluation {
    evaluate(model, batches(samples, batch_size, multiple)).unwrap()
}

#[test]
fn the_loss_is_that_of_transformers() {
    for family in FAMILIES {
        let golden = arrays(&fixture("families").join(family).join("golden.safetensors"));
        let samples = samples(&golden["input_ids"], &golden["labels"]);
        let found = run(&load(family), &samples, 2, 1);
        assert_eq!((found.tokens, found.samples), (34, 2));
        let difference = (found.loss() - golden["loss"].values[0]).abs();
        assert!(difference < 1e-5, "{family}: {difference}");
    }
}

#[test]
fn neither_batches_nor_padding_change_the_result() {
    for family in FAMILIES {
        let model = load(family);
        let alone = run(&model, &mixed(), 1, 1);
        assert_eq!(alone.tokens, mixed().iter().map(Sample::learned).sum::<usize>());
        assert_eq!(alone.samples, 8, "the samples of one and two tokens have nothing to predict");
        for (batch_size, multiple) in [(2, 1), (3, 8), (10, 1), (10, 16)] {
            let found = run(&model, &mixed(), batch_size, multiple);
            assert_eq!((found.tokens, found.samples), (alone.tokens, alone.samples));
            let relative = (found.nll_sum / alone.nll_sum - 1.0).abs();
            assert!(relative < 1e-6, "{family}, batches of {batch_size}, multiples of {multiple}: {relative}");
        }
    }
}

#[test]
fn it_is_the_mean_over_targets_and_nothing_else() {
    let model = load("llama");
    let mut expected = 0.0;
    for sample in mixed() {
        let ids: Vec<i32> = sample.ids.iter().map(|id| *id as i32).collect();
        let ids = burn::tensor::Tensor::<1, burn::tensor::Int>::from_ints(ids.as_slice(), &Device::flex());
        let hidden = model.forward(ids.unsqueeze(), &Rows::Right, None, &Pass::eval());
        let log_p = log_softmax(model.logits(hidden), 2).into_data().into_vec::<f32>().unwrap();
        let targets = (1..sample.ids.len()).filter(|i| sample.learn[*i]);
        expected -= targets.map(|i| f64::from(log_p[(i - 1) * 96 + sample.ids[i] as usize])).sum::<f64>();
    }
    let found = run(&model, &mixed(), 4, 1);
    assert!((found.nll_sum - expected).abs() < 1e-4, "{} and {expected}", found.nll_sum);
    assert!((found.perplexity() - (expected / found.tokens as f64).exp()).abs() < 1e-4);
}

#[test]
fn data_without_targets_and_samples_that_do_not_fit_are_errors() {
    let model = load("gpt2"); // 64 positions, 96 ids
    let silent = Sample::new(vec![3, 4, 5], vec![false; 3]);
    assert!(matches!(evaluate(&model, batches(&[silent], 2, 1)), Err(Error::NothingToPredict)));
    assert!(matches!(evaluate(&model, []), Err(Error::NothingToPredict)));

    let long = Sample::new(vec![5; 65], vec![true; 65]);
    let foreign = Sample::new(vec![5, 96], vec![true; 2]);
    let fits = Sample::new(vec![95; 64], vec![true; 64]);
    let error = check(&model, &[long, fits.clone(), foreign]).unwrap_err().to_string();
    assert!(error.contains("sample 0 has 65 tokens") && error.contains("sample 2 holds token id 96"), "{error}");
    assert!(check(&model, std::slice::from_ref(&fits)).is_ok());
    assert_eq!(run(&model, &[fits], 1, 1).tokens, 63);
}
