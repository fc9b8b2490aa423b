//! What a training step keeps and needs, counted by the allocator, beside what the plan says. A binary of its own: the
//! count is global.

#[path = "memory/token_cache.rs"]
mod token_cache;

use std::alloc::{GlobalAlloc, Layout as Block, System};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use burn::module::Module;
use burn::tensor::{Device, FloatDType, Int, Tensor, TensorData};
use ft_data::{Batch, Sample};
use ft_model::{LoadDtype, Model, ModelConfig, Rows};
use ft_optim::Optim;
use ft_peft::{Attached, Pass, PeftConfig, attach, preview};
use ft_quant::{Kind, Scheme};
use ft_train::checkpoint::{read_tensors, write_saved};
use ft_train::config::Checkpointing;
use ft_train::objectives::SftConfig;
use ft_train::plan::Demand;
use ft_train::{ActivationPolicy, Complete, MicroBatch, StepBatch, TrainModel};

struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
/// One test at a time: the count is global.
static TURN: Mutex<()> = Mutex::new(());

// SAFETY: everything is the system allocator's work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, block: Block) -> *mut u8 {
        let live = LIVE.fetch_add(block.size(), Ordering::Relaxed) + block.size();
        PEAK.fetch_max(live, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(block) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, block: Block) {
        LIVE.fetch_sub(block.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(memory, block) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const LLAMA: &str = r#"{"model_type": "llama", "vocab_size": 256, "hidden_size": 128, "intermediate_size": 352,
    "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": true}"#;
const GPT2: &str =
    r#"{"model_type": "gpt2", "vocab_size": 256, "n_embd": 128, "n_inner": 512, "n_layer": 4, "n_head": 4}"#;
const SHAPES: &[&str] = &[LLAMA, GPT2];

/// Llama's block in other forms, with the methods that show in what they differ.
const RELATIVES: &[&str] = &[
    r#"{"model_type": "gemma3_text", "vocab_size": 256, "hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 48, "sliding_window": 64, "sliding_window_pattern": 2}"#,
    r#"{"model_type": "phi3", "vocab_size": 256, "hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "partial_rotary_factor": 0.75, "tie_word_embeddings": true}"#,
    r#"{"model_type": "olmo2", "vocab_size": 256, "hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": true}"#,
    r#"{"model_type": "granite", "vocab_size": 256, "hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": true, "residual_multiplier": 0.5,
        "embedding_multiplier": 3.0, "logits_scaling": 2.0}"#,
];
const OF_RELATIVES: &[&str] = &[
    r#"{"method": "lora"}"#,
    r#"{"method": "full"}"#,
    r#"{"method": "ln_tuning"}"#,
];

const METHODS: &[&str] = &[
    r#"{"method": "lora"}"#,
    r#"{"method": "lora", "targets": ["q_proj", "v_proj", "c_attn"]}"#,
    r#"{"method": "lora", "targets": ["o_proj", "attn.c_proj"]}"#,
    r#"{"method": "lora", "targets": ["up_proj", "c_fc"]}"#,
    r#"{"method": "lora", "targets": ["down_proj", "mlp.c_proj"]}"#,
    r#"{"method": "lora", "layers": [2]}"#,
    r#"{"method": "lora", "dropout": 0.1}"#,
    r#"{"method": "lora", "dora": true}"#,
    r#"{"method": "lora", "dora": true, "dropout": 0.1}"#,
    r#"{"method": "full"}"#,
    r#"{"method": "full", "layers": [2, 3]}"#,
    r#"{"method": "ia3"}"#,
    r#"{"method": "ln_tuning"}"#,
    r#"{"method": "bitfit"}"#,
    r#"{"method": "loha"}"#,
    r#"{"method": "lokr"}"#,
    r#"{"method": "houlsby"}"#,
    r#"{"method": "pfeiffer"}"#,
    r#"{"method": "parallel"}"#,
    r#"{"method": "oft", "block_size": 8}"#,
    r#"{"method": "vera"}"#,
    r#"{"method": "vera", "dropout": 0.1}"#,
    r#"{"method": "shira", "rank": 8}"#,
    r#"{"method": "miss"}"#,
    r#"{"method": "miss", "init_weights": "bat", "rank": 32}"#,
    r#"{"method": "miss", "init_weights": "mini", "dropout": 0.1}"#,
    r#"{"method": "gralora"}"#,
    r#"{"method": "gralora", "hybrid_r": 8, "dropout": 0.1}"#,
    r#"{"method": "osf"}"#,
    r#"{"method": "prompt_tuning", "num_virtual_tokens": 64}"#,
    r#"{"method": "p_tuning_v2", "num_virtual_tokens": 64}"#,
];

/// Tokens that go through every layer beside the text's, and bytes of keys and values that stand before them.
fn virtual_tokens(config: &PeftConfig, shape: &ModelConfig) -> (usize, u64) {
    let n = config.method().virtual_tokens();
    let width = 2 * shape.num_key_value_heads * shape.head_dim;
    match config {
        PeftConfig::PTuningV2(_) => (0, (4 * n * width * shape.num_hidden_layers) as u64),
        _ => (n, 0),
    }
}

fn batch(tokens: usize) -> Batch {
    let ids = (0..tokens).map(|i| (i * 7 % 250) as u32).collect();
    Batch::new(&[&Sample::new(ids, vec![true; tokens])], 0, 1)
}

fn step_batch(tokens: usize) -> StepBatch {
    let micro = MicroBatch {
        batch: batch(tokens),
        dropout_seed: 1,
    };
    StepBatch::new(0, vec![micro])
}

fn train_model(model: Model, checkpointing: Checkpointing) -> TrainModel {
    TrainModel {
        model,
        activations: ActivationPolicy {
            checkpointing,
            offload: false,
        },
        objective: Arc::new(SftConfig::default()),
        ranks: ft_train::Ranks::alone().into(),
    }
}

/// Bytes that a forward pass over so many tokens leaves behind.
fn kept(model: &Model, tokens: usize) -> usize {
    let ids = Tensor::<2, Int>::from_data(TensorData::new(batch(tokens).ids, [1, tokens]), &model.device());
    let before = LIVE.load(Ordering::SeqCst);
    let hidden = model.forward(ids, &Rows::Right, None, &Pass::train(1));
    let kept = LIVE.load(Ordering::SeqCst) - before;
    drop(hidden);
    kept
}

/// Bytes that a step's gradients need at most, warm: work memory is there already.
fn peak(model: &Model, tokens: usize, checkpointing: Checkpointing) -> usize {
    let (batch, train) = (step_batch(tokens), train_model(model.clone(), checkpointing));
    let before = LIVE.load(Ordering::SeqCst);
    PEAK.store(before, Ordering::SeqCst);
    let output = train.gradients(&batch, &|| true).unwrap();
    let peak = PEAK.load(Ordering::SeqCst) - before;
    assert!(output.is_some());
    peak
}

/// The same for a step that is taken inside the backward pass, with an optimizer that keeps nothing.
fn peak_inside(model: Model, tokens: usize, blocks: usize) -> (Model, usize) {
    let (batch, mut complete) = (step_batch(tokens), Complete::new(1.0 / tokens as f64));
    let train = train_model(model, Checkpointing::Every(blocks));
    let rule = serde_json::from_str(r#"{"kind": "sgd"}"#).unwrap();
    let mut optim = Optim::new(&rule).unwrap();
    let before = LIVE.load(Ordering::SeqCst);
    PEAK.store(before, Ordering::SeqCst);
    let step = train.in_pieces(&batch, |model, piece, _| {
        let (grads, _) = complete.with(&model, piece.grads, piece.before);
        ControlFlow::Continue(optim.step(1e-3, model, grads))
    });
    let peak = PEAK.load(Ordering::SeqCst) - before;
    (step.unwrap().0.model, peak)
}

/// Every method on every shape; BitFit alone, and on a Llama alone, finds nothing to train.
fn cases() -> Vec<(&'static str, ModelConfig, PeftConfig, Attached)> {
    let pairs = [(SHAPES, METHODS), (RELATIVES, OF_RELATIVES)];
    let pairs = pairs.iter().flat_map(|(shapes, methods)| {
        let each = |text: &&'static str| {
            let text = *text;
            methods.iter().map(move |options| (text, *options)).collect::<Vec<_>>()
        };
        shapes.iter().flat_map(each).collect::<Vec<_>>()
    });
    let case = |(text, options): (&str, &'static str)| {
        let shape = ModelConfig::from_json(text, "config.json".as_ref()).unwrap();
        let config: PeftConfig = serde_json::from_str(options).unwrap();
        let Ok(attached) = preview(&shape.module_specs(), &config) else {
            assert!(options.contains("bitfit") && shape.model_type == "llama", "{options}");
            return None;
        };
        Some((options, shape, config, attached))
    };
    pairs.filter_map(case).collect()
}

/// Far apart by more than `share`.
fn far(said: u64, found: usize, share: f64) -> bool {
    (said as f64 / found as f64 - 1.0).abs() > share
}

#[test]
fn steps_need_what_the_plan_says() {
    let _turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    const TOKENS: usize = 256;
    let mut wrong = Vec::new();
    for (options, shape, config, attached) in cases() {
        let mut model = Model::init(&shape, 1, &Device::flex().autodiff());
        attach(&mut model, &config, 0).unwrap();
        let mut demand = Demand::new(&shape, &config, &attached, attached.parameters);
        peak(&model, TOKENS, Checkpointing::Off);
        let (columns, held) = virtual_tokens(&config, &shape);
        let (said, found) = (demand.kept(columns + TOKENS) + held, kept(&model, TOKENS));
        if far(said, found, 0.06) {
            wrong.push(format!("{options} on {}: keeps {found}, said {said}", shape.model_type));
        }
        for checkpointing in [Checkpointing::Off, Checkpointing::Every(1), Checkpointing::Every(2)] {
            demand.checkpointing = checkpointing;
            let moment = demand.peak(1, columns + TOKENS);
            let said = held + moment.gradients + moment.activations + moment.logits;
            let found = peak(&model, TOKENS, checkpointing);
            // These blocks are so small that their gradients weigh as much as what they keep.
            if far(said, found, 0.12) {
                let at = format!("{options} on {}, {checkpointing}", shape.model_type);
                wrong.push(format!(
                    "{at}: needs {found}, said {said}, {:.3}",
                    said as f64 / found as f64
                ));
            }
        }
        if options.contains("full") {
            demand.in_backward = true;
            for blocks in [1, 2] {
                demand.checkpointing = Checkpointing::Every(blocks);
                let moment = demand.peak(1, TOKENS);
                let said = moment.gradients + moment.activations + moment.logits;
                let after = peak(&model, TOKENS, demand.checkpointing);
                let found;
                (model, found) = peak_inside(model, TOKENS, blocks);
                if far(said, found, 0.12) || found >= after {
                    let at = format!("{options} on {}, {blocks}, step inside", shape.model_type);
                    let share = said as f64 / found as f64;
                    wrong.push(format!("{at}: needs {found}, said {said}, {share:.3}; {after} after"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn steps_over_codes_keep_what_the_plan_says() {
    let _turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    const TOKENS: usize = 256;
    let methods = [
        r#"{"method": "lora"}"#,
        r#"{"method": "lora", "dropout": 0.1}"#,
        r#"{"method": "lora", "dora": true, "dropout": 0.1}"#,
        r#"{"method": "adalora", "dropout": 0.1}"#,
        r#"{"method": "ia3"}"#,
        r#"{"method": "loha"}"#,
        r#"{"method": "oft", "block_size": 8}"#,
        r#"{"method": "vera", "dropout": 0.1}"#,
        r#"{"method": "pfeiffer"}"#,
        r#"{"method": "shira", "rank": 8}"#,
        r#"{"method": "miss", "init_weights": "bat", "rank": 32}"#,
        r#"{"method": "gralora"}"#,
        r#"{"method": "osf"}"#,
    ];
    let mut wrong = Vec::new();
    for (text, options) in SHAPES.iter().flat_map(|text| methods.map(|options| (text, options))) {
        let shape = ModelConfig::from_json(text, "config.json".as_ref()).unwrap();
        let config: PeftConfig = serde_json::from_str(options).unwrap();
        let attached = preview(&shape.module_specs(), &config).unwrap();
        let scheme = Some(Scheme::new(Kind::Nf4));
        let mut model = Model::init_quantized(&shape, 1, scheme, &Device::flex().autodiff());
        attach(&mut model, &config, 0).unwrap();
        let demand = Demand::new(&shape, &config, &attached, attached.parameters);
        peak(&model, TOKENS, Checkpointing::Off);
        let (said, found) = (demand.kept(TOKENS), kept(&model, TOKENS));
        if far(said, found, 0.06) {
            wrong.push(format!("{options} on {}: keeps {found}, said {said}", shape.model_type));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn sixteen_bit_activations_are_kept_as_the_plan_says() {
    let _turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    const TOKENS: usize = 256;
    let mut wrong = Vec::new();
    for (options, shape, config, attached) in cases() {
        let mut model = Model::init(&shape, 1, &Device::flex().autodiff()).computing_in(FloatDType::BF16);
        attach(&mut model, &config, 0).unwrap();
        let mut demand = Demand::new(&shape, &config, &attached, attached.parameters);
        demand.half = true;
        peak(&model, TOKENS, Checkpointing::Off);
        let (columns, held) = virtual_tokens(&config, &shape);
        let (said, found) = (demand.kept(columns + TOKENS) + held, kept(&model, TOKENS));
        if far(said, found, 0.1) {
            let share = said as f64 / found as f64;
            wrong.push(format!(
                "{options} on {}: keeps {found}, said {said}, {share:.3}",
                shape.model_type
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Bytes above those that are there already.
fn peak_of(part: impl FnOnce()) -> usize {
    let before = LIVE.load(Ordering::SeqCst);
    PEAK.store(before, Ordering::SeqCst);
    part();
    PEAK.load(Ordering::SeqCst) - before
}

#[test]
fn a_checkpoint_is_written_with_a_copy_of_one_tensor_at_a_time() {
    let _turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    // The buffer of the file, names and headers.
    const BESIDE: usize = (1 << 20) + (1 << 18);
    let shape = ModelConfig::from_json(LLAMA, "config.json".as_ref()).unwrap();
    let mut model = Model::init(&shape, 1, &Device::flex().autodiff());
    attach(&mut model, &serde_json::from_str(r#"{"method": "full"}"#).unwrap(), 0).unwrap();
    let mut optim = Optim::new(&serde_json::from_str(r#"{"kind": "adamw"}"#).unwrap()).unwrap();
    let train = train_model(model, Checkpointing::Off);
    let output = train.gradients(&step_batch(16), &|| true).unwrap().unwrap();
    model = optim.step(1e-3, train.model, output.grads);

    let largest = 4 * shape
        .tensors()
        .iter()
        .map(|t| t.shape.iter().product::<usize>())
        .max()
        .unwrap();
    let weights = 4 * shape.num_parameters();
    assert!(BESIDE + 3 * largest < weights, "or this test tells nothing");
    let dir = std::env::temp_dir().join(format!("ft-writing-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join("optimizer.safetensors");
    let states = peak_of(|| write_saved(&path, &optim.saved_state(&model)).unwrap());
    let export = peak_of(|| model.valid().save(&dir, LoadDtype::F32).unwrap());
    let mut saved = read_tensors(&path).unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
    assert!(
        states <= BESIDE + 3 * largest,
        "{states}: two moments of a tensor, one of them as bytes too"
    );
    assert!(export <= BESIDE + 2 * largest, "{export}");
    let mut state = optim.state_dict(&model);
    for list in [&mut saved, &mut state] {
        list.sort_by(|a, b| a.0.cmp(&b.0));
    }
    assert_eq!(saved, state);
}
