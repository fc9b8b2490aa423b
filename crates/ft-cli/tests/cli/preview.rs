//! `ft data preview`: the HTML page, and `docs/guide/preview.md`, which shows what it says of the shipped configurations. The page is out of
//! date when its test fails; `cargo xtask guide` (this test with `FT_BLESS=1`) writes it.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{Bench, ft};

#[test]
fn a_page_holds_the_samples_and_takes_the_place_of_no_other_file() {
    let bench = Bench::new();
    let page = bench.path("page.html");
    let args = |more: &[&str]| {
        let page = page.display().to_string();
        ft(&[&["data", "preview", &bench.config, "--html", &page], more].concat())
    };
    assert_eq!(args(&[]).ok().trim(), page.display().to_string());
    let text = fs::read_to_string(&page).unwrap();
    assert!(
        text.contains("<h2>Lengths</h2>") && text.contains("<h2>Packed rows</h2>"),
        "{text}"
    );
    assert_eq!(
        text.matches(" learned</figcaption>").count(),
        50,
        "the first fifty samples"
    );
    args(&["--samples", "2", "--valid"]).ok();
    let text = fs::read_to_string(&page).unwrap();
    assert_eq!(text.matches(" learned</figcaption>").count(), 2);

    fs::write(&page, "<html>mine</html>").unwrap();
    let done = args(&[]);
    assert_ne!(done.code, 0);
    assert!(done.stderr.contains("page.html"), "{}", done.stderr);
    assert_eq!(fs::read_to_string(&page).unwrap(), "<html>mine</html>");
}

/// A shipped configuration, what to set so that it reads a few records of ours, and the records.
struct Shown {
    config: &'static str,
    sets: &'static [&'static str],
    file: &'static str,
    records: &'static str,
}

const E2E: &str = "mr,ref\n\"name[The Mill], food[Italian], area[riverside]\",The Mill serves Italian food by the river.\n\
                   \"name[Blue Door], priceRange[cheap]\",Blue Door is cheap.\n";
const PROBLEMS: &str = "{\"question\": \"Ann has 3 apples and eats one. How many are left?\", \"answer\": \"3 - 1 = 2\\n#### 2\"}\n\
                        {\"question\": \"A book has 8 pages. Tom reads half. How many pages?\", \"answer\": \"8 / 2 = 4\\n#### 4\"}\n";

const SHOWN: &[Shown] = &[
    Shown {
        config: "e2e-lora.toml",
        sets: &[],
        file: "train.csv",
        records: E2E,
    },
    Shown {
        config: "gsm8k-lora.toml",
        sets: &[],
        file: "train.jsonl",
        records: PROBLEMS,
    },
    Shown {
        config: "gsm8k-lora.toml",
        sets: &["data.chat_template=chatml"],
        file: "train.jsonl",
        records: PROBLEMS,
    },
    Shown {
        config: "text-rslora.toml",
        sets: &["data.max_length=16"],
        file: "corpus.txt",
        records: "The mill stands by the river, and the river never stands.\nA short line.\n",
    },
    Shown {
        config: "hh-dpo.toml",
        sets: &[],
        file: "train.jsonl",
        records: "{\"prompt\": \"Say hello.\", \"chosen\": \" Hello!\", \"rejected\": \" No.\"}\n",
    },
    Shown {
        config: "ratings-kto.toml",
        sets: &[],
        file: "kto.jsonl",
        records: "{\"prompt\": \"Say hello.\", \"completion\": \" Hello!\", \"label\": true}\n\
                  {\"prompt\": \"Say goodbye.\", \"completion\": \" No.\", \"label\": false}\n",
    },
];

#[test]
fn the_guide_shows_what_it_makes_of_the_shipped_configurations() {
    let mut text = String::from(
        "# What training sees\n\n`ft data preview CONFIG` shows samples as training has them: tokens divided by `|`, the learned ones between `[[` and \
         `]]`, line breaks as `\\n`; then counts of the whole file. `--json` has the same for programs, and `--html FILE` writes a page that needs nothing \
         else, with colours instead of brackets, what was cut or left out and where, and packed rows with the borders of their documents.\n\n\
         Here are configurations of `configs/` with a few records of ours and the small tokenizer of the tests \
         (`tests/fixtures/tokenizers/chatml`). Made by `cargo xtask guide`.\n",
    );
    for shown in SHOWN {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(shown.file);
        fs::write(&file, shown.records).unwrap();
        let config = root().join("configs").join(shown.config).display().to_string();
        let mut args = vec!["data".to_owned(), "preview".into(), config];
        let tokenizer = root().join("tests/fixtures/tokenizers/chatml");
        let fixed = [
            format!("model.path={}", tokenizer.display()),
            format!("data.train={}", file.display()),
        ];
        let sets = fixed.into_iter().chain(shown.sets.iter().map(|set| set.to_string()));
        args.extend(sets.flat_map(|set| ["--set".to_owned(), set]));
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let page = ft(&args).ok();
        let page = page.replace(&file.display().to_string(), shown.file);
        let told: String = shown.sets.iter().map(|set| format!(" --set {set}")).collect();
        let _ = write!(
            text,
            "\n## `ft data preview configs/{0}{told}`\n\n`{1}`:\n\n```\n{2}```\n\n```\n{3}```\n",
            shown.config,
            shown.file,
            shown.records,
            page.trim_end_matches('\n').to_owned() + "\n"
        );
    }
    let path = root().join("docs/guide/preview.md");
    if std::env::var_os("FT_BLESS").is_some() {
        fs::write(&path, &text).unwrap();
    }
    let there = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        there == text,
        "docs/guide/preview.md is out of date: run `cargo xtask guide`"
    );
    assert!(text.matches("[[").count() > 6);
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}
