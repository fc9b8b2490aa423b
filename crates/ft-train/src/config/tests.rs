use std::fs;
use std::path::{Path, PathBuf};

use super::*;

const MINIMAL: &str = "[model]\npath = \"base\"\n\n[data]\ntrain = \"train.jsonl\"\n";

fn parse(text: &str, sets: &[&str]) -> Result<RunConfig> {
    let sets: Vec<String> = sets.iter().map(|s| s.to_string()).collect();
    RunConfig::parse(Path::new("dir/run.toml"), text.to_owned(), &sets)
}

fn refused(text: &str, sets: &[&str]) -> String {
    parse(text, sets).expect_err("must be refused").to_string()
}

#[test]
fn defaults_fill_a_minimal_file() {
    let config = parse(MINIMAL, &[]).unwrap();
    assert_eq!(config.train.out, PathBuf::from("runs/run"));
    assert_eq!(
        (
            config.train.batch_size.count(),
            config.train.accumulation,
            config.train.keep
        ),
        (8, 1, 2)
    );
    assert_eq!(config.peft, PeftSection::default());
    assert_eq!(config.optim, OptimConfig::default());
    assert!(config.eval.at_start && config.train.check_gradients);
}

#[test]
fn what_is_written_back_reads_the_same() {
    let sets = [
        "peft.rank=4",
        "schedule.kind=cosine",
        "schedule.warmup=0.1",
        "train.early_stopping.patience=2",
        "data.map.prompt=Facts: {mr}",
        "data.map.completion={ref}",
        "generate.temperature=0.7",
        "eval.metrics=[\"bleu\"]",
    ];
    let config = parse(MINIMAL, &sets).unwrap();
    let text = config.to_toml(Some(&Provenance::new("cpu")));
    assert!(text.starts_with("# ft "), "{text}");
    assert_eq!(parse(&text, &[]).unwrap(), config);
}

#[test]
fn an_unknown_key_names_file_line_column_and_the_nearest() {
    let text = format!("{MINIMAL}\n[peft]\nrnk = 4\n\n[train]\nbatchsize = 2\nzzz = 1\n");
    let message = refused(&text, &["optim.wobble=1"]);
    let lines: Vec<&str> = message.lines().collect();
    assert_eq!(lines.len(), 4, "all of them at once: {message}");
    assert!(
        message.contains("dir/run.toml:8:1: unknown key `peft.rnk`; did you mean `peft.rank`?"),
        "{message}"
    );
    assert!(message.contains("dir/run.toml:11:1: unknown key `train.batchsize`; did you mean `train.batch_size`?"));
    assert!(
        message.contains("dir/run.toml:12:1: unknown key `train.zzz`; known here: out, batch_size, "),
        "{message}"
    );
    assert!(
        message.contains("--set optim.wobble=1: unknown key `optim.wobble`; known here: kind, lr, "),
        "{message}"
    );
}

#[test]
fn a_key_in_the_wrong_section_is_sent_to_the_right_one() {
    let message = refused(MINIMAL, &["data.batch_size=2"]);
    assert!(
        message.contains("did you mean `train.batch_size` or `eval.batch_size`"),
        "{message}"
    );
    let message = refused(MINIMAL, &["train.learning_rate=1"]);
    assert!(
        message.contains("did you mean `optim.lr`?"),
        "a name from elsewhere: {message}"
    );
    let message = refused(MINIMAL, &["modle.path=x"]);
    assert!(
        message.contains("unknown key `modle`; did you mean `model`?"),
        "{message}"
    );
}

#[test]
fn a_wrong_type_names_key_and_place() {
    let text = format!("{MINIMAL}\n[peft]\nrank = \"eight\"\n[train]\nsteps = 1.5\nload_best = 1\n");
    let message = refused(&text, &[]);
    assert!(
        message.contains("dir/run.toml:8:8: `peft.rank` must be an integer, not a string"),
        "{message}"
    );
    assert!(
        message.contains("dir/run.toml:10:9: `train.steps` must be an integer, not a fraction"),
        "{message}"
    );
    assert!(
        message.contains("`train.load_best` must be true or false, not an integer"),
        "{message}"
    );
}

#[test]
fn words_that_are_not_choices_are_listed_with_the_choices() {
    let message = refused(MINIMAL, &["peft.method=lorra"]);
    assert!(message.contains("`peft.method` must be one of \"lora\", "), "{message}");
    assert!(message.contains("did you mean \"lora\"?"), "{message}");
    let message = refused(MINIMAL, &["schedule.kind=cosinus"]);
    assert!(message.contains("did you mean \"cosine\"?"), "{message}");
}

#[test]
fn a_schedule_goes_by_any_of_its_names() {
    let parsed = parse(
        MINIMAL,
        &["schedule.kind=cosine_with_min_lr", "schedule.min_lr_rate=0.1"],
    )
    .unwrap();
    assert_eq!(parsed.schedule.kind(), "cosine");
    assert!(parse(MINIMAL, &["schedule.kind=constant_with_warmup", "schedule.warmup=2"]).is_ok());
    let message = refused(
        MINIMAL,
        &["schedule.kind=constant_with_warmup", "schedule.min_lr_rate=0.1"],
    );
    assert!(message.contains("belongs to another choice"), "{message}");
}

#[test]
fn an_option_of_another_method_is_unknown() {
    let message = refused(MINIMAL, &["peft.method=full", "peft.rank=4"]);
    assert!(
        message.contains("`peft.rank` belongs to another choice of this section; known here: "),
        "{message}"
    );
    assert!(parse(MINIMAL, &["peft.method=full", "peft.targets=all-linear"]).is_ok());
}

#[test]
fn each_method_has_a_rate_of_its_own_unless_one_is_typed() {
    let lr = |text: &str, sets: &[&str]| parse(text, sets).unwrap().optim.lr();
    assert_eq!(lr(MINIMAL, &[]), 2e-4);
    assert_eq!(lr(MINIMAL, &["peft.method=ia3"]), 3e-3);
    assert_eq!(lr(MINIMAL, &["peft.method=ia3", "optim.clip=0.5"]), 3e-3);
    assert_eq!(lr(MINIMAL, &["peft.method=ia3", "optim.lr=0.1"]), 0.1);
}

#[test]
fn another_method_displaces_the_options_and_the_rate_of_the_one_before() {
    let text = format!("{MINIMAL}[peft]\nrank = 64\ndropout = 0.1\n[optim]\nlr = 5e-4\nclip = 0.5\n");
    let kept = parse(&text, &["peft.method=lora", "peft.rank=4"]).unwrap();
    assert_eq!(kept.optim.lr(), 5e-4);
    assert!(matches!(&kept.peft, PeftSection::Method(PeftConfig::Lora(lora)) if lora.rank == 4 && lora.dropout == 0.1));
    let switched = parse(&text, &["peft.method=ia3"]).unwrap();
    assert_eq!((switched.optim.lr(), switched.optim.clip()), (3e-3, Some(0.5)));
    assert_eq!(switched.peft, PeftSection::Method(PeftConfig::named("ia3").unwrap()));
}

#[test]
fn negative_and_out_of_range_numbers_are_typed_errors() {
    for set in [
        "train.steps=-1",
        "train.seed=-1",
        "train.batch_size=99999999999999999999",
        "schedule.warmup=1.5",
    ] {
        let message = refused(MINIMAL, &[set]);
        let key = set.split('=').next().unwrap();
        assert!(message.contains(key.split('.').next().unwrap()), "{set}: {message}");
    }
}

#[test]
fn set_takes_toml_literals_and_plain_words() {
    let sets = [
        "peft.targets=[\"q_proj\", \"v_proj\"]",
        "model.dtype=bf16",
        "train.steps=7",
        "data.train=a b.jsonl",
    ];
    let config = parse(MINIMAL, &sets).unwrap();
    assert_eq!(config.model.dtype, Dtype::Bf16);
    assert_eq!(config.train.steps, Some(7));
    assert_eq!(config.data.train, "a b.jsonl".into());
    assert!(
        toml::to_string(&config)
            .unwrap()
            .contains("targets = [\"q_proj\", \"v_proj\"]")
    );
    assert!(refused(MINIMAL, &["train.steps"]).contains("--set train.steps: expected KEY=VALUE"));
    assert!(refused(MINIMAL, &["train..steps=1"]).contains("dotted words"));
}

#[test]
fn a_value_cannot_smuggle_in_other_keys() {
    let config = parse(MINIMAL, &["data.train=x.jsonl\n[train]\nsteps = 3"]).unwrap();
    assert_eq!(config.train.steps, None);
}

#[test]
fn missing_sections_and_keys_are_named() {
    assert!(refused("[data]\ntrain = \"x\"\n", &[]).contains("section [model] is missing"));
    let message = refused("[model]\n[data]\ntrain = \"x\"\n", &[]);
    assert!(message.contains("`model.path` is missing"), "{message}");
    assert!(refused("", &[]).contains("is missing"));
}

#[test]
fn broken_toml_says_where() {
    let message = refused("[model]\npath = \"a\"\npath = \"b\"\n", &[]);
    assert!(message.starts_with("dir/run.toml:3:1: "), "{message}");
    let message = refused("[model\n", &[]);
    assert!(message.starts_with("dir/run.toml:1:"), "{message}");
}

#[test]
fn from_excludes_a_method() {
    let config = parse(MINIMAL, &["peft.from=adapter"]).unwrap();
    assert_eq!(config.peft.from(), Some(Path::new("adapter")));
    let message = refused(MINIMAL, &["peft.from=adapter", "peft.rank=4"]);
    assert!(message.contains("exclude each other"), "{message}");
}

#[test]
fn a_key_typed_over_a_file_displaces_what_it_excludes() {
    let text = format!("{MINIMAL}valid_split = 0.1\n[train]\nepochs = 2\n[peft]\nrank = 4\n");
    let config = parse(&text, &["train.steps=3", "data.valid=v.jsonl", "peft.from=adapter"]).unwrap();
    assert_eq!((config.train.steps, config.train.epochs), (Some(3), None));
    assert_eq!(
        (config.data.valid, config.data.valid_split),
        (Some("v.jsonl".into()), 0.0)
    );
    assert_eq!(config.peft.from(), Some(Path::new("adapter")));
    // Two keys of one place contradict each other as before.
    let config = parse(&text, &["train.steps=3", "train.epochs=1"]).unwrap();
    assert_eq!((config.train.steps, config.train.epochs), (Some(3), Some(1.0)));
}

#[test]
fn extends_goes_one_level_and_replaces_maps_whole() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    write(
        "base.toml",
        &format!("{MINIMAL}map = {{ prompt = \"{{a}}\", completion = \"{{b}}\" }}\n[train]\nsteps = 5\nkeep = 9\n"),
    );
    write(
        "run.toml",
        "extends = \"base.toml\"\n[data]\nmap = { text = \"{t}\" }\n[train]\nsteps = 6\n",
    );
    let config = RunConfig::load(&dir.path().join("run.toml"), &["train.keep=3".into()]).unwrap();
    assert_eq!((config.train.steps, config.train.keep), (Some(6), 3));
    assert_eq!(config.data.map.keys().collect::<Vec<_>>(), ["text"]);
    assert_eq!(config.train.out, PathBuf::from("runs/run"));

    write("twice.toml", "extends = \"run.toml\"\n");
    let message = RunConfig::load(&dir.path().join("twice.toml"), &[])
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("run.toml:1:1: ") && message.contains("one level"),
        "{message}"
    );

    write("bad_base.toml", "[train]\nstps = 1\n");
    write("child.toml", &format!("extends = \"bad_base.toml\"\n{MINIMAL}"));
    let message = RunConfig::load(&dir.path().join("child.toml"), &[])
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("bad_base.toml:2:1: unknown key `train.stps`"),
        "{message}"
    );

    write("lost.toml", "extends = \"nowhere.toml\"\n");
    let message = RunConfig::load(&dir.path().join("lost.toml"), &[])
        .unwrap_err()
        .to_string();
    assert!(message.contains("nowhere.toml"), "{message}");
}

#[test]
fn paths_start_from_the_file_they_are_typed_in() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().canonicalize().unwrap();
    fs::create_dir_all(folder.join("configs")).unwrap();
    fs::create_dir_all(folder.join("models/base")).unwrap();
    fs::write(folder.join("models/train.jsonl"), "").unwrap();
    fs::write(folder.join("models/shared.toml"), "[data]\ntrain = \"train.jsonl\"\n").unwrap();
    let text = "extends = \"../models/shared.toml\"\n[model]\npath = \"../models/base\"\n";
    fs::write(folder.join("configs/run.toml"), text).unwrap();
    let config = RunConfig::load(&folder.join("configs/run.toml"), &[]).unwrap();
    assert_eq!(config.model.path, folder.join("models/base"));
    assert_eq!(
        config.data.train,
        folder.join("models/train.jsonl").into(),
        "from the folder of the extended file"
    );
    let lost = RunConfig::load(&folder.join("configs/run.toml"), &["model.path=no/such".into()]).unwrap();
    assert_eq!(
        lost.model.path,
        PathBuf::from("no/such"),
        "left as typed, for the error that names it"
    );
}

#[test]
fn text_that_is_not_utf8_names_the_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run.toml");
    fs::write(&path, b"[model]\npath = \"\xff\"\n").unwrap();
    let message = RunConfig::load(&path, &[]).unwrap_err().to_string();
    assert!(message.contains("run.toml:2: not valid UTF-8"), "{message}");
}

#[test]
fn hostile_texts_never_panic() {
    let nested = "[".repeat(200);
    let texts = [
        "\u{0}",
        "= 1",
        "[[model]]\n",
        "model = 3",
        "[model]\npath = 1979-05-27",
        "extends = 3",
        nested.as_str(),
    ];
    for text in texts {
        assert!(parse(text, &[]).is_err(), "{text:?}");
    }
    for set in ["=", "=1", ".=1", "a", "train=3", "train.out.deeper=1", "data.map=3"] {
        assert!(parse(MINIMAL, &[set]).is_err(), "{set:?}");
    }
}

#[test]
fn the_schema_describes_every_key() {
    let keys = RunConfig::keys();
    for key in [
        "model.path",
        "peft.rank",
        "peft.from",
        "data.map",
        "optim.lr",
        "schedule.warmup",
        "train.early_stopping.patience",
    ] {
        assert!(keys.contains(&key.to_owned()), "{key} is not among {keys:?}");
    }
    let schema = RunConfig::schema();
    for (name, property) in schema["$defs"]["TrainSection"]["properties"].as_object().unwrap() {
        assert!(
            property["description"].as_str().is_some_and(|d| d.len() > 10),
            "train.{name} has no description"
        );
    }
}

#[test]
fn checkpointing_is_off_or_a_number_of_blocks() {
    let read = |set: &str| super::RunConfig::parse("run.toml".as_ref(), MINIMAL.into(), &[set.into()]);
    let of = |set: &str| read(set).unwrap().train.checkpointing;
    assert_eq!(of("train.checkpointing=2"), Checkpointing::Every(2));
    assert_eq!(of("train.checkpointing='off'"), Checkpointing::Off);
    let written = read("train.checkpointing=2").unwrap().to_toml(None);
    assert!(written.contains("checkpointing = 2"), "{written}");
    for wrong in ["0", "-1", "'on'", "true"] {
        let message = read(&format!("train.checkpointing={wrong}")).unwrap_err().to_string();
        assert!(
            message.contains("train.checkpointing")
                && (message.contains("off") || message.contains("a string or an integer")),
            "{message}"
        );
    }
}
