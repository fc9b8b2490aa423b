//! The only module that decides what trains.

use crate::error::{Error, Result};
use crate::methods::common::invalid;
use crate::methods::lora::BiasMode;
use crate::methods::trainable_tokens;
use crate::methods::{Delta, PeftConfig, PeftMethod};
use crate::target_module::{Adaptable, ModuleSlot, TargetModule, TaskHead};
use crate::targets::{Kind, Selector, has_suffix, named, nearest};

/// One adaptable module without its values, for planning before a model is loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModuleSpec {
    /// As the checkpoint spells it, without `.weight`.
    pub path: String,
    /// What stands there.
    pub kind: Kind,
    /// `[out, in]` of a projection, `[rows, hidden]` of a table, `[hidden, 1]` of a norm, another vector or a residual stream, `[out, 0]` of a bias alone,
    /// `[channels, taps]` of a convolution, `[heads, 2]` of gates, `[layers, kv_heads head_dim]` of the attention.
    pub dims: [usize; 2],
    /// Whether it has a bias.
    pub bias: bool,
}

impl ModuleSpec {
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

/// Which modules a method acts on, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// Modules that carry an adapter.
    pub adapted: Vec<String>,
    /// Modules whose own tensors train.
    pub whole: Vec<String>,
    /// Places of which only the bias trains.
    pub biases: Vec<String>,
    /// Embedding tables of which chosen rows train.
    pub rows: Vec<String>,
}

impl Choice {
    /// Adapters where `selector` says, with PEFT's `modules_to_save` and `bias`.
    pub(crate) fn adapters(
        specs: &[ModuleSpec],
        selector: Selector<'_>,
        modules_to_save: &[String],
        bias: BiasMode,
    ) -> Result<Self> {
        let whole = whole_modules(specs, modules_to_save)?;
        let mut adapted = selector.select(specs)?;
        adapted.retain(|path| !whole.contains(path));
        let with_bias = specs.iter().filter(|spec| spec.bias && !whole.contains(&spec.path));
        let biases = with_bias.filter(|spec| match bias {
            BiasMode::None => false,
            BiasMode::All => true,
            BiasMode::LoraOnly => adapted.contains(&spec.path),
        });
        let biases = biases.map(|spec| spec.path.clone()).collect();
        Ok(Self {
            adapted,
            whole,
            biases,
            rows: Vec::new(),
        })
    }
}

/// What `method` acts on in a model with these modules, and the model's head, which trains whatever the method.
pub(crate) fn choose(method: &dyn PeftMethod, specs: &[ModuleSpec]) -> Result<Choice> {
    let mut choice = method.choose(specs)?;
    for ModuleSpec { path, .. } in specs.iter().filter(|spec| spec.kind == Kind::TaskHead) {
        choice.adapted.retain(|own| own != path);
        choice.biases.retain(|own| own != path);
        if !choice.whole.contains(path) {
            choice.whole.push(path.clone());
        }
    }
    Ok(choice)
}

fn whole_modules(specs: &[ModuleSpec], suffixes: &[String]) -> Result<Vec<String>> {
    let paths = || named(specs).map(|spec| spec.path.as_str());
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
    let chosen = || named(specs).filter(|spec| suffixes.iter().any(|suffix| has_suffix(&spec.path, suffix)));
    // PEFT would save a copy of the whole sub-layer.
    if let Some(spec) = chosen().find(|spec| matches!(spec.kind, Kind::Vector | Kind::Convolution | Kind::Gates)) {
        let why = format!("{} trains with method = \"full\", not beside adapters", spec.path);
        return Err(invalid("modules_to_save", why));
    }
    Ok(chosen().map(|spec| spec.path.clone()).collect())
}

/// What an attachment made trainable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attached {
    /// Where.
    pub choice: Choice,
    /// Trainable parameters in all.
    pub parameters: usize,
}

/// What [`attach`] would make trainable in a model with these modules.
pub fn preview(specs: &[ModuleSpec], config: &PeftConfig) -> Result<Attached> {
    let method = config.method();
    method.check()?;
    let choice = choose(method, specs)?;
    let trained = |spec: &ModuleSpec| {
        let [rows, cols] = spec.dims;
        let bias = if spec.bias { rows } else { 0 };
        if choice.whole.contains(&spec.path) {
            return rows * cols + bias;
        }
        let bias = if choice.biases.contains(&spec.path) { bias } else { 0 };
        let adapter = if choice.adapted.contains(&spec.path) {
            method.parameters_at(spec)
        } else {
            0
        };
        let rows = if choice.rows.contains(&spec.path) {
            method.tokens().len() * cols
        } else {
            0
        };
        bias + adapter + rows
    };
    let parameters = specs.iter().map(trained).sum();
    Ok(Attached { choice, parameters })
}

/// Path and shape of every tensor that `choice` makes trainable, adapters as their method describes them.
pub fn trained_shapes(specs: &[ModuleSpec], config: &PeftConfig, choice: &Choice) -> Vec<(String, Vec<usize>)> {
    let method = config.method();
    let trained = |spec: &ModuleSpec| {
        let [rows, cols] = spec.dims;
        let whole = choice.whole.contains(&spec.path);
        let biased = spec.bias && (whole || choice.biases.contains(&spec.path));
        let weight = if cols == 1 { vec![rows] } else { vec![rows, cols] };
        let mut tensors = Vec::new();
        match spec.kind {
            Kind::Gates if whole => {
                tensors.extend(["A_log", "dt_bias"].map(|leaf| (format!("{}.{leaf}", spec.path), vec![rows])))
            }
            _ => tensors.extend((whole && cols > 0).then(|| (format!("{}.weight", spec.path), weight))),
        }
        tensors.extend(biased.then(|| (format!("{}.bias", spec.path), vec![rows])));
        if !whole && choice.adapted.contains(&spec.path) {
            let name = format!("{}.delta", spec.path);
            tensors.extend(method.shapes_at(spec).into_iter().map(|shape| (name.clone(), shape)));
        }
        tensors
    };
    specs.iter().flat_map(trained).collect()
}

/// Freezes the model, then makes trainable what the method asks for. Starting values depend on `seed` and each module's
/// path alone.
pub fn attach(model: &mut impl Adaptable, config: &PeftConfig, seed: u64) -> Result<Attached> {
    let specs = module_specs(model);
    let attached = preview(&specs, config)?;
    config.method().ready(&specs)?;
    let choice = &attached.choice;
    let head = specs.iter().find(|spec| spec.kind == Kind::TiedHead);
    if head.is_some_and(|head| choice.adapted.contains(&head.path) || choice.whole.contains(&head.path)) {
        model.untie_head();
    }
    let nested = !matches!(config, PeftConfig::TrainableTokens(_));
    let mut adapted = Vec::new();
    for mut module in model.target_modules() {
        module.freeze();
        module.clear();
        if choice.whole.contains(&module.path) {
            module.train();
        }
        if choice.biases.contains(&module.path) {
            module.bias().expect("only modules with a bias are listed").train();
        }
        if choice.rows.contains(&module.path) {
            trainable_tokens::fill(&mut module, config.method().tokens(), nested)?;
        }
        if choice.adapted.contains(&module.path) {
            adapted.push(module);
        }
    }
    config.method().fill_all(&mut adapted, seed);
    Ok(attached)
}

/// Takes every adapter out and makes everything a constant.
pub fn detach(model: &mut impl Adaptable) {
    for mut module in model.target_modules() {
        module.freeze();
        module.clear();
    }
}

/// Merges every adapter into the weights and makes everything a constant. A tied head keeps the table as it was before an
/// adapter on the embeddings is merged into them, unless the adapter was the head's too.
///
/// # Errors
/// [`Error::NotMergeable`] for an adapter that no weight can stand for; the model is unchanged.
pub fn fold(model: &mut impl Adaptable) -> Result<()> {
    mergeable(model)?;
    let embeds = model.target_modules().iter().any(
        |module| matches!(&module.slot, ModuleSlot::Embedding(e) if e.delta.as_ref().is_some_and(|d| !d.moves_head())),
    );
    if embeds {
        model.untie_head();
    }
    for mut module in model.target_modules() {
        module.freeze();
        match &mut module.slot {
            ModuleSlot::Projection(slot) => slot.fold(),
            ModuleSlot::Embedding(slot) => slot.fold(),
            _ => {}
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
    for module in model.target_modules() {
        let why = match &module.slot {
            ModuleSlot::Residual { slot, .. } if slot.adapter.is_some() => "a bottleneck adapter is not linear",
            ModuleSlot::Embedding(slot) if slot.prompt.is_some() => COLUMN,
            ModuleSlot::Attention { slot, .. } if slot.prefix.is_some() => COLUMN,
            ModuleSlot::Projection(slot) if matches!(slot.delta, Some(Delta::Mixed(_))) => {
                "each row has an adapter of its own"
            }
            _ => continue,
        };
        return Err(Error::NotMergeable { path: module.path, why });
    }
    Ok(())
}

/// The modules of a model, a tied head included.
pub fn module_specs(model: &mut impl Adaptable) -> Vec<ModuleSpec> {
    let (head, task) = (model.head_path().to_string(), model.task_head());
    let mut specs: Vec<ModuleSpec> = model
        .target_modules()
        .into_iter()
        .map(|module| spec(module, &head, task))
        .collect();
    if task.is_none()
        && !specs.iter().any(|spec| spec.path == head)
        && let Some(table) = specs.iter().find(|spec| spec.kind == Kind::Embedding)
    {
        specs.push(ModuleSpec {
            path: head,
            kind: Kind::TiedHead,
            dims: table.dims,
            bias: false,
        });
    }
    specs
}

fn spec(mut module: TargetModule<'_>, head: &str, task: Option<TaskHead>) -> ModuleSpec {
    let (kind, dims) = match &module.slot {
        ModuleSlot::Projection(slot) if task.is_some_and(|task| task.holds(&module.path)) => {
            (Kind::TaskHead, slot.weight.dims())
        }
        ModuleSlot::Projection(slot) if module.path == head => (Kind::Head, slot.weight.dims()),
        ModuleSlot::Projection(slot) if slot.routes => (Kind::Router, slot.weight.dims()),
        ModuleSlot::Projection(slot) => (Kind::Linear, slot.weight.dims()),
        ModuleSlot::Embedding(slot) => (Kind::Embedding, slot.weight.dims()),
        ModuleSlot::Norm(slot) => (Kind::Norm, [slot.weight.dims()[0], 1]),
        ModuleSlot::Bias(bias) => (Kind::Bias, [bias.dims()[0], 0]),
        ModuleSlot::Vector { vector, .. } => (Kind::Vector, [vector.dims()[0], 1]),
        ModuleSlot::Convolution(weight) => (Kind::Convolution, weight.dims()),
        ModuleSlot::Gates(gates) => (Kind::Gates, [gates.a_log.dims()[0], 2]),
        ModuleSlot::Residual { hidden, .. } => (Kind::Residual, [*hidden, 1]),
        ModuleSlot::Attention { shape, .. } => (Kind::Attention, [shape.layers, shape.width()]),
    };
    let bias = module.bias().is_some();
    ModuleSpec {
        path: module.path,
        kind,
        dims,
        bias,
    }
}
