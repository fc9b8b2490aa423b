//! The only place that decides what trains.

use crate::error::{Error, Result};
use crate::methods::lora::BiasMode;
use crate::methods::trainable_tokens;
use crate::methods::{Delta, PeftConfig};
use crate::site::{Adaptable, Place, Site};
use crate::targets::{Kind, Selector, has_suffix, named, nearest};

/// One adaptable place without its values, for planning before a model is loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlaceSpec {
    /// As the checkpoint spells it, without `.weight`.
    pub path: String,
    /// What stands there.
    pub kind: Kind,
    /// `[out, in]` of a projection, `[rows, hidden]` of a table, `[hidden, 1]` of a norm or a residual stream,
    /// `[layers, kv_heads head_dim]` of the attention.
    pub dims: [usize; 2],
    /// Whether it has a bias.
    pub bias: bool,
}

impl PlaceSpec {
    /// Fails where `rank` is above the smaller side.
    pub(crate) fn holds_rank(&self, rank: usize) -> Result<()> {
        let [rows, cols] = self.dims;
        if rank > rows.min(cols) {
            let path = self.path.clone();
            return Err(Error::Rank { path, rank, rows, cols });
        }
        Ok(())
    }
}

/// Which places a method acts on, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// Places that carry an adapter.
    pub adapted: Vec<String>,
    /// Places whose own tensors train.
    pub whole: Vec<String>,
    /// Places of which only the bias trains.
    pub biases: Vec<String>,
    /// Embedding tables of which chosen rows train.
    pub rows: Vec<String>,
}

impl Choice {
    /// Adapters where `selector` says, with PEFT's `modules_to_save` and `bias`.
    pub(crate) fn adapters(
        places: &[PlaceSpec],
        selector: Selector<'_>,
        modules_to_save: &[String],
        bias: BiasMode,
    ) -> Result<Self> {
        let whole = whole_modules(places, modules_to_save)?;
        let mut adapted = selector.select(places)?;
        adapted.retain(|path| !whole.contains(path));
        let with_bias = places.iter().filter(|place| place.bias && !whole.contains(&place.path));
        let biases = with_bias.filter(|place| match bias {
            BiasMode::None => false,
            BiasMode::All => true,
            BiasMode::LoraOnly => adapted.contains(&place.path),
        });
        let biases = biases.map(|place| place.path.clone()).collect();
        Ok(Self {
            adapted,
            whole,
            biases,
            rows: Vec::new(),
        })
    }
}

fn whole_modules(places: &[PlaceSpec], suffixes: &[String]) -> Result<Vec<String>> {
    let paths = || named(places).map(|place| place.path.as_str());
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

/// What an attachment made trainable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attached {
    /// Where.
    pub choice: Choice,
    /// Trainable parameters in all.
    pub parameters: usize,
}

/// What [`attach`] would make trainable in a model with these places.
pub fn preview(places: &[PlaceSpec], config: &PeftConfig) -> Result<Attached> {
    let method = config.method();
    method.check()?;
    let choice = method.choose(places)?;
    let trained = |place: &PlaceSpec| {
        let [rows, cols] = place.dims;
        let bias = if place.bias { rows } else { 0 };
        if choice.whole.contains(&place.path) {
            return rows * cols + bias;
        }
        let bias = if choice.biases.contains(&place.path) { bias } else { 0 };
        let adapter = if choice.adapted.contains(&place.path) {
            method.parameters_at(place)
        } else {
            0
        };
        let rows = if choice.rows.contains(&place.path) {
            method.tokens().len() * cols
        } else {
            0
        };
        bias + adapter + rows
    };
    let parameters = places.iter().map(trained).sum();
    Ok(Attached { choice, parameters })
}

/// Path and shape of every tensor that `choice` makes trainable, adapters as their method describes them.
pub fn trained_shapes(places: &[PlaceSpec], config: &PeftConfig, choice: &Choice) -> Vec<(String, Vec<usize>)> {
    let method = config.method();
    let trained = |place: &PlaceSpec| {
        let [rows, cols] = place.dims;
        let whole = choice.whole.contains(&place.path);
        let biased = place.bias && (whole || choice.biases.contains(&place.path));
        let weight = if cols == 1 { vec![rows] } else { vec![rows, cols] };
        let mut tensors = Vec::new();
        tensors.extend(whole.then(|| (format!("{}.weight", place.path), weight)));
        tensors.extend(biased.then(|| (format!("{}.bias", place.path), vec![rows])));
        if !whole && choice.adapted.contains(&place.path) {
            let name = format!("{}.delta", place.path);
            tensors.extend(method.shapes_at(place).into_iter().map(|shape| (name.clone(), shape)));
        }
        tensors
    };
    places.iter().flat_map(trained).collect()
}

/// Freezes the model, then makes trainable what the method asks for. Starting values depend on `seed` and each place's
/// path alone.
pub fn attach(model: &mut impl Adaptable, config: &PeftConfig, seed: u64) -> Result<Attached> {
    let places = places(model);
    let attached = preview(&places, config)?;
    config.method().ready(&places)?;
    let choice = &attached.choice;
    let head = model.head_path().to_string();
    if choice.adapted.contains(&head) || choice.whole.contains(&head) {
        model.untie_head();
    }
    let nested = !matches!(config, PeftConfig::TrainableTokens(_));
    let mut adapted = Vec::new();
    for mut site in model.sites() {
        site.freeze();
        site.clear();
        if choice.whole.contains(&site.path) {
            site.train();
        }
        if choice.biases.contains(&site.path) {
            site.bias().expect("only places with a bias are listed").train();
        }
        if choice.rows.contains(&site.path) {
            trainable_tokens::fill(&mut site, config.method().tokens(), nested)?;
        }
        if choice.adapted.contains(&site.path) {
            adapted.push(site);
        }
    }
    config.method().fill_all(&mut adapted, seed);
    Ok(attached)
}

/// Merges every adapter into the weights and makes everything a constant. A tied head keeps the table as it was before an
/// adapter on the embeddings is merged into them, unless the adapter was the head's too.
///
/// # Errors
/// [`Error::NotMergeable`] for an adapter that no weight can stand for; the model is unchanged.
pub fn fold(model: &mut impl Adaptable) -> Result<()> {
    mergeable(model)?;
    let embeds = model
        .sites()
        .iter()
        .any(|site| matches!(&site.place, Place::Embedding(e) if e.delta.as_ref().is_some_and(|d| !d.moves_head())));
    if embeds {
        model.untie_head();
    }
    for mut site in model.sites() {
        site.freeze();
        match &mut site.place {
            Place::Projection(slot) => slot.fold(),
            Place::Embedding(slot) => slot.fold(),
            Place::Norm(_) | Place::Residual { .. } | Place::Attention { .. } => {}
        }
    }
    Ok(())
}

/// Whether [`fold`] can make every adapter a part of the weights.
///
/// # Errors
/// [`Error::NotMergeable`] for one that no weight can stand for.
pub fn mergeable(model: &mut impl Adaptable) -> Result<()> {
    const COLUMN: &str = "a virtual token is a column of its own";
    for site in model.sites() {
        let why = match &site.place {
            Place::Residual { slot, .. } if slot.adapter.is_some() => "a bottleneck adapter is not linear",
            Place::Embedding(slot) if slot.prompt.is_some() => COLUMN,
            Place::Attention { slot, .. } if slot.prefix.is_some() => COLUMN,
            Place::Projection(slot) if matches!(slot.delta, Some(Delta::Mixed(_))) => {
                "each row has an adapter of its own"
            }
            _ => continue,
        };
        return Err(Error::NotMergeable { path: site.path, why });
    }
    Ok(())
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
        Place::Residual { hidden, .. } => (Kind::Residual, [*hidden, 1]),
        Place::Attention { shape, .. } => (Kind::Attention, [shape.layers, shape.width()]),
    };
    let bias = site.bias().is_some();
    PlaceSpec {
        path: site.path,
        kind,
        dims,
        bias,
    }
}
