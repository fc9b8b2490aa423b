//! The head that an objective learns, on the model of a run.

use ft_data::{Examples, LabelKind, Labels, Tokenizer};
use ft_model::{HeadConfig, HeadKind, ModelConfig, Problem};

use crate::config::RunConfig;
use crate::continual::StrategyConfig;
use crate::{Error, Result};

/// The model with the head that the objective learns, if it does, and the labels that its data are read with.
pub(super) fn placed(config: &mut RunConfig, model: ModelConfig, tokenizer: &Tokenizer) -> Result<ModelConfig> {
    let refused = |why: String| Error::Plan(vec![why]);
    let kind = config.objective.kind();
    if kind.masks(&model) {
        let wrong = needs_tokens(config, "fills in masked tokens");
        if !wrong.is_empty() {
            return Err(Error::Plan(wrong));
        }
        encoder_takes(config, &model)?;
        return Ok(model.with_masked_head()?);
    }
    if kind.embeds() {
        let wrong = needs_tokens(config, "learns vectors");
        if !wrong.is_empty() {
            return Err(Error::Plan(wrong));
        }
        encoder_takes(config, &model)?;
        return Ok(model.without_head()?);
    }
    match kind.head(&model).map_err(refused)? {
        None => match &model.head {
            None if model.encoder.is_some() => Err(refused(format!(
                "model.path: this is an encoder ({}), which writes no text; set objective.kind = \"classify\" and objective.labels, \
                 or objective.kind = \"mlm\" (\"{}\" learns the next token)",
                model.model_type,
                config.objective.name()
            ))),
            None => Ok(model),
            Some(_) => Err(refused(format!(
                "model.path: this model has a head for labels and none for tokens; set objective.kind = \"classify\" (objective.kind = \
                 \"{}\" learns tokens)",
                config.objective.name()
            ))),
        },
        Some(head) => {
            let wrong = needs_tokens(config, "learns labels");
            if !wrong.is_empty() {
                return Err(Error::Plan(wrong));
            }
            encoder_takes(config, &model)?;
            config.data.labels = Some(labels(&head));
            Ok(model.with_head(head, Some(tokenizer.padding()))?)
        }
    }
}

/// Whether an encoder can carry what the method puts into it.
fn encoder_takes(config: &RunConfig, model: &ModelConfig) -> Result<()> {
    let method = super::job::method(&config.peft)?;
    if model.encoder.is_none() || method.method().virtual_tokens() == 0 {
        return Ok(());
    }
    Err(Error::Plan(vec![format!(
        "peft.method: \"{}\" puts virtual tokens before a text, which encoders do not take; take another method",
        method.name()
    )]))
}

/// The labels that the head of a configuration learns, where its objective has one: what its data are read with.
///
/// # Errors
/// A model without `config.json`; an objective that names no labels.
pub fn labels_of(config: &RunConfig) -> Result<Option<Labels>> {
    let kind = config.objective.kind();
    if kind.examples() != Examples::Labelled {
        return Ok(None);
    }
    let head = kind.head(&ModelConfig::from_dir(&config.model.path)?);
    Ok(head.map_err(|why| Error::Plan(vec![why]))?.as_ref().map(labels))
}

/// What of the configuration a model that says labels cannot do.
fn needs_tokens(config: &RunConfig, does: &str) -> Vec<String> {
    let kind = config.objective.name();
    let why =
        format!("needs a model that writes text, and this one {does} (objective.kind = \"{kind}\"); leave it out");
    let strategy = config.continual.as_ref().map(|section| &section.strategy);
    let wrong = [
        ("eval.general", config.eval.general.is_some()),
        ("eval.metrics", !config.eval.metrics.is_empty()),
        (
            "continual.strategy",
            matches!(strategy, Some(StrategyConfig::Lwf(_) | StrategyConfig::Der(_))),
        ),
    ];
    let wrong = wrong.iter().filter(|(_, asked)| *asked);
    wrong.map(|(key, _)| format!("{key}: {why}")).collect()
}

/// The labels of a head, as data are read with.
pub fn labels(head: &HeadConfig) -> Labels {
    let kind = match (head.kind, head.problem) {
        (HeadKind::Token, _) => LabelKind::Words,
        (_, Problem::SingleLabelClassification) => LabelKind::Class,
        (_, Problem::MultiLabelClassification) => LabelKind::Classes,
        (_, Problem::Regression) => LabelKind::Values,
    };
    Labels {
        names: head.labels.clone(),
        kind,
    }
}
