#[cfg(feature = "parquet")]
mod columns;
mod interrupted;
mod taught;

use std::path::{Path, PathBuf};

use super::*;
use crate::config::Overlong;
use crate::error::At;

fn tokenizer() -> Tokenizer {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
    Tokenizer::from_dir(&fixtures.join("tokenizers/chatml")).unwrap()
}

fn load(name: &str, text: &str, edit: impl FnOnce(&mut DataConfig)) -> Result<Dataset> {
    let mut config = DataConfig::new(name);
    edit(&mut config);
    load_source(
        Source::Memory {
            name,
            bytes: text.as_bytes(),
        },
        &config,
        &tokenizer(),
    )
}

fn error(name: &str, text: &str, edit: impl FnOnce(&mut DataConfig)) -> String {
    load(name, text, edit).unwrap_err().to_string()
}

fn line(number: usize) -> Place {
    Place {
        file: 0,
        at: At::Line(number),
    }
}

/// `n` records of growing length.
fn records(n: usize) -> String {
    (0..n)
        .map(|i| {
            format!(
                "{{\"prompt\": \"{i}:\", \"completion\": \"{}\"}}\n",
                "The cook. ".repeat(1 + i % 40)
            )
        })
        .collect()
}

#[test]
fn samples_come_in_file_order_whatever_the_number_of_threads() {
    let text = records(10_000);
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| load("x.jsonl", &text, |_| {}).unwrap())
    };
    let one = run(1);
    assert_eq!(one, run(7));
    assert_eq!(one.samples.len(), 10_000);
    assert_eq!(one.places[9_999], line(10_000));
    let t = tokenizer();
    assert!(
        one.samples
            .iter()
            .enumerate()
            .all(|(i, s)| t.decode(s.prompt(), false) == format!("{i}:"))
    );
}

#[test]
fn a_map_fills_the_format_from_other_columns() {
    let csv = "mr,ref\n\"name[The Cook], food[soup]\",The Cook serves soup.\n";
    let data = load("x.csv", csv, |c| {
        c.map.insert("prompt".into(), "Facts: {mr}\nSentence:\n".into());
        c.map.insert("completion".into(), "{ref}".into());
    })
    .unwrap();
    let t = tokenizer();
    assert_eq!(data.format.as_str(), "prompt-completion");
    assert_eq!(
        t.decode(data.samples[0].prompt(), false),
        "Facts: name[The Cook], food[soup]\nSentence:\n"
    );
    assert_eq!(
        t.decode(data.samples[0].answer(), false),
        "The Cook serves soup.<|im_end|>"
    );
    let error = error("x.csv", csv, |c| {
        c.map.insert("prompt".into(), "{mr}".into());
        c.map.insert("completion".into(), "{refs}".into());
    });
    assert_eq!(
        error,
        "x.csv:2: no column `refs` (did you mean `ref`?); the columns are: mr, ref"
    );
}

#[test]
fn overlong_policies_count_what_they_do() {
    let text = "{\"prompt\": \"The cook\", \"completion\": \" adds salt.\"}\n\
                {\"prompt\": \"The cook\", \"completion\": \" tastes the soup and adds a little salt.\"}\n\
                {\"prompt\": \"The cook tastes the soup and adds a little salt.\", \"completion\": \"Yes.\"}\n";
    let with = |policy| load("x.jsonl", text, |c| (c.max_length, c.overlong) = (10, policy));
    let cut = with(Overlong::Truncate).unwrap();
    let counts = cut.statistics.counts;
    assert_eq!(
        (counts.records, counts.truncated, counts.emptied, counts.dropped),
        (3, 1, 1, 0)
    );
    assert_eq!(cut.samples.iter().map(Sample::len).collect::<Vec<_>>(), [9, 10]);
    let full = load("x.jsonl", text, |_| {}).unwrap();
    assert_eq!(
        counts.truncated_tokens,
        full.samples[1].len() + full.samples[2].len() - 20
    );
    assert_eq!(cut.places, [line(1), line(2)]);
    assert_eq!(
        (cut.statistics.without_stop, cut.statistics.stops["<|im_end|>"]),
        (1, 1)
    );
    let warnings = cut.statistics.warnings().join("\n");
    assert!(
        warnings.contains("1 samples were cut") && warnings.contains("1 samples had nothing to learn"),
        "{warnings}"
    );

    let dropped = with(Overlong::Drop).unwrap();
    assert_eq!((dropped.samples.len(), dropped.statistics.counts.dropped), (1, 2));
    let error = with(Overlong::Error).unwrap_err().to_string();
    assert!(
        error.starts_with("x.jsonl: 2 bad records:\n  x.jsonl:2: ") && error.contains("data.max_length is 10"),
        "{error}"
    );
    assert!(
        self::error("x.jsonl", text, |c| (c.max_length, c.overlong) = (8, Overlong::Split))
            .starts_with("data.overlong")
    );
    let error = self::error("x.jsonl", text, |c| (c.max_length, c.overlong) = (3, Overlong::Drop));
    assert_eq!(
        error,
        "x.jsonl: no sample fits data.max_length = 3: 3 dropped, 0 with nothing to learn after the cut; raise it"
    );
}

#[test]
fn long_texts_are_split_into_windows() {
    let text = "The cook tastes the soup. ".repeat(20);
    let whole = load("x.txt", &text, |_| {}).unwrap();
    let split = load("x.txt", &text, |c| (c.max_length, c.overlong) = (16, Overlong::Split)).unwrap();
    let ids: Vec<u32> = split.samples.iter().flat_map(|s| s.ids.to_vec()).collect();
    assert_eq!(whole.samples[0].ids, ids);
    assert!(split.samples.iter().all(|s| s.len() <= 16 && !s.learn()[0]));
    assert_eq!(split.places.len(), split.samples.len());
}

#[test]
fn unusable_records_are_listed_together() {
    let text = "{\"text\": \"a b\"}\n{\"text\": \nnot json\n{\"txt\": \"a\"}\n{\"text\": \"\"}\n[]\n";
    let error = error("x.jsonl", text, |_| {});
    let lines: Vec<&str> = error.lines().collect();
    assert_eq!(lines[0], "x.jsonl: 5 bad records:");
    assert!(lines[1].starts_with("  x.jsonl:2: invalid JSON at column "), "{error}");
    assert!(lines[2].starts_with("  x.jsonl:3: invalid JSON at column "), "{error}");
    assert!(
        lines[3].starts_with("  x.jsonl:4: no column `text` (did you mean") || lines[3].contains("columns are: txt"),
        "{error}"
    );
    assert_eq!(lines[4], "  x.jsonl:5: nothing to learn: the text is empty");
    assert_eq!(
        lines[5],
        "  x.jsonl:6: expected an object with named columns, found a list"
    );
}

#[test]
fn reading_stops_after_many_bad_records() {
    let error = error("x.jsonl", &"{\"text\": \"\"}\n".repeat(100_000), |_| {});
    assert_eq!(
        error, "x.jsonl: the first 20 bad records:\n  x.jsonl:1 and 19 more: nothing to learn: the text is empty",
        "one flaw of all records is told once"
    );
    let array = format!("[{}{{}}]", "{\"text\": \"\"},{\"body\": 7},".repeat(50));
    let error = self::error("x.json", &array, |_| {});
    assert_eq!(error.lines().count(), 3, "{error}");
    assert!(
        error.contains("x.json, record 1 and 9 more: nothing to learn"),
        "{error}"
    );
}

#[test]
fn empty_and_unrecognised_files_are_errors() {
    for (name, text) in [
        ("x.jsonl", ""),
        ("x.jsonl", "\n \n"),
        ("x.json", "[]"),
        ("x.csv", "a,b\n"),
        ("x.csv", ""),
        ("x.txt", "\n\n"),
    ] {
        assert_eq!(
            error(name, text, |_| {}),
            format!("{name}: holds no records"),
            "{text:?}"
        );
    }
    let error = self::error("x.csv", "mr,ref\na,b\n", |_| {});
    assert!(
        error.starts_with("data.format: no format fits the fields mr, ref;") && error.contains("\n  chat: messages,"),
        "{error}"
    );
    let missing = load_samples(Path::new("no/such.jsonl"), &DataConfig::new(""), &tokenizer());
    assert!(missing.unwrap_err().to_string().starts_with("no file no/such.jsonl"));
}

#[test]
fn the_first_bad_record_does_not_hide_the_format() {
    let error = error("x.jsonl", "oops\n{\"text\": \"fine\"}\n", |_| {});
    assert!(error.starts_with("x.jsonl:1: invalid JSON"), "{error}");
}

#[test]
fn chat_settings_of_the_config_apply() {
    let folder = tempfile::tempdir().unwrap();
    let template: PathBuf = folder.path().join("t.jinja");
    std::fs::write(&template, "{{ greeting }} {{ messages[0].content }}{% for m in messages[1:] %}|{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}").unwrap();
    let text = "{\"user\": \"Hi\", \"assistant\": \"Yes\"}\n";
    let data = load("x.jsonl", text, |c| {
        c.chat_template = Some(template.clone());
        c.chat_template_kwargs.insert("greeting".into(), "Dear".into());
    })
    .unwrap();
    let t = tokenizer();
    assert_eq!(
        (
            t.decode(data.samples[0].prompt(), false),
            t.decode(data.samples[0].answer(), false)
        ),
        ("Dear Hi|".into(), "Yes".into())
    );
    assert!(data.statistics.warnings()[0].starts_with("no sample teaches a stop token"));
    let error = error("x.jsonl", text, |c| {
        c.chat_template = Some(folder.path().join("none.jinja"))
    });
    assert!(error.contains("none.jinja"), "{error}");
}

#[test]
fn statistics_count_tokens_and_stops() {
    let data = load("x.jsonl", &records(100), |c| c.max_length = 4096).unwrap();
    let s = &data.statistics;
    assert_eq!(
        (s.samples, s.counts.records, s.without_stop, s.double_bos),
        (100, 100, 0, 0)
    );
    assert_eq!(s.tokens, data.samples.iter().map(Sample::len).sum::<usize>());
    assert_eq!(s.learned, data.samples.iter().map(Sample::target_tokens).sum::<usize>());
    assert_eq!(s.histogram.iter().map(|b| b.samples).sum::<usize>(), 100);
    assert!(s.histogram.windows(2).all(|w| w[0].up_to < w[1].up_to) && s.longest <= s.histogram.last().unwrap().up_to);
    assert_eq!(
        (s.stops["<|im_end|>"], s.unheeded_stops.len(), s.warnings().len()),
        (100, 0, 0)
    );
}

#[test]
fn a_stop_that_generation_ignores_is_reported() {
    let template = "{% for m in messages %}{{ m.role }}\n{{ m.content }}<|eot_id|>{% endfor %}{% if add_generation_prompt %}assistant\n{% endif %}";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.jinja");
    std::fs::write(&path, template).unwrap();
    let data = load("x.jsonl", "{\"user\": \"Hi\", \"assistant\": \"Yes\"}\n", |c| {
        c.chat_template = Some(path)
    })
    .unwrap();
    assert_eq!(data.statistics.unheeded_stops, ["<|eot_id|>"]);
    assert!(data.statistics.warnings()[0].contains("answers end in <|eot_id|>"));
}

#[test]
fn a_split_keeps_prompts_together_and_counts() {
    let text: String = (0..60)
        .map(|i| format!("{{\"prompt\": \"Q{}:\", \"completion\": \"{i}\"}}\n", i / 3))
        .collect();
    let (train, valid) = load("x.jsonl", &text, |_| {}).unwrap().split(0.2, 5, &tokenizer());
    assert_eq!(
        (train.samples.len(), valid.samples.len(), valid.places.len()),
        (48, 12, 12)
    );
    assert!(
        valid
            .samples
            .iter()
            .all(|v| train.samples.iter().all(|t| t.prompt() != v.prompt()))
    );
    assert_eq!((train.statistics.samples, valid.statistics.samples), (48, 12));
}

#[test]
fn previews_show_each_token() {
    let data = load(
        "x.jsonl",
        "{\"prompt\": \"Zürich 🙂\", \"completion\": \" adds 🙂\"}\n",
        |_| {},
    )
    .unwrap();
    let preview = crate::Preview::new(&data.samples[0], &tokenizer());
    assert_eq!(
        preview.tokens.iter().map(|t| t.text.as_str()).collect::<String>(),
        "Zürich 🙂 adds 🙂<|im_end|>"
    );
    assert_eq!(
        preview.runs(),
        [(false, "Zürich 🙂".to_owned()), (true, " adds 🙂<|im_end|>".to_owned())]
    );
    assert_eq!(preview.learned, data.samples[0].target_tokens());
}

#[test]
fn damaged_files_are_errors_or_data_but_never_panics() {
    let jsonl = records(3)
        + "{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}, {\"from\": \"gpt\", \"value\": [1, null]}]}\n";
    let array = format!("[{}]", jsonl.trim().replace('\n', ","));
    let csv = "prompt,completion\n\"a, b\",\"c\"\"d\"\nx,y\n";
    let mut rng = crate::stream(3, "damage");
    let mut below = |n| ft_seed::below(&mut rng, n);
    let t = tokenizer();
    for (name, good) in [
        ("x.jsonl", jsonl.as_str()),
        ("x.json", &array),
        ("x.csv", csv),
        ("x.tsv", csv),
        ("x.txt", csv),
    ] {
        for _ in 0..300 {
            let mut bytes = good.as_bytes().to_vec();
            for _ in 0..1 + below(4) {
                let at = below(bytes.len());
                match below(3) {
                    0 => bytes[at] = below(256) as u8,
                    1 => bytes.truncate(at + 1),
                    _ => bytes.insert(at, b"\"{}[],:\\\n\xff\0"[below(11)]),
                }
            }
            let config = DataConfig {
                max_length: 2 + below(40),
                ..DataConfig::new(name)
            };
            if let Err(error) = load_source(Source::Memory { name, bytes: &bytes }, &config, &t) {
                assert!(
                    error.to_string().contains(name) || error.to_string().contains("data.format"),
                    "{error}"
                );
            }
        }
    }
}

#[test]
fn several_files_are_one_set_that_remembers_them() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        std::fs::write(dir.path().join(name), text).unwrap();
        dir.path().join(name)
    };
    let one = write("one.jsonl", &records(3));
    let two = write("two.csv", "prompt,completion\na,b\nc,d\n");
    let both = Files::from(vec![one.clone(), two.clone()]);
    let config = DataConfig::new("x");
    let data = load_samples(&both, &config, &tokenizer()).unwrap();
    assert_eq!((data.samples.len(), data.files.len()), (5, 2));
    assert_eq!(data.places[4].among(&data.files), format!("{}:3", two.display()));

    let broken = write("broken.jsonl", "{\"prompt\": \"a\"}\n");
    let empty = write("empty.jsonl", "{\"prompt\": \"a\", \"completion\": \"\"}\n");
    let error = load_samples(
        Files::from(vec![one.clone(), broken.clone(), empty.clone()]),
        &config,
        &tokenizer(),
    );
    let error = error.unwrap_err().to_string();
    assert!(error.starts_with("2 files: 2 bad records:"), "{error}");
    for file in [&broken, &empty] {
        assert!(error.contains(&format!("{}:1: ", file.display())), "{error}");
    }

    let limited = |limit| {
        let config = DataConfig {
            limit: Some(limit),
            ..DataConfig::new("x")
        };
        let data = load_samples(&both, &config, &tokenizer()).unwrap();
        (
            data.samples.len(),
            data.statistics.counts.limited,
            data.statistics.warnings().len(),
        )
    };
    assert_eq!(limited(2), (2, true, 1));
    assert_eq!(limited(3), (3, true, 1));
    assert_eq!(limited(4), (4, true, 1));
    assert_eq!(limited(5), (5, false, 0));
}
