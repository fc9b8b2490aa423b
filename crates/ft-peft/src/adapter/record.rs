//! The `adapter_config.json` of an adapter in a model.

use std::collections::BTreeMap;

use crate::adapterhub;
use crate::attach::{Choice, PlaceSpec, places};
use crate::methods::{PeftConfig, WeightDelta};
use crate::peft_config::Target;
use crate::site::{Adaptable, AttentionShape, Place, Site};
use crate::targets::{Kind, has_suffix};

/// The `adapter_config.json` of the adapter; `None` where there is no adapter to save.
pub(super) fn record(
    model: &mut impl Adaptable,
    config: &PeftConfig,
    choice: &Choice,
    base_model: &str,
) -> Option<serde_json::Value> {
    if let Some((name, options)) = config.method().to_adapterhub() {
        let hidden = places(model)
            .iter()
            .find(|p| p.kind == Kind::Residual)
            .map_or(0, |p| p.dims[0]);
        return Some(adapterhub::record(
            name,
            options,
            model.architecture(),
            hidden,
            base_model,
        ));
    }
    let paths = config.method().targeted(choice);
    let modules = shortest(&paths, &places(model));
    let target = Target {
        base_model,
        modules: &modules,
        paths: &paths,
        kept: &kept(model),
        fan_in_fan_out: stores_in_out(model),
        shape: attention(model),
    };
    config.method().to_peft(&target)
}

/// The rank-one parts that the file holds, of places where some were taken away.
fn kept(model: &mut impl Adaptable) -> BTreeMap<String, Vec<bool>> {
    let of = |site: Site<'_>| match &site.place {
        Place::Projection(slot) => Some((site.path, slot.delta.as_ref()?.kept()?)),
        _ => None,
    };
    model.sites().into_iter().filter_map(of).collect()
}

/// The adapted places as PEFT's `target_modules`: their last components where these mean exactly the same places, else
/// whole paths.
fn shortest(adapted: &[String], places: &[PlaceSpec]) -> Vec<String> {
    let last = |path: &str| path.rsplit('.').next().unwrap_or(path).to_string();
    let mut names: Vec<String> = adapted.iter().map(|path| last(path)).collect();
    names.sort();
    names.dedup();
    let candidates = places.iter().filter(|place| place.kind != Kind::TiedHead);
    let exact = candidates.filter(|place| names.iter().any(|name| has_suffix(&place.path, name)));
    if exact.map(|place| &place.path).eq(adapted) {
        names
    } else {
        adapted.to_vec()
    }
}

fn attention(model: &mut impl Adaptable) -> AttentionShape {
    let shape = model.sites().into_iter().find_map(|site| match site.place {
        Place::Attention { shape, .. } => Some(shape),
        _ => None,
    });
    shape.unwrap_or_default()
}

fn stores_in_out(model: &mut impl Adaptable) -> bool {
    let mut sites = model.sites().into_iter();
    sites.any(|site| match &site.place {
        Place::Projection(slot) => slot.delta.is_some() && slot.weight.layout == ft_quant::Layout::InOut,
        _ => false,
    })
}
