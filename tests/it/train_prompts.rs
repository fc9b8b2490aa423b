//! Whole runs of the prompt methods: what PEFT cannot do with them, and what a plan says about them.

use std::fs;

use ft_peft::adapter::ENCODER;

use crate::support::fixture;
use crate::train_resume::stopped_equals_left_alone;
use crate::train_support::Workshop;

const METHODS: [&[&str]; 6] = [
    &["peft.method=prompt_tuning", "peft.num_virtual_tokens=4", "optim.lr=0.3"],
    &["peft.method=p_tuning", "peft.num_virtual_tokens=4", "optim.lr=1e-2"],
    &[
        "peft.method=p_tuning",
        "peft.num_virtual_tokens=4",
        "peft.encoder_reparameterization_type=lstm",
        "peft.encoder_hidden_size=8",
        "peft.encoder_dropout=0.1",
        "optim.lr=1e-2",
    ],
    &[
        "peft.method=prefix_tuning",
        "peft.num_virtual_tokens=4",
        "optim.lr=3e-2",
    ],
    &[
        "peft.method=prefix_tuning",
        "peft.num_virtual_tokens=4",
        "peft.prefix_projection=true",
        "train.checkpointing=1",
        "optim.lr=1e-2",
    ],
    &["peft.method=p_tuning_v2", "peft.num_virtual_tokens=4", "optim.lr=3e-2"],
];

#[test]
fn a_stopped_run_ends_where_one_left_alone_does() {
    for sets in METHODS {
        stopped_equals_left_alone(&Workshop::new(), sets);
    }
}

#[test]
fn the_best_evaluation_is_loaded_and_trained_on() {
    for sets in METHODS {
        let workshop = Workshop::new();
        // Held-out answers that the training samples argue against: the last weights are not the best.
        let line = "{\"prompt\": \"turn a b c into =\", \"completion\": \"; ; ;\"}\n";
        fs::write(workshop.path("valid.jsonl"), line.repeat(3)).unwrap();
        let long = [
            "optim.lr=0.1",
            "train.steps=30",
            "schedule.warmup=0",
            "schedule.kind=constant",
            "train.eval_every=1",
            "train.load_best=true",
            "train.check_gradients=false",
            "train.seed=7",
        ];
        let first = workshop.fit("first", &[sets, &long].concat()).unwrap();
        let (best, after) = (first.best.unwrap(), first.after.unwrap());
        assert!(
            best.step < 30 && after.loss == best.loss,
            "{sets:?}: {best:?}, {after:?}"
        );
        let encoded = sets
            .iter()
            .any(|s| s.contains("p_tuning") || s.contains("prefix_projection"));
        let encoded = encoded && !sets[0].ends_with("v2");
        assert_eq!(workshop.path("first/final").join(ENCODER).exists(), encoded, "{sets:?}");
        let from = format!("peft.from={}", workshop.path("first/final").display());
        let second = workshop.fit("second", &[&from, "train.steps=3"]).unwrap();
        let start = second.before.unwrap().loss;
        assert!(
            (start - best.loss).abs() < 1e-6,
            "{sets:?}: {} and then {start}",
            best.loss
        );
    }
}

#[test]
fn the_loss_goes_down() {
    for sets in METHODS {
        let workshop = Workshop::new();
        let outcome = workshop.fit("out", &[sets, &["train.steps=60"]].concat()).unwrap();
        let (before, after) = (outcome.before.unwrap().loss, outcome.after.unwrap().loss);
        assert!(after < 0.8 * before, "{sets:?}: from {before} to {after}");
    }
}

#[test]
fn what_peft_made_with_an_encoder_cannot_be_trained_on() {
    let workshop = Workshop::new();
    let folder = fixture("peft/ptuning_mlp");
    let error = workshop
        .plan("out", &[&format!("peft.from={}", folder.display())])
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(ENCODER) && error.contains("can be used but not trained on"),
        "{error}"
    );
}

#[test]
fn a_plan_counts_virtual_tokens() {
    let workshop = Workshop::new();
    let plan = |sets: &[&str]| workshop.plan("out", sets);
    let none = plan(&["peft.method=ia3"]).unwrap().summary();
    let prompt = plan(&["peft.method=prompt_tuning", "peft.num_virtual_tokens=10"])
        .unwrap()
        .summary();
    assert_eq!(
        (none.virtual_tokens, prompt.virtual_tokens, prompt.trainable),
        (0, 10, 320)
    );
    assert!(
        prompt.to_string().contains("virtual    10 tokens before every text"),
        "{prompt}"
    );
    let activations = |method: &str, tokens: usize| {
        let (method, tokens) = (
            format!("peft.method={method}"),
            format!("peft.num_virtual_tokens={tokens}"),
        );
        plan(&[&method, &tokens, "data.pack=false"]).unwrap().bytes.activations
    };
    let prompts = [10, 20, 40].map(|n| activations("prompt_tuning", n));
    assert!(prompts[0] < prompts[1], "{prompts:?}");
    assert_eq!(
        2 * (prompts[1] - prompts[0]),
        prompts[2] - prompts[1],
        "columns like any other"
    );
    let prefixes = [10, 20].map(|n| activations("p_tuning_v2", n));
    // 2 rows of 10 keys and 10 values in 2 layers, 2 heads of 8 each, in f32.
    assert_eq!(prefixes[1] - prefixes[0], 2 * 10 * 2 * 2 * 2 * 8 * 4);
    assert!(
        prefixes[0] > none.bytes.activations / 2,
        "a gradient goes through every layer"
    );
    let numbers = |sets: &[&str]| plan(sets).unwrap().attached.parameters;
    assert_eq!(
        numbers(&["peft.method=p_tuning_v2", "peft.num_virtual_tokens=10"]),
        10 * 2 * 2 * 16
    );

    let refused = |sets: &[&str]| plan(sets).unwrap_err().to_string();
    let error = refused(&["peft.method=prompt_tuning", "peft.num_virtual_tokens=126"]);
    assert!(
        error.contains("2 positions of the model beside 126 virtual tokens; set data.max_length = 2"),
        "{error}"
    );
    let error = refused(&["peft.method=p_tuning_v2", "peft.num_virtual_tokens=500"]);
    assert!(
        error.contains("500 virtual tokens leave no position of the model's 128"),
        "{error}"
    );
}

#[test]
fn a_text_becomes_the_tokens_of_the_models_tokenizer() {
    let workshop = Workshop::new();
    let text = |words: &str| {
        let text = format!("peft.prompt_tuning_init_text={words}");
        let sets = ["peft.method=prompt_tuning", "peft.prompt_tuning_init=text", &text];
        workshop.plan("out", &sets).unwrap().peft
    };
    let ft_peft::PeftConfig::PromptTuning(prompt) = text("turn a into b") else {
        panic!()
    };
    assert_eq!(prompt.init_ids, [12, 4, 13, 5]);
    let outcome = workshop.fit(
        "out",
        &[
            "peft.method=prompt_tuning",
            "peft.prompt_tuning_init=text",
            "peft.prompt_tuning_init_text=turn a into b",
            "train.steps=3",
        ],
    );
    let config = fs::read_to_string(outcome.unwrap().final_dir.unwrap().join("adapter_config.json")).unwrap();
    assert!(
        config.contains("\"prompt_tuning_init_text\": \"turn a into b\""),
        "{config}"
    );
}
