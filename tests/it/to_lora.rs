//! Adapters of other methods as LoRA: beside what PEFT makes of them, read back by it and by us, and what is refused.

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor};
use ft_model::{Converted, LoadDtype, Model, Rows, ToLora, to_lora};
use ft_peft::convert::{Intruders, Keep};
use ft_peft::{Pass, PeftConfig, adapter, attach};

use crate::methods_laws::{config, disturb};
use crate::support::{Array, arrays, close, fixture};

fn source<'a>(base: &'a std::path::Path, adapter: &'a std::path::Path, keep: Option<Keep>) -> ToLora<'a> {
    ToLora {
        dir: base,
        quant: None,
        adapter,
        keep,
        intruders: None,
    }
}

/// Converts a case of the fixtures: what was said of it, and `s B A` by path.
fn converted(
    case: &str,
    keep: Option<Keep>,
    intruders: Option<Intruders>,
) -> (Vec<Converted>, BTreeMap<String, Tensor<2>>) {
    let (base, adapter) = (fixture("peft/base"), fixture("peft").join(case));
    let out = tempfile::tempdir().unwrap();
    let source = ToLora {
        intruders,
        ..source(&base, &adapter, keep)
    };
    let sites = to_lora(&source, out.path()).unwrap();
    let lora = ft_peft::plain::PlainLora::read(out.path(), &Device::flex()).unwrap();
    let product = |pair: &ft_peft::plain::Pair| pair.b.clone().matmul(pair.a.clone()).mul_scalar(pair.scale);
    let products = lora.pairs.iter().map(|(path, pair)| (path.clone(), product(pair)));
    (sites, products.collect())
}

fn compare(group: &str, found: BTreeMap<String, Tensor<2>>, golden: &BTreeMap<String, Array>, tolerance: f64) {
    let prefix = format!("{group}.");
    let expected: Vec<&str> = golden.keys().filter_map(|name| name.strip_prefix(&prefix)).collect();
    assert!(found.keys().eq(expected.iter()), "{group}: {:?}", found.keys());
    for (path, product) in found {
        close(&path, product, &golden[&format!("{group}.{path}")], tolerance);
    }
}

#[test]
fn a_conversion_is_the_one_of_peft() {
    let golden = arrays(&fixture("peft/convert.safetensors"));
    for case in ["loha", "gralora", "miss_bat"] {
        let (sites, two) = converted(case, Some(Keep::Rank(2)), None);
        assert!(sites.iter().all(|site| site.rank == 2), "{case}");
        compare(&format!("rank.{case}"), two, &golden, 2e-5);
        let (mut sites, most) = converted(case, Some(Keep::Energy(0.9)), None);
        compare(&format!("energy.{case}"), most, &golden, 2e-5);
        sites.sort_by(|one, two| one.path.cmp(&two.path));
        let ranks: Vec<f64> = sites.iter().map(|site| site.rank as f64).collect();
        assert_eq!(ranks, golden[&format!("ranks.{case}")].values, "{case}");
        for site in sites {
            let share = 1.0 - (site.error / site.norm).powi(2);
            assert!((0.9..1.0).contains(&share), "{case} {}: {share}", site.path);
        }
    }
}

#[test]
fn intruders_are_the_ones_of_peft_and_reduced_as_there() {
    let golden = arrays(&fixture("peft/convert.safetensors"));
    let intruders = Intruders {
        top_k: 6,
        threshold: 0.6,
        keep: 0.25,
    };
    let (mut sites, products) = converted("lora_all_rslora", None, Some(intruders));
    compare("intruders.lora_all_rslora", products, &golden, 2e-5);
    sites.sort_by(|one, two| one.path.cmp(&two.path));
    let found: Vec<f64> = sites.iter().map(|site| site.intruders.len() as f64).collect();
    assert_eq!(found, golden["found.lora_all_rslora"].values);
}

fn logits(model: &Model) -> Tensor<3> {
    let ids = arrays(&fixture("peft/base_forward.safetensors"))["input_ids"].ids(&model.device());
    model.logits(model.forward(ids, &Rows::Right, None, &Pass::eval()))
}

fn largest(a: Tensor<3>, b: Tensor<3>) -> f32 {
    (a - b).abs().max().into_scalar::<f32>()
}

/// At full rank nothing is lost, whatever the method and wherever the base stores its matrices.
#[test]
fn at_full_rank_the_model_says_the_same() {
    for name in ["families/llama", "families/gpt2"] {
        let base = fixture(name);
        for options in [
            r#"{"method": "lora", "rank": 2}"#,
            r#"{"method": "lora", "rank": 2, "dora": true}"#,
            r#"{"method": "adalora", "init_r": 3, "target_r": 2}"#,
            r#"{"method": "loha", "rank": 2}"#,
            r#"{"method": "lokr", "rank": 2}"#,
            r#"{"method": "vera", "rank": 8}"#,
            r#"{"method": "oft", "block_size": 8}"#,
            r#"{"method": "shira", "rank": 2}"#,
            r#"{"method": "miss", "rank": 5}"#,
            r#"{"method": "miss", "rank": 4, "init_weights": "bat"}"#,
            r#"{"method": "gralora", "rank": 4, "hybrid_r": 2}"#,
            r#"{"method": "osf"}"#,
            r#"{"method": "lora", "rank": 2, "targets": ["down_proj", "mlp.c_proj"], "modules_to_save": ["norm", "ln_f"]}"#,
        ] {
            // Names of the other family's modules are no error of this one's.
            let options = match name {
                "families/llama" => options.replace(r#", "ln_f"]"#, "]"),
                _ => options.replace(r#""norm", "#, ""),
            };
            let mut model = Model::load(&base, LoadDtype::F32, &Device::flex()).unwrap();
            let start = logits(&model);
            let config: PeftConfig = config(&options);
            attach(&mut model, &config, 3).unwrap();
            disturb(&mut model);
            let (given, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            adapter::save(given.path(), &mut model, &config, "some/base").unwrap();
            let tuned = logits(&model);
            assert!(largest(tuned.clone(), start) > 1e-3, "{options}");
            let sites = to_lora(&source(&base, given.path(), Some(Keep::Rank(999))), out.path()).unwrap();
            assert!(
                sites.iter().all(|site| site.error <= 1e-4 * site.norm),
                "{options}: {sites:?}"
            );
            let mut again = Model::load(&base, LoadDtype::F32, &Device::flex()).unwrap();
            let (read, _) = adapter::load(out.path(), &mut again).unwrap();
            assert_eq!(read.name(), "lora", "{options}");
            let moved = largest(logits(&again), tuned);
            assert!(moved < 2e-4, "{options} on {name}: {moved:e}");
        }
    }
}

/// What adds the same whatever the matrix is needs `config.json` alone.
#[test]
fn weights_are_read_only_where_changes_depend_on_them() {
    let (bare, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::copy(fixture("peft/base/config.json"), bare.path().join("config.json")).unwrap();
    let adapter = fixture("peft/loha");
    to_lora(&source(bare.path(), &adapter, Some(Keep::Rank(2))), out.path()).unwrap();
    for needs in ["oft", "dora", "miss_bat", "osf"] {
        let adapter = fixture("peft").join(needs);
        let failed = to_lora(&source(bare.path(), &adapter, Some(Keep::Rank(2))), out.path()).unwrap_err();
        assert!(failed.to_string().contains("no model.safetensors"), "{needs}: {failed}");
    }
}

#[test]
fn what_matrices_cannot_say_is_refused() {
    let base = fixture("peft/base");
    for (case, why) in [
        ("prefix", "cannot be merged"),
        ("ln_tuning", "changes no matrix"),
        ("trainable_tokens", "changes no matrix"),
        ("lora_tokens", "rows of the embeddings"),
        ("lora_embed", "is an embedding table"),
        ("loha", "no rank of its own"),
    ] {
        let (adapter, out) = (fixture("peft").join(case), tempfile::tempdir().unwrap());
        let keep = (case != "loha").then_some(Keep::Rank(2));
        let failed = to_lora(&source(&base, &adapter, keep), out.path()).unwrap_err();
        assert!(failed.to_string().contains(why), "{case}: {failed}");
    }
    // IA3 scales biases, too, where the base has some.
    let base = fixture("families/qwen2");
    let mut model = Model::load(&base, LoadDtype::F32, &Device::flex()).unwrap();
    let ia3 = config(r#"{"method": "ia3"}"#);
    attach(&mut model, &ia3, 3).unwrap();
    disturb(&mut model);
    let (given, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    adapter::save(given.path(), &mut model, &ia3, "some/base").unwrap();
    let failed = to_lora(&source(&base, given.path(), Some(Keep::Rank(2))), out.path()).unwrap_err();
    assert!(failed.to_string().contains("changes the bias"), "{failed}");
}
