//! The only place that decides what trains.

use crate::error::{Error, Result};
use crate::methods::lora::{BiasMode, LoraConfig};
use crate::methods::{Delta, EmbeddingDelta, PeftConfig, lora_init};
use crate::site::{Adaptable, Place, Site};
use crate::targets::{Kind, Selector, has_suffix, nearest};

/// One adaptable place without its values, for planning before a model is loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlaceSpec {
    /// As the checkpoint spells it, without `.weight`.
    pub path: String,
    /// What stands there.
    pub kind: Kind,
    /// `[out, in]` of a projection, `[rows, hidden]` of a table, `[hidden, 1]` of a norm.
    pub dims: [usize; 2],
    /// Whether it has a bias.
    pub bias: bool,
}

/// What an attachment made trainable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attached {
    /// Places that carry an adapter.
    pub adapted: Vec<String>,
    /// Places whose own tensors train.
    pub whole: Vec<String>,
    /// Places of which only the bias trains.
    pub biases: Vec<String>,
    /// Trainable parameters in all.
    pub parameters: usize,
}

/// What [`attach`] would make trainable in a model with these places.
pub fn preview(places: &[PlaceSpec], config: &PeftConfig) -> Result<Attached> {
    let mut attached = match config {
        PeftConfig::Lora(lora) => preview_lora(places, lora)?,
        PeftConfig::Full(full) => Attached {
            whole: select(places, full.selector())?,
            ..Attached::default()
        },
    };
    attached.parameters = places.iter().map(|place| trained_in(place, &attached, config)).sum();
    Ok(attached)
}

/// Freezes the model, then makes trainable what the method asks for. Starting values depend on `seed` and each place's
/// path alone.
pub fn attach(model: &mut impl Adaptable, config: &PeftConfig, seed: u64) -> Result<Attached> {
    let attached = preview(&places(model), config)?;
    let head = model.head_path().to_string();
    if attached.adapted.contains(&head) || attached.whole.contains(&head) {
        model.untie_head();
    }
    for mut site in model.sites() {
        site.freeze();
        site.clear();
        if attached.whole.contains(&site.path) {
            site.train();
        }
        if attached.biases.contains(&site.path) {
            site.bias().expect("only places with a bias are listed").train();
        }
        if let PeftConfig::Lora(lora) = config
            && attached.adapted.contains(&site.path)
        {
            fill_lora(&mut site, lora, seed);
        }
    }
    Ok(attached)
}

/// Merges every adapter into the weights and makes everything a constant. A tied head keeps the table as it was before
/// an adapter on the embeddings is merged into them.
pub fn fold(model: &mut impl Adaptable) {
    let embeds = model
        .sites()
        .iter()
        .any(|site| matches!(&site.place, Place::Embedding(e) if e.delta.is_some()));
    if embeds {
        model.untie_head();
    }
    for mut site in model.sites() {
        site.freeze();
        match &mut site.place {
            Place::Projection(slot) => slot.fold(),
            Place::Embedding(slot) => slot.fold(),
            Place::Norm(_) => {}
        }
    }
}

/// The places of a model, a tied head included.
pub fn places(model: &mut impl Adaptable) -> Vec<PlaceSpec> {
    let head = model.head_path().to_string();
    let mut places: Vec<PlaceSpec> = model.sites().into_iter().map(|site| spec(site, &head)).collect();
    if !places.iter().any(|place| place.path == head)
        && let Some(table) = places.iter().find(|place| place.kind == Kind::Embedding)
    {
        places.push(PlaceSpec {
            path: head,
            kind: Kind::TiedHead,
            dims: table.dims,
            bias: false,
        });
    }
    places
}

fn spec(mut site: Site<'_>, head: &str) -> PlaceSpec {
    let (kind, dims) = match &site.place {
        Place::Projection(slot) if site.path == head => (Kind::Head, slot.weight.dims()),
        Place::Projection(slot) => (Kind::Linear, slot.weight.dims()),
        Place::Embedding(slot) => (Kind::Embedding, slot.weight.dims()),
        Place::Norm(slot) => (Kind::Norm, [slot.weight.dims()[0], 1]),
    };
    let bias = site.bias().is_some();
    PlaceSpec {
        path: site.path,
        kind,
        dims,
        bias,
    }
}

fn preview_lora(places: &[PlaceSpec], config: &LoraConfig) -> Result<Attached> {
    config.check()?;
    let whole = whole_modules(places, &config.modules_to_save)?;
    let mut adapted = select(places, config.selector())?;
    adapted.retain(|path| !whole.contains(path));
    for place in places.iter().filter(|place| adapted.contains(&place.path)) {
        check_lora(place, config)?;
    }
    let with_bias = places.iter().filter(|place| place.bias && !whole.contains(&place.path));
    let biases = with_bias.filter(|place| match config.bias {
        BiasMode::None => false,
        BiasMode::All => true,
        BiasMode::LoraOnly => adapted.contains(&place.path),
    });
    let biases = biases.map(|place| place.path.clone()).collect();
    Ok(Attached {
        adapted,
        whole,
        biases,
        parameters: 0,
    })
}

fn select(places: &[PlaceSpec], selector: Selector<'_>) -> Result<Vec<String>> {
    let known: Vec<(&str, Kind)> = places.iter().map(|place| (place.path.as_str(), place.kind)).collect();
    Ok(selector.select(&known)?.into_iter().map(str::to_string).collect())
}

fn whole_modules(places: &[PlaceSpec], suffixes: &[String]) -> Result<Vec<String>> {
    let paths = || places.iter().map(|place| place.path.as_str());
    if let Some(unknown) = suffixes
        .iter()
        .find(|suffix| !paths().any(|path| has_suffix(path, suffix)))
    {
        let targets = format!("modules_to_save = [\"{unknown}\"]");
        return Err(Error::NoTarget {
            targets,
            nearest: nearest(unknown, paths()),
        });
    }
    let named = paths().filter(|path| suffixes.iter().any(|suffix| has_suffix(path, suffix)));
    Ok(named.map(str::to_string).collect())
}

fn check_lora(place: &PlaceSpec, config: &LoraConfig) -> Result<()> {
    let path = place.path.clone();
    if place.kind == Kind::Norm {
        let why = format!("{path} is a normalization, which LoRA cannot adapt; train it whole with modules_to_save");
        return Err(Error::Config {
            key: "peft.targets".into(),
            why,
        });
    }
    let (rank, [rows, cols]) = (config.rank_at(&path), place.dims);
    if rank > rows.min(cols) {
        return Err(Error::Rank { path, rank, rows, cols });
    }
    Ok(())
}

fn trained_in(place: &PlaceSpec, attached: &Attached, config: &PeftConfig) -> usize {
    let [rows, cols] = place.dims;
    let bias = if place.bias { rows } else { 0 };
    if attached.whole.contains(&place.path) {
        return rows * cols + bias;
    }
    let bias = if attached.biases.contains(&place.path) { bias } else { 0 };
    let adapter = match config {
        PeftConfig::Lora(lora) if attached.adapted.contains(&place.path) => {
            let own_bias = if lora.lora_bias && place.kind != Kind::Embedding {
                rows
            } else {
                0
            };
            lora.rank_at(&place.path) * (rows + cols) + own_bias
        }
        _ => 0,
    };
    bias + adapter
}

fn fill_lora(site: &mut Site<'_>, config: &LoraConfig, seed: u64) {
    match &mut site.place {
        Place::Projection(slot) => {
            let (lora, residual) = lora_init::projection(config, &site.path, seed, slot);
            if let Some(residual) = residual {
                slot.weight.set_dense(residual);
            }
            slot.delta = Some(Delta::Lora(lora));
        }
        Place::Embedding(slot) => {
            let lora = lora_init::embedding(config, &site.path, seed, slot);
            slot.delta = Some(EmbeddingDelta::Lora(lora));
        }
        Place::Norm(_) => unreachable!("refused by the preview"),
    }
}
