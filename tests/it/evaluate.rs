//! Token-exact perplexity against transformers' loss, and its laws.

use burn::tensor::{Device, activation::log_softmax};
use ft_data::Sample;
use ft_eval::{Error, EvalConfig, Evaluation, Question, batches, check, choose, evaluate, report};
use ft_infer::GenerationConfig;
use ft_model::{LoadDtype, Model, Rows};
use ft_peft::Pass;

use crate::families::FAMILIES;
use crate::support::{Array, arrays, fixture, word_tokenizer};

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
    ids.values
        .chunks(width)
        .zip(labels.values.chunks(width))
        .map(row)
        .collect()
}

/// Samples of many lengths with gaps in what is learned.
fn mixed() -> Vec<Sample> {
    let sample = |n: usize| {
        let ids = (0..n).map(|i| (3 + (i * 31 + n * 17) % 93) as u32).collect();
        Sample::new(ids, (0..n).map(|i| !(i + n).is_multiple_of(3)).collect())
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
    // LongRoPE goes by the longest text of a batch.
    for family in FAMILIES.into_iter().filter(|family| *family != "phi3_longrope") {
        let model = load(family);
        let alone = run(&model, &mixed(), 1, 1);
        assert_eq!(alone.tokens, mixed().iter().map(Sample::target_tokens).sum::<usize>());
        assert_eq!(
            alone.samples, 8,
            "the samples of one and two tokens have nothing to predict"
        );
        for (batch_size, multiple) in [(2, 1), (3, 8), (10, 1), (10, 16)] {
            let found = run(&model, &mixed(), batch_size, multiple);
            assert_eq!((found.tokens, found.samples), (alone.tokens, alone.samples));
            let relative = (found.nll_sum / alone.nll_sum - 1.0).abs();
            assert!(
                relative < 1e-6,
                "{family}, batches of {batch_size}, multiples of {multiple}: {relative}"
            );
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
        let log_p = log_softmax(model.logits(hidden), 2)
            .into_data()
            .try_into_vec::<f32>()
            .unwrap();
        let learn = sample.learn();
        let targets = (1..sample.ids.len()).filter(|i| learn[*i]);
        expected -= targets
            .map(|i| f64::from(log_p[(i - 1) * 96 + sample.ids[i] as usize]))
            .sum::<f64>();
    }
    let found = run(&model, &mixed(), 4, 1);
    assert!(
        (found.nll_sum - expected).abs() < 1e-4,
        "{} and {expected}",
        found.nll_sum
    );
    assert!((found.perplexity() - (expected / found.tokens as f64).exp()).abs() < 1e-4);
}

#[test]
fn data_without_targets_and_samples_that_do_not_fit_are_errors() {
    let model = load("gpt2"); // 64 positions, 96 ids
    let silent = Sample::new(vec![3, 4, 5], vec![false; 3]);
    assert!(matches!(
        evaluate(&model, batches(&[silent], 2, 1)),
        Err(Error::NothingToPredict)
    ));
    assert!(matches!(evaluate(&model, []), Err(Error::NothingToPredict)));

    let long = Sample::new(vec![5; 65], vec![true; 65]);
    let foreign = Sample::new(vec![5, 96], vec![true; 2]);
    let fits = Sample::new(vec![95; 64], vec![true; 64]);
    let error = check(&model, &[long, fits.clone(), foreign]).unwrap_err().to_string();
    assert!(
        error.contains("sample 0 has 65 tokens") && error.contains("sample 2 holds token id 96"),
        "{error}"
    );
    assert!(check(&model, std::slice::from_ref(&fits)).is_ok());
    assert_eq!(run(&model, &[fits], 1, 1).tokens, 63);
}

/// The prompts of the golden file, each with transformers' greedy answer and `</s>` as the right answer.
fn answered() -> Vec<Sample> {
    let golden = arrays(&fixture("families/llama/golden.safetensors"));
    let (prompts, mask) = (&golden["prompt_ids"], &golden["prompt_attention_mask"]);
    let answers = golden["generated_ids"].values.chunks(16);
    let row = |(row, answer): (usize, &[f64])| {
        let columns = (row * 9..(row + 1) * 9).filter(|&i| mask.values[i] > 0.0);
        let prompt: Vec<u32> = columns.map(|i| prompts.values[i] as u32).collect();
        let answer: Vec<u32> = answer.iter().map(|id| *id as u32).chain([2]).collect();
        let given = prompt.len();
        Sample::answered([prompt, answer].concat(), given)
    };
    answers.enumerate().map(row).collect()
}

#[test]
fn a_report_holds_what_was_asked_for() {
    let (model, tokenizer) = (load("llama"), word_tokenizer());
    let mut samples = answered();
    // Another right answer for the first prompt, a wrong one for the last; the model still says what it says.
    samples.push(Sample::new(
        [samples[0].prompt(), &[7, 7, 2]].concat(),
        vec![false, false, false, true, true, true],
    ));
    let end = samples[2].ids.len() - 2;
    samples[2].ids.to_mut()[end] = 5;
    let config = EvalConfig {
        metrics: ["perplexity", "byte_perplexity", "exact_match", "bleu", "rougeL"]
            .map(String::from)
            .to_vec(),
        batch_size: 2,
        generation: GenerationConfig::greedy(16, []),
        ..EvalConfig::default()
    };
    let mut shares = Vec::new();
    let found = report(&model, &tokenizer, &samples, &config, &mut |share| shares.push(share)).unwrap();
    assert_eq!((found.samples, found.tokens), (4, 3 * 17 + 3));
    assert!((found.loss.exp() - found.perplexity).abs() < 1e-9);
    assert_eq!(found.answers.len(), 3, "four samples, three prompts");
    assert_eq!(found.answers[0].references.len(), 2);
    assert_eq!(
        found.answers[0].prompt,
        Some(tokenizer.decode(samples[0].prompt(), true))
    );
    let text = |sample: &Sample| tokenizer.decode(sample.answer(), true);
    let bytes: usize = samples.iter().map(|sample| text(sample).len()).sum();
    let per_byte = (found.loss * found.tokens as f64 / bytes as f64).exp();
    assert!(
        (found.metrics["byte_perplexity"] - per_byte).abs() < 1e-9,
        "{:?}",
        found.metrics
    );
    assert_eq!(found.answers[1].hypothesis, found.answers[1].references[0]);
    assert!(!found.answers[1].hypothesis.contains("</s>"));
    assert_eq!(found.metrics["exact_match"], 2.0 / 3.0);
    assert!(
        (found.metrics["rougeL"] - (2.0 + 15.0 / 16.0) / 3.0).abs() < 1e-9,
        "{:?}",
        found.metrics
    );
    assert!(
        found.metrics["bleu"] > 90.0 && found.metrics["bleu"] < 100.0,
        "{:?}",
        found.metrics
    );
    assert!(shares.is_sorted() && shares.last() == Some(&1.0), "{shares:?}");

    let json = serde_json::to_value(&found).unwrap();
    let keys: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        keys,
        [
            "loss",
            "perplexity",
            "tokens",
            "samples",
            "bleu",
            "byte_perplexity",
            "exact_match",
            "rougeL",
            "signatures"
        ]
    );

    let unknown = EvalConfig {
        metrics: vec!["blue".into()],
        ..config
    };
    let error = report(&model, &tokenizer, &samples, &unknown, &mut |_| ()).unwrap_err();
    assert!(matches!(error, Error::UnknownMetric { .. }));
}

#[test]
fn a_choice_is_as_likely_as_its_tokens_after_the_prompt() {
    let (model, tokenizer) = (load("gpt2"), word_tokenizer());
    let text = |ids: &[u32]| tokenizer.decode(ids, true);
    let question = |prompt: &[u32], choices: &[&[u32]]| Question {
        prompt: text(prompt),
        choices: choices.iter().map(|ids| text(ids)).collect(),
        answer: 0,
    };
    let long: Vec<u32> = (0..70).map(|i| 5 + i % 40).collect();
    let questions = [
        question(&[5, 9, 30], &[&[7], &[11, 12, 13, 14], &[40, 41]]),
        question(&[20, 21, 22, 23, 24], &[&[50, 51], &[7]]),
        question(&long, &[&[7, 8]]),
    ];
    let found = choose(&model, &tokenizer, &questions, 3, 4, &mut |_| ()).unwrap();
    for (question, choice) in questions.iter().zip(&found) {
        for (index, answer) in question.choices.iter().enumerate() {
            let given = tokenizer.encode(&question.prompt, true).unwrap();
            let both = tokenizer
                .encode(&format!("{} {answer}", question.prompt), true)
                .unwrap();
            let beyond = both.len().saturating_sub(model.positions());
            let sample = Sample::answered(both[beyond..].to_vec(), given.len() - beyond);
            let alone = run(&model, &[sample], 1, 1);
            assert!(alone.tokens >= 1 && alone.tokens <= 4);
            let difference = (choice.log_likelihoods[index] + alone.nll_sum).abs();
            assert!(difference < 1e-4, "{answer}: {difference}");
            assert_eq!(choice.lengths[index], answer.chars().count());
        }
    }
}
