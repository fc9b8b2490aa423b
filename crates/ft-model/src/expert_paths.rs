//! Where checkpoints hold the matrices of experts, which modules may have under other names or in other parts.

use std::borrow::Cow;

use crate::block::{ExpertsConfig, MlpNames};
use crate::config::ModelConfig;

impl ExpertsConfig {
    /// Path below a layer and names as checkpoints spell them.
    pub(crate) fn stored(&self) -> (&'static str, &MlpNames) {
        match &self.stored {
            Some((path, names)) => (path, names),
            None => (self.path, &self.names),
        }
    }
}

impl ModelConfig {
    /// The path of a module as its checkpoint spells it.
    pub(crate) fn stored_path<'p>(&self, path: &'p str) -> Cow<'p, str> {
        let own = self.block.experts.as_ref().filter(|own| own.stored.is_some());
        let Some((own, (before, below))) =
            own.and_then(|own| Some((own, path.split_once(&format!(".{}.", own.path))?)))
        else {
            return path.into();
        };
        let (at, names) = own.stored();
        let below = match below.strip_suffix(own.names.down) {
            Some(expert) if below.starts_with("experts.") => format!("{expert}{}", names.down),
            _ => below.to_string(),
        };
        format!("{before}.{at}.{below}").into()
    }

    /// Names of the tensors that [`tensors`](Self::tensors) lists for the matrix of the module at `path`.
    pub fn matrix_names(&self, path: &str) -> Vec<String> {
        let paths = match self.parts_of_expert(path) {
            Some(parts) => parts.to_vec(),
            None => vec![self.stored_path(path).into_owned()],
        };
        paths.into_iter().map(|path| format!("{path}.weight")).collect()
    }

    /// The paths of gate and up of an expert that has them in one matrix where its checkpoint has two, out of the path of that.
    pub(crate) fn parts_of_expert(&self, path: &str) -> Option<[String; 2]> {
        let own = self.block.experts.as_ref().filter(|own| own.fused && !own.stacked)?;
        let (at, name) = path.rsplit_once('.')?;
        let joined = name == own.names.gate_up && at.contains(".experts.");
        let names = own.stored().1;
        joined.then(|| [names.gate, names.up].map(|part| format!("{}.{part}", self.stored_path(at))))
    }

    /// The tensor that holds a matrix of all experts of a layer, out of the path of that of one: `…experts.down_proj`.
    pub(crate) fn stack_of(&self, path: &str) -> Option<String> {
        self.block.experts.as_ref().filter(|own| own.stacked)?;
        let (expert, matrix) = path.rsplit_once('.')?;
        let (at, _) = expert.rsplit_once('.').filter(|(at, _)| at.ends_with(".experts"))?;
        Some(format!("{at}.{matrix}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(family: &str) -> ModelConfig {
        let text = format!(
            r#"{{"model_type": "{family}", "vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2,
                "num_attention_heads": 2, "num_key_value_heads": 1, "num_local_experts": 2, "num_experts_per_tok": 1}}"#
        );
        ModelConfig::from_json(&text, "config.json".as_ref()).unwrap()
    }

    #[test]
    fn mixtral_is_stored_under_names_of_its_own() {
        let fused = config("mixtral").with_fused_experts().unwrap();
        let at = "model.layers.1.mlp";
        let stored = |path: &str| fused.stored_path(&format!("{at}.{path}")).into_owned();
        assert_eq!(stored("gate"), "model.layers.1.block_sparse_moe.gate");
        assert_eq!(
            stored("experts.1.down_proj"),
            "model.layers.1.block_sparse_moe.experts.1.w2"
        );
        assert_eq!(
            fused.parts_of_expert(&format!("{at}.experts.1.gate_up_proj")).unwrap(),
            ["w1", "w3"].map(|name| format!("model.layers.1.block_sparse_moe.experts.1.{name}"))
        );
        assert_eq!(fused.stored_path("model.norm"), "model.norm");
        assert_eq!(config("mixtral").stored_path("a.mlp.gate"), "a.mlp.gate");
    }

    #[test]
    fn experts_of_a_stack_lie_in_one_tensor() {
        let path = "model.layers.0.mlp.experts.1.down_proj";
        assert_eq!(
            config("gpt_oss").stack_of(path).unwrap(),
            "model.layers.0.mlp.experts.down_proj"
        );
        assert!(config("gpt_oss").stack_of("model.layers.0.self_attn.q_proj").is_none());
        assert!(config("mixtral").stack_of(path).is_none());
    }
}
