//! Settings drawn at random: whatever goes together, a run that is stopped and resumed ends as one left alone. What does not
//! go together is refused before the start. `FT_RANDOM_SEED` and `FT_RANDOM_ROUNDS` draw others, and more.

use ft_train::{Ending, Error};

use crate::train_support::Workshop;

/// Alternatives for one setting; an empty one says nothing.
const SETTINGS: &[&[&str]] = &[
    &[
        "peft.method=lora",
        "peft.method=lora peft.dora=true",
        "peft.method=lora peft.rslora=true peft.init=olora",
        "peft.method=lora peft.modules_to_save=['lm_head']",
        "peft.method=adalora",
        "peft.method=ia3",
        "peft.method=vera",
        "peft.method=loha",
        "peft.method=lokr",
        "peft.method=oft peft.block_size=8",
        "peft.method=shira peft.rank=2",
        "peft.method=miss peft.rank=4",
        "peft.method=gralora peft.rank=4",
        "peft.method=osf",
        "peft.method=ln_tuning",
        "peft.method=pfeiffer",
        "peft.method=houlsby",
        "peft.method=parallel",
        "peft.method=prefix_tuning peft.prefix_projection=true",
        "peft.method=p_tuning peft.encoder_reparameterization_type=lstm",
        "peft.method=p_tuning_v2",
        "peft.method=prompt_tuning",
        "peft.method=trainable_tokens peft.token_indices=[5,7]",
        "peft.method=full",
    ],
    &[
        "",
        "model.quant.kind=nf4",
        "model.quant.kind=fp4 model.quant.double=true",
        "model.quant.kind=int8",
    ],
    &["", "model.dtype=bf16", "model.dtype=f16"],
    &["", "", "model.compute=bf16", "model.compute=f16"],
    &[
        "optim.kind=adamw",
        "optim.kind=adamw_8bit",
        "optim.kind=paged_adamw_32bit",
        "optim.kind=adafactor",
        "optim.kind=lion",
        "optim.kind=sgd",
        "optim.kind=muon",
    ],
    &[
        "",
        "train.checkpointing=1",
        "train.checkpointing=2",
        "train.checkpointing=1 train.offload_activations=true",
        "train.checkpointing=1 train.optimizer_in_backward=true train.accumulation=1 optim.clip=0",
    ],
    &["", "objective.label_smoothing=0.1", "objective.neftune_alpha=5"],
    &["", "train.load_best=true"],
    &["", "train.longest_first=false"],
    &[
        "schedule.kind=linear",
        "schedule.kind=constant_with_warmup",
        "schedule.kind=cosine_with_restarts",
    ],
];
const SHORT: &str =
    "optim.lr=2e-3 train.steps=4 train.eval_every=2 train.save_every=2 eval.samples=0 train.tensorboard=''";

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| {
        text.parse().unwrap_or_else(|e| panic!("{name}={text}: {e}"))
    })
}

/// SplitMix64 (Steele, Lea and Flood 2014).
fn draw(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[test]
fn whatever_goes_together_resumes_exactly() {
    let (mut state, rounds) = (number("FT_RANDOM_SEED", 1), number("FT_RANDOM_ROUNDS", 30));
    let workshop = Workshop::new();
    let mut refused = 0;
    for round in 0..rounds {
        let drawn = SETTINGS.iter().map(|all| all[draw(&mut state) as usize % all.len()]);
        let sets: Vec<&str> = drawn.chain([SHORT]).flat_map(str::split_whitespace).collect();
        let (alone, cut) = (format!("{round}"), format!("{round}-cut"));
        match workshop.fit(&alone, &sets) {
            Ok(_) => {}
            Err(Error::Plan(_)) => {
                refused += 1;
                continue;
            }
            Err(error) => panic!("{sets:?}: {error}"),
        }
        let stopped = workshop.fit_until(&cut, &sets, 2);
        assert_eq!((stopped.ending, stopped.steps), (Ending::Interrupted, 2), "{sets:?}");
        workshop.resume(&cut, &sets).unwrap_or_else(|e| panic!("{sets:?}: {e}"));
        assert_eq!(workshop.result(&cut, 4), workshop.result(&alone, 4), "{sets:?}");
        assert_eq!(workshop.curve(&cut), workshop.curve(&alone), "{sets:?}");
    }
    assert!(2 * refused < rounds, "{refused} of {rounds} were refused");
}
