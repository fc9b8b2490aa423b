//! What is compared. A line is a technique: its name in the table, what it is, its settings, and where its learning rate comes from.

/// One row of the table.
#[derive(Debug)]
pub struct Technique {
    pub name: &'static str,
    pub about: &'static str,
    /// `--set` of `ft train`.
    pub settings: &'static [&'static str],
    pub rate: Rate,
    pub start: Start,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rate {
    /// Searched for.
    Own,
    /// That of another technique with the same mathematics.
    Of(&'static str),
}

/// What training begins with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Start {
    Model,
    /// Every second layer of the fully fine-tuned model.
    HalfOfTuned,
    /// The same, learning from the fully fine-tuned model too.
    HalfTaughtByTuned,
}

const fn own(name: &'static str, about: &'static str, settings: &'static [&'static str]) -> Technique {
    Technique {
        name,
        about,
        settings,
        rate: Rate::Own,
        start: Start::Model,
    }
}

const fn like(
    of: &'static str,
    name: &'static str,
    about: &'static str,
    settings: &'static [&'static str],
) -> Technique {
    Technique {
        rate: Rate::Of(of),
        ..own(name, about, settings)
    }
}

const fn half(name: &'static str, about: &'static str, start: Start) -> Technique {
    Technique {
        start,
        ..own(name, about, &["peft.method=full"])
    }
}

/// All of them, in the order of the table. Options that are not set have their defaults.
pub const TECHNIQUES: &[Technique] = &[
    own("full", "full fine-tuning", &["peft.method=full"]),
    own("lora", "LoRA on every projection", &["peft.method=lora"]),
    own(
        "lora_qv",
        "LoRA on queries and values",
        &["peft.method=lora", "peft.targets=[\"q_proj\", \"v_proj\"]"],
    ),
    own("rslora", "rsLoRA", &["peft.method=lora", "peft.rslora=true"]),
    own("dora", "DoRA", &["peft.method=lora", "peft.dora=true"]),
    own(
        "lora_plus",
        "LoRA+, ratio 16",
        &["peft.method=lora", "peft.loraplus_lr_ratio=16"],
    ),
    own(
        "pissa",
        "LoRA from principal components (PiSSA)",
        &["peft.method=lora", "peft.init=pissa"],
    ),
    own("qlora_nf4", "QLoRA, NF4", &["peft.method=lora", "model.quant.kind=nf4"]),
    own(
        "qlora_nf4_double",
        "QLoRA, NF4 with double quantization",
        &["peft.method=lora", "model.quant.kind=nf4", "model.quant.double=true"],
    ),
    own("qlora_fp4", "QLoRA, FP4", &["peft.method=lora", "model.quant.kind=fp4"]),
    own(
        "qlora_int8",
        "QLoRA, int8",
        &["peft.method=lora", "model.quant.kind=int8"],
    ),
    own("adalora", "AdaLoRA", &["peft.method=adalora"]),
    own("ia3", "(IA)³", &["peft.method=ia3"]),
    own("vera", "VeRA", &["peft.method=vera"]),
    own("loha", "LoHa", &["peft.method=loha"]),
    own("lokr", "LoKr", &["peft.method=lokr"]),
    own("oft", "OFT", &["peft.method=oft"]),
    own("shira", "SHiRA", &["peft.method=shira", "peft.rank=8"]),
    own("miss", "MiSS", &["peft.method=miss", "peft.rank=16"]),
    own(
        "gralora",
        "GraLoRA",
        &["peft.method=gralora", "peft.rank=8", "peft.alpha=16"],
    ),
    own("osf", "OSF", &["peft.method=osf"]),
    own("ln_tuning", "norms only", &["peft.method=ln_tuning"]),
    own("bitfit", "biases only (BitFit)", &["peft.method=bitfit"]),
    own("pfeiffer", "bottleneck adapters, Pfeiffer", &["peft.method=pfeiffer"]),
    own("houlsby", "bottleneck adapters, Houlsby", &["peft.method=houlsby"]),
    own("parallel", "bottleneck adapters, parallel", &["peft.method=parallel"]),
    own("prefix_tuning", "prefix tuning", &["peft.method=prefix_tuning"]),
    own("prompt_tuning", "prompt tuning", &["peft.method=prompt_tuning"]),
    own("p_tuning", "P-tuning", &["peft.method=p_tuning"]),
    own("p_tuning_v2", "P-tuning v2", &["peft.method=p_tuning_v2"]),
    half("half_layers", "half the layers, all weights", Start::HalfOfTuned),
    half(
        "distilled_half",
        "half the layers, distilled from full fine-tuning",
        Start::HalfTaughtByTuned,
    ),
    like(
        "full",
        "full_adamw_8bit",
        "full fine-tuning, 8-bit AdamW",
        &["peft.method=full", "optim.kind=adamw_8bit"],
    ),
    like(
        "full",
        "full_checkpointing",
        "full fine-tuning, checkpointed blocks",
        &["peft.method=full", "train.checkpointing=1"],
    ),
    like(
        "lora",
        "lora_adamw_8bit",
        "LoRA, 8-bit AdamW",
        &["peft.method=lora", "optim.kind=adamw_8bit"],
    ),
    like(
        "lora",
        "lora_paged",
        "LoRA, paged AdamW",
        &["peft.method=lora", "optim.kind=paged_adamw_32bit"],
    ),
    like(
        "lora",
        "lora_checkpointing",
        "LoRA, checkpointed blocks",
        &["peft.method=lora", "train.checkpointing=1"],
    ),
];

pub fn named(name: &str) -> Option<&'static Technique> {
    TECHNIQUES.iter().find(|technique| technique.name == name)
}

impl Technique {
    /// Those whose results this one needs, itself included, each after what it needs.
    pub fn with_needs(&'static self) -> Vec<&'static Technique> {
        let of = match (self.rate, self.start) {
            (Rate::Of(other), _) => named(other),
            (_, Start::HalfOfTuned | Start::HalfTaughtByTuned) => named("full"),
            _ => None,
        };
        of.into_iter().chain([self]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_needs_are_there() {
        for (at, technique) in TECHNIQUES.iter().enumerate() {
            let first = TECHNIQUES.iter().position(|other| other.name == technique.name);
            assert_eq!(first, Some(at), "{}", technique.name);
            if let Rate::Of(other) = technique.rate {
                assert_eq!(named(other).expect(other).rate, Rate::Own);
            }
        }
        let needed: Vec<_> = named("lora_paged").unwrap().with_needs();
        assert_eq!(
            needed.iter().map(|t| t.name).collect::<Vec<_>>(),
            ["lora", "lora_paged"]
        );
    }
}
