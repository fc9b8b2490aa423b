//! Training from a file that is fifty times as large as what it takes of memory.

use std::io::Write;

use ft_data::{Cache, DataConfig, Dataset, How, Tokenizer, load_samples};
use ft_train::{Batches, Padding};

use super::*;

/// Bytes of the file.
const FILE: usize = 50 << 20;
/// Bytes that training from it may take beside what a step takes in any case.
const ALLOWED: usize = FILE / 50;
/// Bytes that making the cache may take, of a file of any size: records and tokens of a group, a shard as samples and as words.
const MAKING: usize = 32 << 20;

const WORDS: usize = 200;
/// Words of a record, and bytes of a word with the space behind it.
const LENGTH: usize = 1500;
const WORD: usize = 21;

fn word(number: usize) -> String {
    format!("{number:0>20}")
}

fn tokenizer() -> Tokenizer {
    let mut vocab: serde_json::Map<_, _> = (0..WORDS).map(|i| (word(i), i.into())).collect();
    vocab.insert("<unk>".into(), WORDS.into());
    vocab.insert("</s>".into(), (WORDS + 1).into());
    let json = serde_json::json!({
        "version": "1.0",
        "added_tokens": [{ "id": WORDS + 1, "content": "</s>", "special": true, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false }],
        "pre_tokenizer": { "type": "WhitespaceSplit" },
        "model": { "type": "WordLevel", "vocab": vocab, "unk_token": "<unk>" },
    });
    Tokenizer::from_memory(&[("tokenizer.json", json.to_string().as_bytes())]).unwrap()
}

fn write(path: &std::path::Path) {
    let mut file = std::io::BufWriter::new(std::fs::File::create(path).unwrap());
    for record in 0..FILE / (LENGTH * WORD) + 1 {
        for at in 0..LENGTH {
            write!(file, "{} ", word((record * 31 + at * at * 7 + at) % WORDS)).unwrap();
        }
        writeln!(file).unwrap();
    }
    file.flush().unwrap();
}

fn steps(data: Dataset, train: &TrainModel, every: usize) -> usize {
    let pad = Padding { id: 0, multiple: 1 };
    let batches = Batches::new(data.samples, [1, 1], true, true, 7, pad);
    let mut tokens = 0;
    for (step, rows) in batches.epoch(0).iter().enumerate() {
        let batch = batches.step_batch(rows, step);
        tokens += batch.tokens;
        if step % every == 0 {
            assert!(train.gradients(&batch, &|| true).unwrap().is_some());
        }
    }
    tokens
}

#[test]
fn training_takes_a_fiftieth_of_the_file_at_most() {
    let _turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    let shape = ModelConfig::from_json(LLAMA, "config.json".as_ref()).unwrap();
    let mut model = Model::init(&shape, 1, &Device::flex().autodiff());
    attach(&mut model, &serde_json::from_str(METHODS[0]).unwrap(), 0).unwrap();
    let train = train_model(model, Checkpointing::Off);

    let (folder, tokenizer) = (tempfile::tempdir().unwrap(), tokenizer());
    let file = folder.path().join("large.txt");
    write(&file);
    assert!(std::fs::metadata(&file).unwrap().len() as usize >= 50 * ALLOWED);
    let config = DataConfig {
        cache: Cache::Folder(folder.path().join("tokens")),
        max_length: 2048,
        ..DataConfig::new(&file)
    };
    let load = |config: &DataConfig| load_samples(&file, config, &tokenizer).unwrap();
    let few = DataConfig {
        limit: Some(2),
        cache: Cache::Off,
        ..config.clone()
    };
    let few = load(&few);
    let warm = steps(few.clone(), &train, 1);
    let step = peak_of(|| assert_eq!(steps(few, &train, 1), warm));

    let mut made = None;
    let making = peak_of(|| made = Some(load(&config)));
    let made = made.unwrap();
    assert_eq!(made.cached.as_ref().unwrap().how, How::Written);
    assert!(making <= MAKING, "{making}");
    let (samples, tokens) = (made.samples.len(), made.statistics.tokens);
    drop(made);

    let mut read = 0;
    let training = peak_of(|| {
        let data = load(&config);
        assert_eq!(
            (data.cached.as_ref().unwrap().how, data.samples.len()),
            (How::Read, samples)
        );
        read = steps(data, &train, samples / 3);
    });
    assert_eq!(read, tokens, "every token was fed");
    let growth = training.saturating_sub(step);
    assert!(
        growth <= ALLOWED,
        "{growth} of {ALLOWED}: {training}, and {step} for a step"
    );
    println!(
        "a file of {FILE} bytes, {samples} samples: {growth} bytes beside a step's {step}; {making} to make the cache"
    );
}
