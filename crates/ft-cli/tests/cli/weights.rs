//! `--dtype` and `--quant`: one meaning in every verb that runs a model.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;

use crate::support::{Bench, command, ft, json};

const ASKED: [&str; 6] = [
    "--prompt",
    "Who has key 3? ",
    "--temperature",
    "0",
    "--max-new-tokens",
    "12",
];

fn generated(model: &[&str]) -> Value {
    json(&[&["generate"], model, &ASKED[..], &["--json"]].concat())["tokens"].clone()
}

/// Codes that are made while a model is read are those of `ft quantize`, and every verb runs on them.
#[test]
fn a_model_quantized_while_it_is_read_is_the_quantized_checkpoint() {
    let bench = Bench::new();
    ft(&["train", &bench.config, "--plain"]).ok();
    let adapter = bench.out();
    for kind in ["nf4", "fp4", "int8"] {
        let folder = bench.path(kind).display().to_string();
        ft(&["quantize", "embedded:tiny", "--kind", kind, "--out", &folder]).ok();
        let (read, stored) = (["embedded:tiny", "--quant", kind], [folder.as_str()]);
        let (read_adapted, stored_adapted) = (
            [&read[..], &["--adapter", &adapter]].concat(),
            [&stored[..], &["--adapter", &adapter]].concat(),
        );

        assert_eq!(generated(&read), generated(&stored), "{kind}");
        assert_eq!(generated(&read_adapted), generated(&stored_adapted), "{kind}");
        let beams = |model: &[&str]| generated(&[model, &["--num-beams", "3"]].concat());
        assert_eq!(beams(&read), beams(&stored), "{kind}");

        let eval = |model: &[&str]| {
            let asked = ["--data", &bench.valid, "--metric", "perplexity,exact_match", "--json"];
            json(&[&["eval"], model, &asked[..], &["--max-new-tokens", "8"]].concat())
        };
        assert_eq!(eval(&read), eval(&stored), "{kind}");
        assert_eq!(eval(&read_adapted), eval(&stored_adapted), "{kind}");
        assert_ne!(eval(&read)["loss"], eval(&["embedded:tiny"])["loss"], "{kind}");
    }
}

/// The embedded model is stored in bf16: read as it is, in f32 or as it is stored.
#[test]
fn numbers_are_those_of_the_stored_type() {
    let bench = Bench::new();
    let loss = |dtype: &[&str]| {
        let asked = ["eval", "embedded:tiny", "--data", &bench.valid, "--json"];
        json(&[&asked[..], dtype].concat())["loss"].as_f64().unwrap()
    };
    let stored = loss(&[]);
    for same in ["auto", "bf16", "f32"] {
        let other = loss(&["--dtype", same]);
        assert!((other - stored).abs() < 1e-5, "{same}: {other}, {stored}");
    }
    // bf16 has fewer bits than f16, but more range: only tiny values change.
    let half = loss(&["--dtype", "f16"]);
    assert!((half - stored).abs() < 1e-3, "{half}, {stored}");
    let plain = generated(&["embedded:tiny"]);
    assert_eq!(generated(&["embedded:tiny", "--dtype", "f32"]), plain);
}

#[cfg(feature = "embedded")]
#[test]
fn a_conversation_takes_both_flags() {
    let bench = Bench::new();
    let folder = bench.path("model");
    ft_embedded::unpack(&folder).unwrap();
    let template = "{% for message in messages %}{{ message['content'] }} {% endfor %}";
    std::fs::write(folder.join("chat_template.jinja"), template).unwrap();
    let folder = folder.display().to_string();
    let talk = |flags: &[&str]| {
        let args = ["chat", &folder, "--temperature", "0", "--max-new-tokens", "8"];
        let mut chat = command(&[&args[..], flags].concat());
        let mut chat = chat.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        chat.stdin.take().unwrap().write_all(b"Who has key 3?\n").unwrap();
        let done = chat.wait_with_output().unwrap();
        assert!(done.status.success(), "{flags:?}");
        done.stdout
    };
    assert_eq!(talk(&["--dtype", "f32"]), talk(&[]));
    assert!(!talk(&["--quant", "int8"]).is_empty());
}

#[test]
fn what_cannot_be_names_the_flag() {
    let bench = Bench::new();
    let packed = bench.path("packed").display().to_string();
    ft(&["quantize", "embedded:tiny", "--kind", "int8", "--out", &packed]).ok();
    let prompt = ["--prompt", "x"];
    let data = ["--data", &bench.valid];
    for (verb, asked) in [("generate", &prompt[..]), ("eval", &data[..]), ("chat", &[][..])] {
        let run = |flags: &[&str]| ft(&[&[verb, packed.as_str()][..], asked, flags].concat());
        let twice = run(&["--quant", "nf4"]);
        let told = twice.stderr.contains("--quant nf4") && twice.stderr.contains("quantized already, as int8");
        assert!(twice.code == 1 && told, "{verb}: {}", twice.stderr);
        for flag in ["--dtype", "--quant"] {
            let unknown = run(&[flag, "f64"]);
            let told = unknown.code == 2 && unknown.stderr.contains(flag) && unknown.stderr.contains("f64");
            assert!(told, "{verb}: {}", unknown.stderr);
        }
    }
    let predictions = ft(&["eval", "--predictions", "x.jsonl", "--quant", "nf4"]);
    assert_eq!(predictions.code, 2, "{}", predictions.stderr);
}

/// gpt-oss as it is published: said, and merged into what has no codes any more.
#[test]
fn experts_in_mxfp4_are_said_and_merged_into_bf16() {
    let bench = Bench::new();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
    let folder = bench.path("gpt-oss");
    fs::create_dir_all(&folder).unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(fixtures.join("families/gpt_oss_mxfp4").join(file), folder.join(file)).unwrap();
    }
    let stop = serde_json::json!({ "id": 2, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true });
    let tokenizer = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [stop], "normalizer": null,
        "pre_tokenizer": { "type": "WhitespaceSplit" }, "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "vocab": { "</s>": 2, "a": 3, "b": 4, "<unk>": 5 }, "unk_token": "<unk>" }
    });
    fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let model = folder.display().to_string();

    let inspected = json(&["inspect", &model, "--json"]);
    assert_eq!(
        (&inspected["model_type"], &inspected["mxfp4"]),
        (&"gpt_oss".into(), &true.into())
    );
    assert_eq!(inspected["experts"]["count"], 3);
    let page = ft(&["inspect", &model]).ok();
    assert!(page.contains("in MXFP4") && page.contains("3 experts"), "{page}");

    let adapter = fixtures.join("experts/gpt_oss").display().to_string();
    // Rounded, the routers of so small a model choose other experts here and there.
    for (dtype, name, more) in [("f32", "float32", None), ("bf16", "bfloat16", Some("--no-verify"))] {
        let out = bench.path(dtype).display().to_string();
        let asked = [
            "merge",
            &model,
            "--adapter",
            &adapter,
            "--out",
            &out,
            "--dtype",
            dtype,
            "--json",
        ];
        let merged = json(&asked.into_iter().chain(more).collect::<Vec<_>>());
        assert_eq!(
            (&merged["unpacked"], &merged["dtype"], &merged["verified"]),
            (&"mxfp4".into(), &dtype.into(), &more.is_none().into())
        );
        let config = fs::read(Path::new(&out).join("config.json")).unwrap();
        let config: Value = serde_json::from_slice(&config).unwrap();
        assert_eq!(
            (config.get("quantization_config"), &config["dtype"]),
            (None, &name.into())
        );
        let inspected = json(&["inspect", &out, "--json"]);
        assert_eq!(inspected["mxfp4"], false);
        let dtypes = inspected["dtypes"].as_object().unwrap();
        assert_eq!(dtypes.keys().collect::<Vec<_>>(), [dtype]);
    }
}
