//! Trainable tokens (PEFT's `TRAINABLE_TOKENS`): the embeddings of a few tokens train, all else is frozen. A method of its
//! own, and the option `trainable_token_indices` of [LoRA](super::lora).
//!
//! ```text
//! E'[id] = R[k] where id is the k-th chosen token, else E[id]      R [n, hidden], at the start the tokens' rows of E
//! ```
//!
//! R holds the new rows, not a difference. A head that is tied to the table uses E' too. Neither E' nor a gradient of the
//! table's size takes part in training.

use std::collections::HashSet;

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, FloatDType, Int, Tensor, TensorData};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::common::{checked, f32, invalid, record};
use super::{InTraining, ParamMut, PeftConfig, PeftFile, PeftMethod};
use crate::attach::{Choice, ModuleSpec};
use crate::embedding_delta::EmbeddingDelta;
use crate::error::Result;
use crate::peft_config::{File, Target};
use crate::target_module::{ModuleSlot, TargetModule};
use crate::targets::{Kind, Targets};

/// One token of the vocabulary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Token {
    /// Its id.
    Id(u32),
    /// Its text as the tokenizer lists it, such as `"<|im_start|>"`.
    Text(String),
}

/// Options of trainable tokens; the names in parentheses are PEFT's where they differ.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TrainableTokensConfig {
    /// The tokens, by id or by text.
    pub token_indices: Vec<Token>,
    /// Which embedding tables; the input embeddings where it is not given (`target_modules`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub targets: Option<Targets>,
}

impl PeftMethod for TrainableTokensConfig {
    fn check(&self) -> Result<()> {
        if self.token_indices.is_empty() {
            return Err(invalid("token_indices", "names no token; give ids or texts of tokens"));
        }
        check("token_indices", &self.token_indices)
    }

    fn choose(&self, specs: &[ModuleSpec]) -> Result<Choice> {
        let rows = match &self.targets {
            None => vec![input_embeddings(specs).path.clone()],
            Some(targets) => chosen(targets, specs)?,
        };
        let choice = Choice {
            rows,
            ..Choice::default()
        };
        fits("token_indices", &self.token_indices, specs, &choice)?;
        Ok(choice)
    }

    fn tokens(&self) -> &[Token] {
        &self.token_indices
    }

    fn name_tokens(&mut self, id_of: &dyn Fn(&str) -> Option<u32>) -> Result<()> {
        name("token_indices", &mut self.token_indices, id_of)
    }
}

impl InTraining for TrainableTokensConfig {
    fn learning_rate(&self) -> f64 {
        // PEFT's method comparison.
        1e-3
    }
}

impl PeftFile for TrainableTokensConfig {
    fn targeted(&self, choice: &Choice) -> Vec<String> {
        choice.rows.clone()
    }

    fn to_peft(&self, target: &Target<'_>) -> Option<serde_json::Value> {
        let mut file = record("TRAINABLE_TOKENS", target, &[]);
        file["init_weights"] = true.into();
        file["token_indices"] = json!(self.token_indices);
        if let [one] = target.paths {
            file["target_modules"] = json!(one);
        }
        if let Some(file) = file.as_object_mut() {
            file.remove("modules_to_save");
        }
        Some(file)
    }
}

pub(crate) fn parse(file: &File<'_>) -> Result<PeftConfig> {
    let config = TrainableTokensConfig {
        token_indices: file.need("token_indices")?,
        targets: file.read("target_modules")?,
    };
    checked(config).map(PeftConfig::TrainableTokens)
}

/// The table that ids are looked up in: the first of any model.
pub(super) fn input_embeddings(specs: &[ModuleSpec]) -> &ModuleSpec {
    let table = specs.iter().find(|spec| spec.kind == Kind::Embedding);
    table.expect("every language model looks its ids up")
}

fn chosen(targets: &Targets, specs: &[ModuleSpec]) -> Result<Vec<String>> {
    let selector = crate::targets::Selector {
        targets,
        exclude: &[],
        layers: None,
    };
    let chosen = selector.select(specs)?;
    let tables = |path: &&String| specs.iter().any(|p| p.path == **path && p.kind == Kind::Embedding);
    match chosen.iter().find(|path| !tables(path)) {
        None => Ok(chosen),
        Some(path) => Err(invalid(
            "targets",
            format!("{path} is no embedding table; tokens have rows only there"),
        )),
    }
}

/// No token twice.
pub(super) fn check(key: &str, tokens: &[Token]) -> Result<()> {
    let mut seen = HashSet::new();
    for token in tokens {
        if !seen.insert(format!("{token:?}")) {
            return Err(invalid(key, format!("names {token:?} twice")));
        }
    }
    Ok(())
}

/// Texts become ids.
pub(super) fn name(key: &str, tokens: &mut [Token], id_of: &dyn Fn(&str) -> Option<u32>) -> Result<()> {
    for token in tokens.iter_mut() {
        if let Token::Text(text) = token {
            let Some(id) = id_of(text) else {
                let why = format!(
                    "\"{text}\" is no token of the tokenizer; it must be one entry of its vocabulary, spelled as there"
                );
                return Err(invalid(key, why));
            };
            *token = Token::Id(id);
        }
    }
    check(key, tokens)
}

/// Fails where a token has no row, or a row would train twice.
pub(super) fn fits(key: &str, tokens: &[Token], specs: &[ModuleSpec], choice: &Choice) -> Result<()> {
    for spec in specs.iter().filter(|spec| choice.rows.contains(&spec.path)) {
        let [rows, _] = spec.dims;
        let id = |token: &Token| match token {
            Token::Id(id) => Some(*id),
            Token::Text(_) => None,
        };
        if let Some(id) = tokens.iter().filter_map(id).find(|id| *id as usize >= rows) {
            return Err(invalid(
                key,
                format!("{id} is no row of {}, which has {rows}", spec.path),
            ));
        }
        if choice.adapted.contains(&spec.path) || choice.whole.contains(&spec.path) {
            let why = format!(
                "{} trains as a whole or has an adapter already; leave it out of one of the two",
                spec.path
            );
            return Err(invalid(key, why));
        }
    }
    let changed = |spec: &&ModuleSpec| choice.adapted.contains(&spec.path) || choice.whole.contains(&spec.path);
    let mut tied = specs.iter().filter(|spec| spec.kind == Kind::TiedHead);
    if let Some(head) = tied.find(changed).filter(|_| !choice.rows.is_empty()) {
        let why = format!(
            "{} is the embedding table itself here, whose rows it shares; leave it out of the targets",
            head.path
        );
        return Err(invalid(key, why));
    }
    Ok(())
}

/// Puts trainable rows into a table.
pub(crate) fn fill(module: &mut TargetModule<'_>, tokens: &[Token], nested: bool) -> Result<()> {
    let ModuleSlot::Embedding(slot) = &mut module.slot else {
        unreachable!("only tables are listed")
    };
    let id = |token: &Token| match token {
        Token::Id(id) => Ok(*id as i32),
        Token::Text(text) => {
            let why = format!("\"{text}\" must be an id where no tokenizer is at hand");
            Err(invalid("token_indices", why))
        }
    };
    let ids = tokens.iter().map(id).collect::<Result<Vec<i32>>>()?;
    let table = slot.weight.val().detach();
    let device = table.device();
    let picked = table
        .clone()
        .select(0, Tensor::<1, Int>::from_ints(ids.as_slice(), &device));
    slot.delta = Some(EmbeddingDelta::Tokens(TrainableTokens {
        trainable_tokens_delta: Param::from_tensor(f32(picked).detach()),
        order: order(&ids, table.dims()[0], &device),
        nested,
    }));
    Ok(())
}

/// For each of `count` rows its place among the table's rows and, after them, the chosen ones.
fn order(ids: &[i32], count: usize, device: &Device) -> Tensor<1, Int> {
    let mut order: Vec<i32> = (0..count as i32).collect();
    for (k, id) in ids.iter().enumerate() {
        order[*id as usize] = (count + k) as i32;
    }
    Tensor::from_data(TensorData::new(order, [count]), device)
}

/// New rows of an embedding table.
#[derive(Module, Debug)]
pub struct TrainableTokens {
    /// R `[n, hidden]`.
    pub trainable_tokens_delta: Param<Tensor<2>>,
    /// `[rows]`: where each row is found in the table followed by R.
    pub order: Tensor<1, Int>,
    /// Whether it is LoRA's option, which PEFT's file names differently.
    #[module(skip)]
    pub nested: bool,
}

impl TrainableTokens {
    /// R in the type of the table.
    fn rows(&self, dtype: DType) -> Tensor<2> {
        self.trainable_tokens_delta.val().cast(FloatDType::from(dtype))
    }

    /// The number of each id in R, and n for all others: `[m]` to `[m]`.
    fn numbers(&self, ids: Tensor<1, Int>) -> Tensor<1, Int> {
        let (count, own) = (self.order.dims()[0], self.trainable_tokens_delta.dims()[0]);
        let numbers = self.order.clone().select(0, ids).sub_scalar(count as i32);
        let others = numbers.clone().lower_elem(0);
        numbers.mask_fill(others, own as i32)
    }

    /// `E'[id]` for each of ids `[m]`, given `E[id]` `[m, hidden]`.
    pub fn lookup(&self, rows: Tensor<2>, ids: Tensor<1, Int>) -> Tensor<2> {
        let own = self.rows(rows.dtype());
        let ([count, hidden], device) = (own.dims(), own.device());
        let numbers = self.numbers(ids);
        let others = numbers
            .clone()
            .equal_elem(count as i32)
            .float()
            .cast(FloatDType::from(rows.dtype()));
        let none = Tensor::zeros([1, hidden], (&device, own.dtype()));
        let own = Tensor::cat(vec![own, none], 0).select(0, numbers);
        rows * others.unsqueeze_dim(1) + own
    }

    /// E' as a constant, in the type of E.
    pub fn table(&self, table: Tensor<2>) -> Tensor<2> {
        let own = self.rows(table.dtype()).detach();
        Tensor::cat(vec![table.detach(), own], 0).select(0, self.order.clone())
    }

    /// E' in the type of E, with the tape of R.
    pub fn trained_table(&self, table: Tensor<2>) -> Tensor<2> {
        let own = self.rows(table.dtype());
        Tensor::cat(vec![table.detach(), own], 0).select(0, self.order.clone())
    }

    /// The logits of a tied head, from those with E: hidden `[.., hidden]`, logits `[.., rows]`.
    pub fn logits<const D: usize>(&self, hidden: Tensor<D>, logits: Tensor<D>) -> Tensor<D> {
        let own = ft_kernels::linear(hidden.clone(), self.rows(hidden.dtype()));
        let own = own.cast(FloatDType::from(logits.dtype()));
        Tensor::cat(vec![logits, own], D - 1).select(D - 1, self.order.clone())
    }

    /// Sum over rows of the negative log-likelihood in nats through a tied head, `[1]`, against targets that spread `smoothing` of
    /// their weight over the whole vocabulary; hidden `[m, hidden]`, targets `[m]`.
    ///
    /// E' is a constant for the product with the whole vocabulary. What R gains from it is added as a term that is zero and has
    /// the gradient of the loss with respect to the logits of the chosen tokens, `softmax - (1 - ε)·[target] - ε/rows`.
    pub fn nll_sum(&self, hidden: Tensor<2>, table: Tensor<2>, targets: Tensor<1, Int>, smoothing: f64) -> Tensor<1> {
        let head = self.table(table);
        let nll = ft_kernels::smoothed_cross_entropy(hidden.clone(), head.clone(), targets.clone(), smoothing);
        match self.head_gradient(hidden, head, targets, smoothing) {
            Some(term) => nll + term.sum(),
            None => nll,
        }
    }

    /// Negative log-likelihood of each row in nats through a tied head, `[m]`, as [`nll_sum`](Self::nll_sum) has it.
    pub fn token_nll(&self, hidden: Tensor<2>, table: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
        let head = self.table(table);
        let nll = ft_kernels::cross_entropy_rows(hidden.clone(), head.clone(), targets.clone());
        match self.head_gradient(hidden, head, targets, 0.0) {
            Some(term) => nll + term,
            None => nll,
        }
    }

    /// A term that is zero, `[m]`, with the gradient of each row's loss with respect to R, where R trains. `head` is E' as a constant.
    fn head_gradient(
        &self,
        hidden: Tensor<2>,
        head: Tensor<2>,
        targets: Tensor<1, Int>,
        smoothing: f64,
    ) -> Option<Tensor<1>> {
        if !self.trainable_tokens_delta.val().is_require_grad() {
            return None;
        }
        let (hidden, head) = (hidden.detach().without_autodiff(), head.without_autodiff());
        let wide = f32(hidden.clone());
        let own = ft_kernels::linear(wide.clone().autodiff(), self.trainable_tokens_delta.val()); // [m, n]
        let plain = targets.clone().without_autodiff();
        let target = (wide * f32(head.clone().select(0, plain.clone()))).sum_dim(1); // [m, 1]
        let spread = smoothing / head.dims()[0] as f64;
        let total = f32(ft_kernels::token_nll(hidden, head, plain)).unsqueeze_dim(1) + target; // log-sum-exp
        let share = (own.clone().detach().without_autodiff() - total).exp();
        let numbers = Tensor::<1, Int>::arange(0..own.dims()[1] as i64, &own.device()).unsqueeze_dim::<2>(0);
        let hit = self
            .numbers(targets)
            .unsqueeze_dim::<2>(1)
            .expand(own.dims())
            .equal(numbers.expand(own.dims()));
        let pull = share.autodiff() - f32(hit.float()).mul_scalar(1.0 - smoothing) - spread;
        let term = (own * pull.detach()).sum_dim(1).squeeze_dim::<1>(1);
        let value = term.clone().detach();
        Some(term - value)
    }

    /// The trainable tensor, by its name in PEFT's file after the table's path.
    pub fn params(&mut self) -> Vec<(&'static str, ParamMut<'_>)> {
        let name = match self.nested {
            true => "token_adapter.trainable_tokens_delta",
            false => "trainable_tokens_delta",
        };
        vec![(name, ParamMut::Matrix(&mut self.trainable_tokens_delta))]
    }
}
