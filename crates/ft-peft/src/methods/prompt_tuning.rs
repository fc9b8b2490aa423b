//! Prompt tuning: learned embeddings of virtual tokens before the text (Lester et al. 2021, arXiv:2104.08691).
//!
//! ```text
//! [P; embed(x)] -> layers        P [n, hidden]
//! ```

use burn::module::Param;
use burn::tensor::{Device, FloatDType, Int, Tensor};
use ft_quant::Leaf;
use rand::RngExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::common::{checked, invalid, prompt_record, size};
use super::p_tuning::PTuningConfig;
use super::prefix_tuning::PrefixTuningConfig;
use super::{InTraining, PeftConfig, PeftFile, PeftMethod};
use crate::attach::{Choice, ModuleSpec};
use crate::error::Result;
use crate::peft_config::{File, Target};
use crate::slots::Embedding;
use crate::target_module::{ModuleSlot, TargetModule};
use crate::targets::Kind;
use crate::virtual_tokens::{EMBEDDING, Prompt, PromptTable, normal};
use ft_seed::stream;

/// Options of prompt tuning, with PEFT's names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PromptTuningConfig {
    /// Virtual tokens before the text.
    pub num_virtual_tokens: usize,
    /// What their embeddings start as.
    pub prompt_tuning_init: PromptTuningInit,
    /// Text whose tokens they start as, repeated or cut to their number; for `prompt_tuning_init = "text"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_tuning_init_text: Option<String>,
    /// The tokens of that text; see [`PeftConfig::with_init_ids`].
    #[serde(skip)]
    pub init_ids: Vec<u32>,
}

/// Starting values of the embeddings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PromptTuningInit {
    /// Normal with deviation 1, as PyTorch starts tables.
    Random,
    /// Embeddings of the tokens of a text.
    Text,
    /// Embeddings of tokens drawn from the whole vocabulary.
    #[default]
    SampleVocab,
}

impl PromptTuningInit {
    /// PEFT's spelling.
    const NAMES: [(Self, &'static str); 3] = [
        (Self::Random, "RANDOM"),
        (Self::Text, "TEXT"),
        (Self::SampleVocab, "SAMPLE_VOCAB"),
    ];
}

impl Default for PromptTuningConfig {
    fn default() -> Self {
        Self {
            num_virtual_tokens: 20,
            prompt_tuning_init: PromptTuningInit::default(),
            prompt_tuning_init_text: None,
            init_ids: Vec::new(),
        }
    }
}

/// The table that prompts stand before: the first that a model lists.
pub(super) fn input_table(specs: &[ModuleSpec]) -> Result<Choice> {
    let spec = specs.iter().find(|spec| spec.kind == Kind::Embedding);
    let path = spec.map(|spec| spec.path.clone());
    let path = path.ok_or_else(|| {
        invalid(
            "method",
            "this model has no input embeddings that a prompt could stand before",
        )
    })?;
    Ok(Choice {
        adapted: vec![path],
        ..Choice::default()
    })
}

impl PeftConfig {
    /// The text whose tokens this method starts from, and the key that holds it.
    pub fn init_text(&self) -> Option<(&'static str, &str)> {
        match self {
            PeftConfig::PromptTuning(config) if config.prompt_tuning_init == PromptTuningInit::Text => {
                let text = config.prompt_tuning_init_text.as_deref()?;
                Some(("peft.prompt_tuning_init_text", text))
            }
            _ => None,
        }
    }

    /// This configuration with the tokens of [`init_text`](Self::init_text), which [`attach`](crate::attach) needs.
    pub fn with_init_ids(self, ids: Vec<u32>) -> Self {
        match self {
            PeftConfig::PromptTuning(config) => PeftConfig::PromptTuning(PromptTuningConfig {
                init_ids: ids,
                ..config
            }),
            other => other,
        }
    }

    /// This configuration with starting values that need nothing from outside: what a file overwrites at once. Without
    /// `encoder` there is no file of the prompt encoder, and the smallest one stands in for it.
    pub(crate) fn to_be_filled(&self, encoder: bool) -> Self {
        match self.clone() {
            PeftConfig::PromptTuning(config) => PeftConfig::PromptTuning(PromptTuningConfig {
                prompt_tuning_init: PromptTuningInit::Random,
                prompt_tuning_init_text: None,
                ..config
            }),
            PeftConfig::PTuning(config) if !encoder => PeftConfig::PTuning(PTuningConfig {
                encoder_hidden_size: Some(1),
                encoder_num_layers: config.encoder_num_layers.min(2),
                ..config
            }),
            PeftConfig::PrefixTuning(config) if !encoder => PeftConfig::PrefixTuning(PrefixTuningConfig {
                encoder_hidden_size: Some(1),
                ..config
            }),
            other => other,
        }
    }
}

impl PromptTuningConfig {
    /// Starting embeddings `[n, hidden]` in f32.
    fn start(&self, slot: &Embedding, seed: u64, device: &Device) -> Tensor<2> {
        let [vocab, hidden] = slot.weight.dims();
        let count = self.num_virtual_tokens;
        let ids: Vec<i32> = match self.prompt_tuning_init {
            PromptTuningInit::Random => return normal([count, hidden], seed, EMBEDDING, device),
            PromptTuningInit::Text => self.init_ids.iter().cycle().take(count).map(|id| *id as i32).collect(),
            PromptTuningInit::SampleVocab => {
                let mut rng = stream(seed, EMBEDDING);
                (0..count).map(|_| rng.random_range(0..vocab as i32)).collect()
            }
        };
        let ids = Tensor::<1, Int>::from_ints(ids.as_slice(), device);
        slot.weight.val().detach().select(0, ids).cast(FloatDType::F32)
    }
}

impl PeftMethod for PromptTuningConfig {
    fn check(&self) -> Result<()> {
        size("num_virtual_tokens", self.num_virtual_tokens)?;
        let text = self.prompt_tuning_init == PromptTuningInit::Text;
        let why = match &self.prompt_tuning_init_text {
            None if text => "needed for prompt_tuning_init = \"text\"",
            Some(_) if !text => "means nothing here; set prompt_tuning_init = \"text\"",
            Some(words) if words.trim().is_empty() => "must not be empty",
            _ => return Ok(()),
        };
        Err(invalid("prompt_tuning_init_text", why))
    }

    fn ready(&self, specs: &[ModuleSpec]) -> Result<()> {
        if self.prompt_tuning_init != PromptTuningInit::Text {
            return Ok(());
        }
        let vocab = specs
            .iter()
            .find(|p| p.kind == Kind::Embedding)
            .map_or(0, |p| p.dims[0]);
        let stranger = self.init_ids.iter().find(|id| **id as usize >= vocab);
        let why = match stranger {
            None if self.init_ids.is_empty() => "has no token".to_string(),
            None => return Ok(()),
            Some(id) => {
                format!("holds token id {id}, but the model knows {vocab} ids; is the tokenizer this model's own?")
            }
        };
        Err(invalid("prompt_tuning_init_text", why))
    }

    fn choose(&self, specs: &[ModuleSpec]) -> Result<Choice> {
        input_table(specs)
    }

    fn virtual_tokens(&self) -> usize {
        self.num_virtual_tokens
    }

    fn parameters_at(&self, spec: &ModuleSpec) -> usize {
        self.num_virtual_tokens * spec.dims[1]
    }

    fn fill(&self, module: &mut TargetModule<'_>, seed: u64) {
        let ModuleSlot::Embedding(slot) = &mut module.slot else {
            unreachable!("`choose` names the input table")
        };
        let device = slot.weight.val().device();
        let start = self.start(slot, seed, &device);
        slot.prompt = Some(Prompt::Table(PromptTable {
            embedding: Leaf::Trained(Param::from_tensor(start)),
        }));
    }
}

impl InTraining for PromptTuningConfig {
    fn learning_rate(&self) -> f64 {
        // Lester et al. 2021, section 3.2.
        0.3
    }
}

impl PeftFile for PromptTuningConfig {
    fn to_peft(&self, target: &Target<'_>) -> Option<serde_json::Value> {
        let shape = target.shape;
        let mut file = prompt_record(
            "PROMPT_TUNING",
            target,
            self.num_virtual_tokens,
            [shape.heads, shape.hidden],
        );
        let name = PromptTuningInit::NAMES
            .iter()
            .find(|(init, _)| *init == self.prompt_tuning_init);
        file["prompt_tuning_init"] = json!(name.map(|(_, name)| name));
        file["prompt_tuning_init_text"] = json!(self.prompt_tuning_init_text);
        // PEFT wants a tokenizer named where there is a text, and looks for it only when it starts anew.
        let tokenizer = self.prompt_tuning_init_text.as_ref().map(|_| target.base_model);
        file["tokenizer_name_or_path"] = json!(tokenizer);
        file["tokenizer_kwargs"] = json!(null);
        Some(file)
    }
}

pub(crate) fn parse(file: &File<'_>) -> Result<PeftConfig> {
    file.refuse(&["modules_to_save"])?;
    let word: String = file.read("prompt_tuning_init")?.unwrap_or_else(|| "RANDOM".into());
    let init = PromptTuningInit::NAMES.iter().find(|(_, name)| *name == word);
    let (init, _) =
        init.ok_or_else(|| file.error("prompt_tuning_init", &format!("\"{word}\" is not one of PEFT's")))?;
    let text = file.read("prompt_tuning_init_text")?;
    let config = PromptTuningConfig {
        num_virtual_tokens: file.need("num_virtual_tokens")?,
        prompt_tuning_init: *init,
        prompt_tuning_init_text: text.filter(|_| *init == PromptTuningInit::Text),
        init_ids: Vec::new(),
    };
    checked(config).map(PeftConfig::PromptTuning)
}
