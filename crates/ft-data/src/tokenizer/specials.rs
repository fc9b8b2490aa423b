//! Which ids begin, end and pad a text. Checkpoints say so in up to four files, which need not agree.

use std::collections::{BTreeMap, HashSet};

use serde_json::Value;
use tokenizers::Tokenizer as Inner;

use super::files::Files;
use crate::error::Result;

/// The ids and names of the tokens with a role.
#[derive(Debug, Clone, Default)]
pub(super) struct Specials {
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub pad: Option<u32>,
    pub mask: Option<u32>,
    /// Every id at which generation stops: the EOS token first, then those of generation_config.json and config.json.
    pub stops: Vec<u32>,
    /// `bos_token`, `eos_token`, ... by name, as chat templates see them.
    pub named: BTreeMap<String, String>,
    /// Ids that stand for no text of their own.
    pub ids: HashSet<u32>,
}

/// Roles that a chat template can refer to.
const ROLES: &[&str] = &[
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];

/// Tokens that end a text in well-known families: asked when nothing but a tokenizer.json is there, and used if exactly one of
/// them exists.
const USUAL_ENDS: &[&str] = &[
    "</s>",
    "<eos>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eot_id|>",
    "<|im_end|>",
];

impl Specials {
    pub fn read(files: &Files, inner: &Inner) -> Result<Specials> {
        let tokenizer = [
            files.json("tokenizer_config.json")?,
            files.json("special_tokens_map.json")?,
        ];
        let model = [files.json("generation_config.json")?, files.json("config.json")?];
        let named = name_roles(&tokenizer);
        let by_name = |role: &str| named.get(role).and_then(|token| inner.token_to_id(token));
        let by_id = |role: &str| {
            model
                .iter()
                .flat_map(|config| ids_of(config, role))
                .find(|&id| inner.id_to_token(id).is_some())
        };

        let bos = match tokenizer.iter().any(|c| c.get("bos_token").is_some_and(Value::is_null)) {
            true => None, // "this tokenizer has none" outranks the number a model config carries along
            false => by_name("bos_token").or_else(|| by_id("bos_token_id")),
        };
        let eos = by_name("eos_token")
            .or_else(|| by_id("eos_token_id"))
            .or_else(|| usual_end(inner));
        let pad = by_name("pad_token").or_else(|| by_id("pad_token_id"));
        let mut stops: Vec<u32> = eos.into_iter().collect();
        for id in model.iter().flat_map(|config| ids_of(config, "eos_token_id")) {
            if !stops.contains(&id) && inner.id_to_token(id).is_some() {
                stops.push(id);
            }
        }
        let mut specials = Specials {
            bos,
            eos,
            pad,
            mask: by_name("mask_token").or_else(|| usual_mask(inner)),
            stops,
            named,
            ids: special_ids(inner),
        };
        specials.complete(inner);
        Ok(specials)
    }

    /// Tokens known by id only get their names, and tokens with a role count as special whatever the vocabulary says.
    fn complete(&mut self, inner: &Inner) {
        for (role, id) in [
            ("bos_token", self.bos),
            ("eos_token", self.eos),
            ("pad_token", self.pad),
        ] {
            if let Some(token) = id.and_then(|id| inner.id_to_token(id)) {
                self.named.entry(role.into()).or_insert(token);
            }
        }
        self.ids
            .extend(self.stops.iter().copied().chain(self.bos).chain(self.pad));
    }
}

/// Of BERT's and RoBERTa's vocabularies, where nothing but a tokenizer.json is there.
fn usual_mask(inner: &Inner) -> Option<u32> {
    ["[MASK]", "<mask>"].iter().find_map(|token| inner.token_to_id(token))
}

fn name_roles(configs: &[Value]) -> BTreeMap<String, String> {
    let named = |role: &&str| {
        configs
            .iter()
            .find_map(|config| token_text(config.get(role)?))
            .map(|t| (role.to_string(), t))
    };
    ROLES.iter().filter_map(named).collect()
}

/// A token is written as its text, or as an object with the text in `content`.
fn token_text(value: &Value) -> Option<String> {
    value
        .as_str()
        .or_else(|| value.get("content")?.as_str())
        .map(str::to_owned)
}

/// One id or a list of ids, at the top of a model config or in the part about text.
fn ids_of(config: &Value, key: &str) -> Vec<u32> {
    let value = config.get(key).or_else(|| config.get("text_config")?.get(key));
    let id = |v: &Value| v.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Some(Value::Array(ids)) => ids.iter().filter_map(id).collect(),
        Some(value) => id(value).into_iter().collect(),
        None => Vec::new(),
    }
}

fn special_ids(inner: &Inner) -> HashSet<u32> {
    inner
        .get_added_tokens_decoder()
        .into_iter()
        .filter(|(_, token)| token.special)
        .map(|(id, _)| id)
        .collect()
}

fn usual_end(inner: &Inner) -> Option<u32> {
    let special = special_ids(inner);
    let mut found = USUAL_ENDS
        .iter()
        .filter_map(|t| inner.token_to_id(t))
        .filter(|id| special.contains(id));
    match (found.next(), found.next()) {
        (Some(id), None) => Some(id),
        _ => None,
    }
}
