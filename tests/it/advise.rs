//! What `ft advise` chooses, one rule of the guide after the other, and what it sees in runs that were made to fail.

use std::fs;

use burn::tensor::Device;
use ft_train::advise::{Advised, Goal, Question, advise, troubles};
use ft_train::{DeviceTraits, Plan, RunConfig};
use serde_json::json;

use crate::support::fixture;
use crate::train_support::Workshop;

/// Layers, width, feed-forward width, heads.
const B7: [usize; 4] = [32, 4096, 11008, 32];
const B65: [usize; 4] = [80, 8192, 22016, 64];

struct Desk(tempfile::TempDir);

impl Desk {
    /// The configuration of a model, without weights, and so many short samples.
    fn new(dims: [usize; 4], samples: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["tokenizer.json", "special_tokens_map.json"] {
            fs::copy(fixture("tokenizers/llama").join(name), dir.path().join(name)).unwrap();
        }
        let [layers, hidden, ffn, heads] = dims;
        let config = json!({
            "model_type": "llama", "vocab_size": 32000, "hidden_size": hidden, "intermediate_size": ffn, "dtype": "bfloat16",
            "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": heads,
            "max_position_embeddings": 4096, "tie_word_embeddings": false, "bos_token_id": 1, "eos_token_id": 2,
        });
        fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        let line = |n: usize| {
            let prompt = format!("Who has key {n}? ").repeat(20);
            json!({"prompt": prompt, "completion": format!("Door {} has it.", n % 7)}).to_string() + "\n"
        };
        fs::write(
            dir.path().join("train.jsonl"),
            (0..samples).map(line).collect::<String>(),
        )
        .unwrap();
        Self(dir)
    }

    fn ask(&self, memory: &str, tasks: usize, goal: Option<Goal>) -> Advised {
        let dir = self.0.path().display();
        let text = format!(
            "[model]\npath = '{dir}'\n[data]\ntrain = '{dir}/train.jsonl'\n[train]\nbatch_size = 16\nmemory = '{memory}'\n"
        );
        let config = RunConfig::parse("advise".as_ref(), text, &[]).unwrap();
        let device = DeviceTraits::named("cuda").unwrap();
        advise(
            config,
            &device,
            &Device::flex(),
            &Question {
                goal,
                tasks,
                product_rate: Some(1e12),
            },
        )
        .unwrap()
    }

    /// Technique, method and storage that are chosen.
    fn choice(
        &self,
        memory: &str,
        tasks: usize,
        goal: Option<Goal>,
    ) -> (&'static str, &'static str, Option<&'static str>) {
        let advised = self.ask(memory, tasks, goal);
        let chosen = advised.choice.demanded;
        (chosen.technique, chosen.method, chosen.quant)
    }
}

#[test]
fn the_guides_rules() {
    let desk = Desk::new(B7, 300);
    assert_eq!(desk.choice("24GB", 1, None), ("lora", "lora", None), "it fits");
    let advised = desk.ask("10GB", 1, None);
    assert_eq!(advised.choice.demanded.technique, "qlora", "too large");
    assert!(
        advised.choice.reason.starts_with("lora does not fit; "),
        "{}",
        advised.choice.reason
    );
    let lora = advised
        .ranked
        .iter()
        .find(|ranked| ranked.demanded.technique == "lora")
        .unwrap();
    let seconds = lora.demanded.petaflop * 1e15 / 0.6e12;
    assert!(
        (lora.epoch_seconds.unwrap() / seconds - 1.0).abs() < 1e-9,
        "a share of the device's products"
    );
    assert!(!lora.measured.is_empty(), "compared on the embedded model");
    assert_eq!(desk.choice("24GB", 3, None), ("adapters", "pfeiffer", None));
    let goals = [
        ("24GB", Goal::Interpretability, "prompt-tuning", "prompt_tuning"),
        ("24GB", Goal::KeepOldSkills, "replay-lora", "lora"),
        ("10GB", Goal::KeepOldSkills, "replay-qlora", "lora"),
        ("120GB", Goal::TinyModel, "distillation", "full"),
        ("24GB", Goal::ServeMany, "lora", "lora"),
        ("24GB", Goal::Memory, "qlora", "lora"),
        ("24GB", Goal::Speed, "lora", "lora"),
        ("24GB", Goal::Quality, "dora", "lora"),
    ];
    for (memory, goal, technique, method) in goals {
        let (chosen, of, _) = desk.choice(memory, 1, Some(goal));
        assert_eq!((chosen, of), (technique, method), "{goal:?}");
    }
    let strategy = desk.ask("24GB", 1, Some(Goal::KeepOldSkills)).choice.demanded.strategy;
    assert_eq!(strategy, Some("replay"));
    let nothing = desk.ask("1GB", 1, None);
    assert_eq!(nothing.choice.demanded.fits, Some(false));
    let sizes: Vec<u64> = nothing
        .ranked
        .iter()
        .map(|ranked| ranked.demanded.memory_bytes)
        .collect();
    assert!(sizes.is_sorted(), "the nearest to fitting first: {sizes:?}");
    assert_eq!(
        Desk::new(B65, 20).choice("80GB", 1, None),
        ("qlora", "lora", Some("nf4")),
        "65B on one card"
    );
}

#[test]
fn much_data_and_memory_are_for_all_weights() {
    let desk = Desk::new(B7, 20);
    let dir = desk.0.path();
    let line = |n: usize| format!("{{\"prompt\": \"{n}?\", \"completion\": \"{n}\"}}\n");
    fs::write(dir.join("train.jsonl"), (0..100_000).map(line).collect::<String>()).unwrap();
    assert_eq!(desk.choice("160GB", 1, None), ("full", "full", None));
    assert_eq!(
        desk.choice("24GB", 1, None),
        ("lora", "lora", None),
        "there is no memory for that"
    );
}

/// Every technique that fits, as the one that is chosen.
#[test]
fn what_is_written_can_be_planned() {
    let workshop = Workshop::new();
    let goals = Goal::ALL.map(|(_, goal)| Some(goal));
    for (number, goal) in goals.into_iter().chain([None]).enumerate() {
        let config = workshop.config("advice", &["train.batch_size=16", "train.accumulation=1"]);
        let device = DeviceTraits::of(&Device::flex(), "cpu");
        let advised = advise(
            config,
            &device,
            &Device::flex(),
            &Question {
                goal,
                tasks: 1,
                product_rate: None,
            },
        )
        .unwrap();
        if advised.choice.demanded.objective == "distill" {
            assert!(
                advised.commands[0].starts_with("ft distill init "),
                "{:?}",
                advised.commands
            );
            continue;
        }
        let file = workshop.path(&format!("advised{number}.toml"));
        fs::write(&file, &advised.config).unwrap();
        let config = RunConfig::load(&file, &[]).unwrap_or_else(|e| panic!("{e}\n{}", advised.config));
        Plan::resolve(config, &Device::flex(), "cpu").unwrap_or_else(|e| panic!("{e}\n{}", advised.config));
    }
}

#[test]
fn runs_that_were_made_to_fail_are_seen_through() {
    let workshop = Workshop::new();
    let look = |out: &str, sets: &[&str]| -> Vec<&'static str> {
        let plain = ["eval.samples=0", "train.accumulation=1", "train.batch_size=4"];
        workshop.fit(out, &[&plain, sets].concat()).unwrap();
        seen(&workshop, out)
    };
    let still = look("still", &["optim.lr=1e-9", "train.steps=24"]);
    assert_eq!(still, ["not learning"]);
    let wild = [
        "peft.method=full",
        "optim.lr=1.5",
        "optim.clip=0",
        "train.steps=24",
        "schedule.warmup=10",
    ];
    assert!(look("wild", &wild).contains(&"unstable"));
    let well = look(
        "well",
        &["train.steps=24", "train.accumulation=1", "train.batch_size=4"],
    );
    assert_eq!(well, Vec::<&str>::new());
    let slow = look("slow", &["train.steps=24", "train.checkpointing=1"]);
    assert_eq!(slow, ["too slow"]);
}

#[test]
fn what_is_learned_by_heart_is_overfitting() {
    let workshop = Workshop::new();
    let word = |n: usize| ["a", "b", "c", "d", "e", "f", "g", "h"][n % 8];
    // Answers that nothing in the prompt tells.
    let line = |n: usize| {
        let (prompt, answer) = (
            format!("turn {} {} into", word(n), word(n / 8)),
            word(n * n / 5 + 3 * n),
        );
        json!({"prompt": prompt, "completion": answer}).to_string() + "\n"
    };
    for (file, numbers) in [("train.jsonl", 0..24), ("valid.jsonl", 24..40)] {
        fs::write(workshop.path(file), numbers.map(line).collect::<String>()).unwrap();
    }
    let sets = [
        "peft.method=full",
        "optim.lr=5e-3",
        "train.steps=120",
        "train.eval_every=8",
        "schedule.kind=constant",
        "train.accumulation=1",
        "train.batch_size=4",
        "eval.samples=0",
    ];
    workshop.fit("by_heart", &sets).unwrap();
    let found = seen(&workshop, "by_heart");
    assert!(
        found.contains(&"overfitting"),
        "{found:?} {:?}",
        workshop.curve("by_heart")
    );
}

fn seen(workshop: &Workshop, out: &str) -> Vec<&'static str> {
    let troubles = troubles(&workshop.path(out)).unwrap();
    assert!(
        troubles
            .iter()
            .all(|found| !found.changes.is_empty() && !found.evidence.is_empty())
    );
    troubles.iter().map(|found| found.trouble).collect()
}

/// Curves that short runs of a tiny model do not have.
#[test]
fn troubles_are_read_from_curves() {
    let workshop = Workshop::new();
    workshop.fit("run", &["train.steps=4", "eval.samples=0"]).unwrap();
    let metrics = workshop.path("run/metrics.jsonl");
    let write = |line: &dyn Fn(u64) -> serde_json::Value| {
        fs::write(
            &metrics,
            (1..=40).map(|step| line(step).to_string() + "\n").collect::<String>(),
        )
        .unwrap();
        seen(&workshop, "run")
    };
    let falling = |step: u64| 3.0 / (1.0 + 0.1 * step as f64);
    let cut = write(&|step| json!({"step": step, "loss": falling(step), "micro_batch": 2}));
    assert!(cut.contains(&"out of memory"), "{cut:?}");
    let level =
        write(&|step| json!({"step": step, "loss": 1.2 + 2.0 * (-(step as f64) / 4.0).exp(), "eval_loss": 1.22}));
    assert!(level.contains(&"levelled off"), "{level:?}");
    let skipped = write(&|step| json!({"step": step, "loss": falling(step), "skipped": step / 20}));
    assert!(skipped.contains(&"unstable"), "{skipped:?}");
}
