//! Several adapters of one base, by name: one of them in the slots, or none, or one for each row of a batch.

use std::collections::BTreeMap;
use std::path::Path;

use ft_quant::Leaf;

use crate::adapter;
use crate::attach::{module_specs, preview};
use crate::error::{Error, Result};
use crate::methods::lora::BiasMode;
use crate::methods::lora::mixed::{Mixed, RowChoice};
use crate::methods::{Delta, PeftConfig};
use crate::slots::{Embedding, Gates, Norm, Prefixes, Projection, Residual};
use crate::target_module::{Adaptable, ModuleSlot, TargetModule};

/// A named set of adapters over one base model.
///
/// Slots hold handles of tensors, so an adapter is switched by moving handles: nothing of the base is read or copied again,
/// and the base itself is there all the time (`activate(model, None)`).
#[derive(Debug)]
pub struct Adapters {
    /// Every module without an adapter.
    base: Slots,
    held: BTreeMap<String, Held>,
    active: Option<String>,
}

/// The modules of a model by path.
type Slots = BTreeMap<String, Slot>;

#[derive(Debug)]
struct Held {
    config: PeftConfig,
    /// Every module with this adapter.
    slots: Slots,
}

/// What stands at a module.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "handles of tensors, a few hundred in a model")]
enum Slot {
    Projection(Projection),
    Embedding(Embedding),
    Norm(Norm),
    /// A bias alone, or another vector.
    Vector(Leaf<1>),
    Convolution(Leaf<2>),
    Gates(Gates),
    Residual(Residual),
    Attention(Prefixes),
}

impl Slot {
    fn of(module: &TargetModule<'_>) -> Self {
        match &module.slot {
            ModuleSlot::Projection(slot) => Slot::Projection((**slot).clone()),
            ModuleSlot::Embedding(slot) => Slot::Embedding((**slot).clone()),
            ModuleSlot::Norm(slot) => Slot::Norm((**slot).clone()),
            ModuleSlot::Bias(vector) | ModuleSlot::Vector { vector, .. } => Slot::Vector((**vector).clone()),
            ModuleSlot::Convolution(weight) => Slot::Convolution((**weight).clone()),
            ModuleSlot::Gates(slot) => Slot::Gates((**slot).clone()),
            ModuleSlot::Residual { slot, .. } => Slot::Residual((**slot).clone()),
            ModuleSlot::Attention { slot, .. } => Slot::Attention((**slot).clone()),
        }
    }

    fn put(&self, module: &mut TargetModule<'_>) {
        match (self, &mut module.slot) {
            (Slot::Projection(own), ModuleSlot::Projection(slot)) => **slot = own.clone(),
            (Slot::Embedding(own), ModuleSlot::Embedding(slot)) => **slot = own.clone(),
            (Slot::Norm(own), ModuleSlot::Norm(slot)) => **slot = own.clone(),
            (Slot::Vector(own), ModuleSlot::Bias(vector) | ModuleSlot::Vector { vector, .. }) => **vector = own.clone(),
            (Slot::Convolution(own), ModuleSlot::Convolution(weight)) => **weight = own.clone(),
            (Slot::Gates(own), ModuleSlot::Gates(slot)) => **slot = own.clone(),
            (Slot::Residual(own), ModuleSlot::Residual { slot, .. }) => **slot = own.clone(),
            (Slot::Attention(own), ModuleSlot::Attention { slot, .. }) => **slot = own.clone(),
            _ => unreachable!("a path is always the same kind of module"),
        }
    }
}

fn slots(model: &mut impl Adaptable) -> Slots {
    let modules = model.target_modules().into_iter();
    modules.map(|module| (module.path.clone(), Slot::of(&module))).collect()
}

impl Adapters {
    /// An empty set for a model without adapters.
    pub fn new(model: &mut impl Adaptable) -> Self {
        Self {
            base: slots(model),
            held: BTreeMap::new(),
            active: None,
        }
    }

    /// Reads the adapter in `dir` and calls it `name`. The first one becomes active; later ones wait.
    ///
    /// # Errors
    /// A name that is taken; an adapter that is not for this model, which leaves the set as it was.
    pub fn load(&mut self, model: &mut impl Adaptable, name: &str, dir: &Path) -> Result<()> {
        if name.is_empty() || self.held.contains_key(name) {
            return Err(wrong(match name.is_empty() {
                true => "an adapter needs a name".into(),
                false => format!("\"{name}\" is the name of another adapter already; take another name"),
            }));
        }
        self.show(model, None);
        let read = self.read(model, dir);
        let first = self.held.is_empty();
        if let Ok(held) = read {
            self.held.insert(name.into(), held);
            if first {
                self.active = Some(name.into());
            }
            self.show(model, self.active.as_deref());
            return Ok(());
        }
        self.show(model, self.active.as_deref());
        read.map(drop)
    }

    /// The model with the adapter in `dir`; its slots are left as they are then.
    fn read(&mut self, model: &mut impl Adaptable, dir: &Path) -> Result<Held> {
        let choice = preview(&module_specs(model), &adapter::read_config(dir)?)?.choice;
        let head = model.head_path().to_string();
        if choice.adapted.contains(&head) || choice.whole.contains(&head) {
            // The base computes the same with a head of its own.
            model.untie_head();
            for (path, slot) in slots(model) {
                self.base.entry(path).or_insert(slot);
            }
        }
        let (config, _) = adapter::load(dir, model)?;
        Ok(Held {
            config,
            slots: slots(model),
        })
    }

    /// Puts the adapter called `name` into the slots, or empties them: then the model is its base.
    ///
    /// # Errors
    /// [`Error::Config`] lists the names there are.
    pub fn activate(&mut self, model: &mut impl Adaptable, name: Option<&str>) -> Result<()> {
        if let Some(name) = name {
            self.find(name)?;
        }
        self.active = name.map(str::to_string);
        self.show(model, name);
        Ok(())
    }

    /// Forgets the adapter called `name`; where it was active, the model is its base afterwards.
    ///
    /// # Errors
    /// As [`activate`](Self::activate).
    pub fn remove(&mut self, model: &mut impl Adaptable, name: &str) -> Result<()> {
        self.find(name)?;
        self.held.remove(name);
        if self.active.as_deref() == Some(name) {
            self.activate(model, None)?;
        }
        Ok(())
    }

    /// Puts all LoRA adapters of `names` into the slots at once. The handle says which row of a batch takes which of them, by
    /// index in `names`, until another adapter is activated.
    ///
    /// # Errors
    /// [`Error::Config`] for an unknown name, and for an adapter that is more than LoRA matrices on projections: rows of one
    /// batch can share everything else only.
    pub fn mix(&mut self, model: &mut impl Adaptable, names: &[&str]) -> Result<RowChoice> {
        for name in names {
            check_rows(name, self.find(name)?)?;
        }
        self.activate(model, None)?;
        let rows = RowChoice::default();
        for mut module in model.target_modules() {
            let lora = |name: &&str| match self.held[*name].slots.get(&module.path) {
                Some(Slot::Projection(Projection {
                    delta: Some(Delta::Lora(lora)),
                    ..
                })) => Some(lora.clone()),
                _ => None,
            };
            let loras: Vec<_> = names.iter().map(lora).collect();
            if let ModuleSlot::Projection(slot) = &mut module.slot
                && loras.iter().any(Option::is_some)
            {
                slot.delta = Some(Delta::Mixed(Mixed::new(loras, rows.clone())));
            }
        }
        Ok(rows)
    }

    /// The names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.held.keys().map(String::as_str)
    }

    /// The adapter in the slots.
    pub fn active(&self) -> Option<&str> {
        self.active.as_deref()
    }

    /// The method and options of an adapter.
    ///
    /// # Errors
    /// As [`activate`](Self::activate).
    pub fn config(&self, name: &str) -> Result<&PeftConfig> {
        Ok(&self.find(name)?.config)
    }

    fn find(&self, name: &str) -> Result<&Held> {
        self.held.get(name).ok_or_else(|| {
            let names: Vec<&str> = self.names().collect();
            wrong(match names.is_empty() {
                true => format!("there is no adapter \"{name}\", and no other"),
                false => format!("there is no adapter \"{name}\"; there are {}", names.join(", ")),
            })
        })
    }

    fn show(&self, model: &mut impl Adaptable, name: Option<&str>) {
        let held = name.and_then(|name| self.held.get(name));
        for mut module in model.target_modules() {
            let own = held.and_then(|held| held.slots.get(&module.path));
            if let Some(slot) = own.or_else(|| self.base.get(&module.path)) {
                slot.put(&mut module);
            }
        }
    }
}

fn wrong(why: String) -> Error {
    Error::Config {
        key: "adapter".into(),
        why,
    }
}

/// Whether an adapter acts on each row by itself.
fn check_rows(name: &str, held: &Held) -> Result<()> {
    let PeftConfig::Lora(lora) = &held.config else {
        let method = held.config.name();
        return Err(wrong(format!(
            "\"{name}\" is of method \"{method}\"; only LoRA adapters can differ from row to row"
        )));
    };
    let own = |(_, slot): &(&String, &Slot)| match slot {
        Slot::Projection(slot) => matches!(&slot.delta, Some(delta) if !matches!(delta, Delta::Lora(_))),
        Slot::Embedding(slot) => slot.delta.is_some(),
        _ => false,
    };
    let whole = !lora.modules_to_save.is_empty() || lora.bias != BiasMode::None;
    let moved = held.slots.values().any(|slot| {
        matches!(slot, Slot::Projection(Projection { delta: Some(Delta::Lora(lora)), .. }) if lora.start.is_some())
    });
    match held.slots.iter().find(own) {
        Some((path, _)) => Err(wrong(format!(
            "\"{name}\" has more than LoRA matrices at {path}, which cannot differ from row to row"
        ))),
        None if whole || moved => Err(wrong(format!(
            "\"{name}\" changes tensors of the base (modules_to_save, bias or its start), which rows of a batch share"
        ))),
        None => Ok(()),
    }
}
