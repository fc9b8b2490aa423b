//! `ft adapters convert`: an adapter of any method that changes matrices becomes a LoRA adapter.

use std::path::{Path, PathBuf};

use ft_model::{Converted, ToLora, to_lora};
use ft_peft::convert::{Intruders, Keep};
use serde_json::json;

use crate::failure::{Context, Failure};
use crate::{locate, output};

/// Write an adapter as LoRA: each matrix's change as the nearest product of a rank, as PEFT's convert_to_lora does
#[derive(clap::Args, Debug)]
pub struct Convert {
    /// Base model: folder or embedded:tiny; or a run folder, which brings its adapter
    #[arg(value_name = "MODEL")]
    model: String,
    /// Adapter folder of any method that changes matrices
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// Rank of the result; that of the adapter where it is LoRA and this is left out
    #[arg(long, value_name = "R", conflicts_with = "energy")]
    rank: Option<usize>,
    /// Share of the squared singular values of each change to keep, instead of a rank: 0.95
    #[arg(long, value_name = "SHARE")]
    energy: Option<f64>,
    /// Reduce singular directions of the tuned matrices that are like none of the base's (arXiv:2410.21228), which wins back what
    /// training made the model forget
    #[arg(long)]
    reduce_intruders: bool,
    /// With --reduce-intruders: how many of the largest directions of a matrix are looked at
    #[arg(long, value_name = "K", default_value_t = Intruders::default().top_k, requires = "reduce_intruders")]
    top_k: usize,
    /// With --reduce-intruders: a direction is an intruder whose cosine with every one of the base is below this
    #[arg(long, value_name = "E", default_value_t = Intruders::default().threshold, requires = "reduce_intruders")]
    threshold: f64,
    /// With --reduce-intruders: what is left of an intruder, from 0 (nothing) to 1 (all)
    #[arg(long, value_name = "L", default_value_t = Intruders::default().keep, requires = "reduce_intruders")]
    mitigation: f64,
    /// Folder to write; it must not exist
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Convert {
    pub fn run(self) -> Result<(), Failure> {
        output::must_not_exist(&self.out)?;
        let located = locate::locate(&self.model, self.adapter.as_deref())?;
        let Some(adapter) = &located.adapter else {
            return Err(Failure::wrong_use(format!(
                "there is no adapter to convert: `{}` is a whole model; name an adapter with --adapter",
                self.model
            )));
        };
        let source = ToLora {
            dir: &located.checkpoint,
            quant: located.quant,
            adapter,
            keep: self.keep()?,
            intruders: self.intruders()?,
        };
        let draft = output::draft(&self.out);
        let written = write(&source, &located, &draft);
        let sites = match written {
            Ok(sites) => sites,
            Err(failure) => {
                // What failed is not left lying about; the first failure is the one to report.
                let _ = std::fs::remove_dir_all(&draft);
                return Err(failure);
            }
        };
        std::fs::rename(&draft, &self.out).context(self.out.display())?;
        self.report(&sites)
    }

    fn keep(&self) -> Result<Option<Keep>, Failure> {
        let keep = self.rank.map(Keep::Rank).or(self.energy.map(Keep::Energy));
        keep.map_or(Ok(()), Keep::check)
            .map_err(|e| Failure::wrong_use(format!("--{e}")))?;
        Ok(keep)
    }

    fn intruders(&self) -> Result<Option<Intruders>, Failure> {
        let share = |name: &str, value: f64| match (0.0..=1.0).contains(&value) {
            true => Ok(()),
            false => Err(Failure::wrong_use(format!(
                "--{name}: must be from 0 to 1, got {value}"
            ))),
        };
        share("threshold", self.threshold)?;
        share("mitigation", self.mitigation)?;
        Ok(self.reduce_intruders.then_some(Intruders {
            top_k: self.top_k,
            threshold: self.threshold,
            keep: self.mitigation,
        }))
    }

    fn report(&self, sites: &[Converted]) -> Result<(), Failure> {
        let total = |of: fn(&Converted) -> f64| sites.iter().map(|site| of(site).powi(2)).sum::<f64>().sqrt();
        let (norm, error) = (total(|site| site.norm), total(|site| site.error));
        let intruders: usize = sites.iter().map(|site| site.intruders.len()).sum();
        if self.json {
            let site = |site: &Converted| {
                json!({
                    "path": site.path,
                    "rank": site.rank,
                    "norm": site.norm,
                    "relative_error": share(site.error, site.norm),
                    "intruders": site.intruders,
                })
            };
            return output::json(&json!({
                "out": self.out,
                "relative_error": share(error, norm),
                "intruders": intruders,
                "sites": sites.iter().map(site).collect::<Vec<_>>(),
            }));
        }
        let mut rows = vec![
            ["module", "rank", "norm of the change", "relative error", "intruders"]
                .map(String::from)
                .to_vec(),
        ];
        rows.extend(sites.iter().map(|site| {
            vec![
                site.path.clone(),
                site.rank.to_string(),
                format!("{:.4}", site.norm),
                format!("{:.2e}", share(site.error, site.norm)),
                site.intruders.len().to_string(),
            ]
        }));
        let table = output::table(&rows, &[false, true, true, true, true]);
        let about = match self.reduce_intruders {
            true => format!(", {intruders} intruder dimensions reduced"),
            false => String::new(),
        };
        output::write(&format!(
            "{table}converted into {}: {} modules, relative error {:.2e} over all{about}\n",
            self.out.display(),
            sites.len(),
            share(error, norm),
        ))
    }
}

/// `part` of `whole`; 0 of nothing.
fn share(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

/// The adapter, and what lies beside it: tokenizer and generation settings.
fn write(source: &ToLora<'_>, located: &locate::Located, folder: &Path) -> Result<Vec<Converted>, Failure> {
    if folder.exists() {
        std::fs::remove_dir_all(folder).context(folder.display())?;
    }
    let sites = to_lora(source, folder)?;
    let beside = [
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "chat_template.jinja",
        "generation_config.json",
    ];
    for name in beside {
        let from = located
            .adapter
            .iter()
            .map(|adapter| adapter.join(name))
            .find(|path| path.is_file());
        if let Some(from) = from {
            std::fs::copy(&from, folder.join(name)).context(from.display())?;
        }
    }
    Ok(sites)
}
