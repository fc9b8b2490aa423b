//! An adapter folder: method, places, share of the base, and how large its matrices have become.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{DType, TensorData};
use ft_model::ModelConfig;
use ft_quant::Scheme;
use ft_train::checkpoint::read_tensors;
use serde::Serialize;
use serde_json::Value;

use crate::failure::{Context, Failure};
use crate::inspect::run;
use crate::locate::Located;
use crate::{locate, output};

/// An adapter in numbers.
#[derive(Debug, Serialize)]
pub struct Adapter {
    method: String,
    rank: Option<u64>,
    alpha: Option<f64>,
    /// Columns that it puts before every text.
    virtual_tokens: Option<u64>,
    /// Of bottleneck adapters: a number, or numbers by layer.
    reduction_factor: Value,
    targets: Value,
    base_model: Option<String>,
    /// How the run that made it held the base in codes.
    quant: Option<Scheme>,
    parameters: u64,
    bytes: u64,
    /// Parameters of the base, where it is at hand.
    base_parameters: Option<u64>,
    /// `parameters` as a share of the base's.
    trainable_share: Option<f64>,
    sites: Vec<Site>,
}

/// One adapted place.
#[derive(Debug, Serialize)]
struct Site {
    path: String,
    parameters: u64,
    /// Frobenius norm of each tensor.
    norms: BTreeMap<String, f64>,
}

impl Adapter {
    pub fn read(folder: &Path) -> Result<Self, Failure> {
        let path = folder.join("adapter_config.json");
        let text = std::fs::read_to_string(&path).context(path.display())?;
        let config: Value = serde_json::from_str(&text).context(path.display())?;
        let tensors = read_tensors(&ft_peft::adapter::weights_file(folder)?)?;
        let parameters = tensors.iter().map(|(_, data)| numbers(data)).sum();
        let base = locate::here(folder);
        let quant = base.as_ref().and_then(|located| located.quant);
        let base = base.and_then(|located| base_parameters(&located));
        Ok(Self {
            method: method(folder, &config)?,
            rank: config["r"].as_u64(),
            alpha: config["lora_alpha"].as_f64().or(config["alpha"].as_f64()),
            virtual_tokens: config["num_virtual_tokens"].as_u64(),
            reduction_factor: config["config"]["reduction_factor"].clone(),
            targets: config["target_modules"].clone(),
            base_model: ft_peft::adapter::base_model(folder),
            quant,
            parameters,
            bytes: tensors.iter().map(|(_, data)| data.as_bytes().len() as u64).sum(),
            base_parameters: base,
            trainable_share: base.map(|base| parameters as f64 / base as f64),
            sites: sites(&tensors),
        })
    }

    pub fn page(&self) -> String {
        let number = |n: Option<f64>| n.map_or("-".to_string(), |n| n.to_string());
        let share = match (self.trainable_share, self.base_parameters) {
            (Some(share), Some(base)) => format!(" ({:.3} % of the base's {})", 100.0 * share, output::count(base)),
            _ => String::new(),
        };
        let rows = [
            (
                "adapter",
                match (&self.reduction_factor, self.virtual_tokens) {
                    (Value::Null, Some(tokens)) => format!("{}, {tokens} virtual tokens", self.method),
                    (Value::Null, None) => format!(
                        "{}, rank {}, alpha {}",
                        self.method,
                        number(self.rank.map(|r| r as f64)),
                        number(self.alpha)
                    ),
                    (factor, _) => format!("{}, reduction factor {factor}", self.method),
                },
            ),
            ("base", self.base_model.clone().unwrap_or_else(|| "not named".into())),
            ("held as", run::held(self.quant)),
            ("parameters", format!("{}{share}", output::count(self.parameters))),
            ("size", output::bytes(self.bytes)),
            ("sites", self.sites.len().to_string()),
        ];
        format!(
            "{}\n{}",
            output::fields(&rows),
            output::table(&self.by_module(), &[false, true, true, false])
        )
    }

    /// Sites that end alike in one row, with the mean norm of each of their tensors.
    fn by_module(&self) -> Vec<Vec<String>> {
        let mut modules: BTreeMap<&str, Vec<&Site>> = BTreeMap::new();
        for site in &self.sites {
            modules
                .entry(site.path.rsplit('.').next().unwrap_or(&site.path))
                .or_default()
                .push(site);
        }
        let header = ["module", "sites", "parameters", "mean norms"]
            .map(String::from)
            .to_vec();
        let row = |(name, sites): (&&str, &Vec<&Site>)| {
            let parameters = sites.iter().map(|s| s.parameters).sum();
            vec![
                name.to_string(),
                sites.len().to_string(),
                output::count(parameters),
                mean_norms(sites),
            ]
        };
        std::iter::once(header).chain(modules.iter().map(row)).collect()
    }
}

/// PEFT's name of the method, or ours of what AdapterHub describes by its options.
fn method(folder: &Path, config: &Value) -> Result<String, Failure> {
    match config["peft_type"].as_str() {
        Some(kind) => Ok(kind.to_lowercase()),
        None => Ok(ft_peft::adapter::read_config(folder)?.name().to_owned()),
    }
}

fn mean_norms(sites: &[&Site]) -> String {
    let mut sums: BTreeMap<&str, (f64, usize)> = BTreeMap::new();
    for (name, norm) in sites.iter().flat_map(|s| &s.norms) {
        let (sum, count) = sums.entry(name).or_default();
        (*sum, *count) = (*sum + norm, *count + 1);
    }
    sums.iter()
        .map(|(name, (sum, n))| format!("{name} {:.4}", sum / *n as f64))
        .collect::<Vec<_>>()
        .join(", ")
}

/// The base's parameters, if its folder is where the adapter says.
fn base_parameters(located: &Located) -> Option<u64> {
    let config = ModelConfig::from_dir(&located.checkpoint).ok()?;
    Some(config.num_parameters() as u64)
}

fn sites(tensors: &[(String, TensorData)]) -> Vec<Site> {
    let mut sites: BTreeMap<&str, Site> = BTreeMap::new();
    for (name, data) in tensors {
        let (path, leaf) = split(name);
        let fresh = || Site {
            path: path.to_string(),
            parameters: 0,
            norms: BTreeMap::new(),
        };
        let site = sites.entry(path).or_insert_with(fresh);
        site.parameters += numbers(data);
        if numbers(data) > 0 {
            site.norms.insert(leaf.to_string(), norm(data));
        }
    }
    sites.into_values().collect()
}

/// Parameters in a tensor; whole numbers say where something is.
fn numbers(data: &TensorData) -> u64 {
    match data.dtype() {
        DType::I32 => 0,
        _ => data.shape().iter().map(|d| *d as u64).product(),
    }
}

fn norm(data: &TensorData) -> f64 {
    data.iter::<f64>().map(|x| x * x).sum::<f64>().sqrt()
}

/// `base_model.model.a.q_proj.lora_A.weight` as (`a.q_proj`, `lora_A`); a whole module `a.norm.weight` as
/// (`a.norm`, `weight`); AdapterHub's `a.output_adapters.adapters.NAME.adapter_up.bias` as (`a.output_adapters`,
/// `adapter_up.bias`).
fn split(name: &str) -> (&str, &str) {
    for kind in [".adapters.", ".loras."] {
        if let Some((path, Some((_, leaf)))) = name.split_once(kind).map(|(path, rest)| (path, rest.split_once('.'))) {
            return (path, leaf.strip_suffix(".weight").unwrap_or(leaf));
        }
    }
    let name = name.strip_prefix("base_model.model.").unwrap_or(name);
    let bare = name.strip_suffix(".weight").unwrap_or(name);
    match bare.rsplit_once('.') {
        Some((path, leaf)) if is_adapter_tensor(leaf) => (path, leaf),
        _ => match [".lora_B.", ".base_layer.", ".osf_svd_params."]
            .iter()
            .find_map(|part| name.split_once(part))
        {
            Some((path, _)) => (path, &name[path.len() + 1..]),
            None => name.rsplit_once('.').unwrap_or((name, "")),
        },
    }
}

/// PEFT's tensor names carry their method: `lora_A`, `ia3_l`, `hada_w1_a`.
fn is_adapter_tensor(leaf: &str) -> bool {
    const METHODS: [&str; 12] = [
        "lora_", "ia3_", "hada_", "lokr_", "vera_", "oft_", "boft_", "hra_", "miss_", "vblora_", "shira_", "gralora_",
    ];
    METHODS.iter().any(|method| leaf.starts_with(method))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_split_into_place_and_tensor() {
        let cases = [
            ("base_model.model.m.0.q_proj.lora_A.weight", ("m.0.q_proj", "lora_A")),
            ("base_model.model.m.0.q_proj.lora_B.bias", ("m.0.q_proj", "lora_B.bias")),
            (
                "base_model.model.m.embed.lora_embedding_A",
                ("m.embed", "lora_embedding_A"),
            ),
            (
                "base_model.model.m.embed.base_layer.weight",
                ("m.embed", "base_layer.weight"),
            ),
            ("base_model.model.m.norm.weight", ("m.norm", "weight")),
            ("base_model.model.lm_head.weight", ("lm_head", "weight")),
            (
                "m.0.output_adapters.adapters.default.adapter_down.0.weight",
                ("m.0.output_adapters", "adapter_down.0"),
            ),
            (
                "m.0.output_adapters.adapters.default.adapter_up.bias",
                ("m.0.output_adapters", "adapter_up.bias"),
            ),
            (
                "base_model.model.m.0.q_proj.gralora_A_general.weight",
                ("m.0.q_proj", "gralora_A_general"),
            ),
            (
                "base_model.model.m.0.q_proj.osf_svd_params.U_low",
                ("m.0.q_proj", "osf_svd_params.U_low"),
            ),
            ("m.0.q_proj.loras.mine.lora_A", ("m.0.q_proj", "lora_A")),
        ];
        for (name, expected) in cases {
            assert_eq!(split(name), expected, "{name}");
        }
    }

    #[test]
    fn tensors_of_a_place_are_gathered() {
        let data = |values: Vec<f32>| TensorData::new(values.clone(), [values.len()]);
        let tensors = [
            ("p.a.lora_A.weight".to_string(), data(vec![3.0, 4.0])),
            ("p.a.lora_B.weight".to_string(), data(vec![0.0])),
            ("p.b.lora_A.weight".to_string(), data(vec![1.0])),
        ];
        let sites = sites(&tensors);
        assert_eq!(sites.len(), 2);
        assert_eq!((sites[0].path.as_str(), sites[0].parameters), ("p.a", 3));
        assert_eq!(sites[0].norms["lora_A"], 5.0);
    }
}
