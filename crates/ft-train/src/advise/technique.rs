//! The techniques that are weighed, and what each takes.

use ft_peft::PeftConfig;
use ft_quant::{Kind, Scheme};
use serde::Serialize;
use serde_json::{Value, json};

use crate::Result;
use crate::config::Checkpointing;
use crate::objectives::{DistillConfig, ObjectiveConfig, Reference};
use crate::plan::{DeviceTraits, Plan, Variant};

/// A technique: a method over a storage, with what else belongs to it.
#[derive(Debug)]
pub struct Technique {
    /// What people call it.
    pub name: &'static str,
    /// Section `[peft]` as JSON.
    pub peft: &'static str,
    /// Hold the base in 4 bits.
    pub nf4: bool,
    /// The optimizer, where it is not AdamW.
    pub optimizer: Option<&'static str>,
    /// The strategy against forgetting.
    pub strategy: Option<&'static str>,
    /// A student of half the layers learns from the model.
    pub distills: bool,
}

const fn plain(name: &'static str, peft: &'static str) -> Technique {
    Technique {
        name,
        peft,
        nf4: false,
        optimizer: None,
        strategy: None,
        distills: false,
    }
}

/// Every technique, one line each.
pub const ALL: &[Technique] = &[
    plain("full", r#"{"method": "full"}"#),
    Technique {
        optimizer: Some("adamw_8bit"),
        ..plain("full-8bit", r#"{"method": "full"}"#)
    },
    plain("lora", r#"{"method": "lora", "rank": 16, "alpha": 32}"#),
    plain("dora", r#"{"method": "lora", "rank": 16, "alpha": 32, "dora": true}"#),
    Technique {
        nf4: true,
        ..plain("qlora", r#"{"method": "lora", "rank": 16, "alpha": 32}"#)
    },
    Technique {
        strategy: Some("replay"),
        ..plain("replay-lora", r#"{"method": "lora", "rank": 16, "alpha": 32}"#)
    },
    Technique {
        strategy: Some("replay"),
        nf4: true,
        ..plain("replay-qlora", r#"{"method": "lora", "rank": 16, "alpha": 32}"#)
    },
    plain("adapters", r#"{"method": "pfeiffer"}"#),
    Technique {
        nf4: true,
        ..plain("adapters-nf4", r#"{"method": "pfeiffer"}"#)
    },
    plain("ia3", r#"{"method": "ia3"}"#),
    plain("prompt-tuning", r#"{"method": "prompt_tuning"}"#),
    Technique {
        nf4: true,
        ..plain("prompt-tuning-nf4", r#"{"method": "prompt_tuning"}"#)
    },
    Technique {
        distills: true,
        ..plain("distillation", r#"{"method": "full"}"#)
    },
];

/// A technique with what it takes.
#[derive(Clone, Debug, Serialize)]
pub struct Demanded {
    /// Its name.
    pub technique: &'static str,
    /// `peft.method`.
    pub method: &'static str,
    /// `model.quant.kind`.
    pub quant: Option<&'static str>,
    /// `optim.kind`.
    pub optimizer: &'static str,
    /// `objective.kind`.
    pub objective: &'static str,
    /// `continual.strategy`.
    pub strategy: Option<&'static str>,
    /// Numbers that train.
    pub trainable: usize,
    /// Bytes of a run.
    pub memory_bytes: u64,
    /// Whether they are there; unknown where the memory is.
    pub fits: Option<bool>,
    /// `train.batch_size`.
    pub batch_size: usize,
    /// `train.accumulation`.
    pub accumulation: usize,
    /// `train.checkpointing = 1`.
    pub checkpointing: bool,
    /// Floating-point operations of an epoch, in units of 10^15: 2 for every parameter and token in a forward pass, as many again for
    /// gradients of activations, for gradients of weights, and for what is computed again.
    pub petaflop: f64,
    /// Section `[peft]`.
    #[serde(skip)]
    pub peft: Value,
}

/// Samples of an optimizer step.
const SAMPLES: usize = 16;

impl Technique {
    /// What it takes for the model and the data of a plan: the largest micro-batch that fits, with all activations kept where they can
    /// be. None where the model cannot take it.
    pub(super) fn demand(&self, plan: &Plan, device: &DeviceTraits) -> Result<Option<Demanded>> {
        let peft: Value = serde_json::from_str(self.peft).expect("a section in JSON");
        let method: PeftConfig = serde_json::from_value(peft.clone()).expect("options of a method");
        if self.nf4 && plan.model.is_quantized() {
            return Ok(None);
        }
        let mut model = plan.model.clone();
        let teacher = ObjectiveConfig::Distill(DistillConfig {
            teacher: Some(Reference::Folder(plan.config.model.path.clone())),
            ..DistillConfig::default()
        });
        if self.distills {
            model.num_hidden_layers = model.num_hidden_layers.div_ceil(2);
        }
        let optimizer = self.optimizer.unwrap_or("adamw");
        let optim = serde_json::from_value(json!({"kind": optimizer})).expect("an optimizer");
        let variant = |size: usize, checkpointing: bool| Variant {
            model: &model,
            peft: &method,
            // As the configuration that is written says.
            quant: self.nf4.then(|| Scheme {
                double: true,
                ..Scheme::new(Kind::Nf4)
            }),
            optim: &optim,
            objective: if self.distills {
                &teacher
            } else {
                &plan.config.objective
            },
            checkpointing: if checkpointing {
                Checkpointing::Every(1)
            } else {
                Checkpointing::Off
            },
            size,
            accumulates: size < SAMPLES || self.strategy.is_some(),
        };
        let sizes = || std::iter::successors(Some(SAMPLES), |size| (*size > 1).then_some(size / 2));
        let cuts = [false, true]
            .into_iter()
            .flat_map(|again| sizes().map(move |size| (size, again)));
        let mut last = None;
        for (size, again) in cuts {
            let Some((trainable, bytes)) = plan.variant(&variant(size, again), device)? else {
                return Ok(None);
            };
            let fits = plan.budget.map(|budget| bytes <= budget);
            last = Some((size, again, trainable, bytes, fits));
            if fits != Some(false) {
                break;
            }
        }
        let Some((size, again, trainable, bytes, fits)) = last else {
            return Ok(None);
        };
        let passes = 2.0 + if self.peft.contains("full") { 1.0 } else { 0.0 } + if again { 1.0 } else { 0.0 };
        let student = 2.0 * passes * model.num_parameters() as f64;
        let teacher = if self.distills {
            2.0 * plan.model.num_parameters() as f64
        } else {
            0.0
        };
        Ok(Some(Demanded {
            technique: self.name,
            method: method.name(),
            quant: self.nf4.then_some("nf4"),
            optimizer,
            objective: if self.distills {
                "distill"
            } else {
                plan.config.objective.name()
            },
            strategy: self.strategy,
            trainable,
            memory_bytes: bytes,
            fits,
            batch_size: size,
            accumulation: SAMPLES / size,
            checkpointing: again,
            petaflop: (student + teacher) * plan.data.train.tokens as f64 / 1e15,
            peft,
        }))
    }
}
