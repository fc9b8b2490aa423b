mod damage;

use std::fs;
use std::path::{Path, PathBuf};

use super::*;
use crate::config::Overlong;
use crate::{LARGE, load_samples};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures")
}

fn tokenizer(name: &str) -> Tokenizer {
    Tokenizer::from_dir(&fixtures().join("tokenizers").join(name)).unwrap()
}

/// A folder with a data file and a cache.
struct Desk {
    folder: tempfile::TempDir,
    config: DataConfig,
    tokenizer: Tokenizer,
}

impl Desk {
    fn with(name: &str, text: &str) -> Desk {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(name);
        fs::write(&file, text).unwrap();
        let config = DataConfig {
            cache: Cache::Folder(folder.path().join("tokens")),
            ..DataConfig::new(&file)
        };
        Desk {
            folder,
            config,
            tokenizer: tokenizer("chatml"),
        }
    }

    fn load_with(&self, edit: impl FnOnce(&mut DataConfig)) -> Result<Dataset> {
        let mut config = self.config.clone();
        edit(&mut config);
        load_samples(&config.train, &config, &self.tokenizer)
    }

    fn load(&self) -> Dataset {
        self.load_with(|_| {}).unwrap()
    }

    fn plain(&self) -> Dataset {
        self.load_with(|c| c.cache = Cache::Off).unwrap()
    }

    fn file(&self) -> &Path {
        &self.config.train.paths()[0]
    }

    /// The entries' folders.
    fn entries(&self) -> Vec<PathBuf> {
        let folder = fs::read_dir(self.folder.path().join("tokens"));
        folder
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().path())
            .collect()
    }

    /// A file of the only entry.
    fn part(&self, name: &str) -> PathBuf {
        let entries = self.entries();
        assert_eq!(entries.len(), 1);
        entries[0].join(name)
    }
}

fn how(data: &Dataset) -> How {
    data.cached.as_ref().unwrap().how
}

/// All but what the cache says.
fn same(a: &Dataset, b: &Dataset) {
    let but_cached = |data: &Dataset| Dataset {
        cached: None,
        ..data.clone()
    };
    assert_eq!(but_cached(a), but_cached(b));
}

fn mapped(data: &Dataset) -> bool {
    data.samples.iter().all(|sample| sample.ids.shard().is_some())
}

fn answers(n: usize) -> String {
    (0..n)
        .map(|i| {
            format!(
                "{{\"prompt\": \"{i}:\", \"completion\": \"{}\"}}\n",
                "The cook. ".repeat(1 + i % 40)
            )
        })
        .collect()
}

/// Records of every format, with what they need to be read.
fn formats() -> Vec<(&'static str, String)> {
    let pair = |prompt: &str| {
        serde_json::json!({"prompt": prompt, "chosen": "Yes, of course.", "rejected": "No."}).to_string() + "\n"
    };
    let chat = serde_json::json!({"messages": [
        {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "And?"}, {"role": "assistant", "content": "Bye."},
    ]});
    let segments = serde_json::json!({"segments": [
        {"label": false, "text": "One "}, {"label": true, "text": "two "}, {"label": false, "text": "three "},
        {"label": true, "text": "four"},
    ]});
    vec![
        ("text.txt", "One line.\n\nAnother one.\n".into()),
        ("answers.jsonl", answers(50)),
        (
            "instruct.jsonl",
            "{\"instruction\": \"Add.\", \"input\": \"1 and 1\", \"output\": \"2\"}\n".into(),
        ),
        ("chat.jsonl", format!("{chat}\n")),
        ("pairs.jsonl", pair("A?") + &pair("B?")),
        (
            "rated.jsonl",
            "{\"prompt\": \"A?\", \"completion\": \"b\", \"label\": true}\n{\"prompt\": \"A?\", \"completion\": \"c\", \"label\": false}\n"
                .into(),
        ),
        ("segments.jsonl", format!("{segments}\n")),
        ("ids.jsonl", "{\"input_ids\": [5, 6, 7, 8], \"labels\": [-100, 6, -100, 8]}\n".into()),
        ("list.json", "[{\"prompt\": \"a\", \"completion\": \"b\"}]".into()),
    ]
}

#[test]
fn every_format_comes_back_as_it_was_made() {
    for (name, text) in formats() {
        let desk = Desk::with(name, &text);
        let plain = desk.plain();
        let (first, second) = (desk.load(), desk.load());
        assert_eq!((how(&first), how(&second)), (How::Written, How::Read), "{name}");
        assert!(mapped(&first) && mapped(&second) && !mapped(&plain), "{name}");
        same(&first, &plain);
        same(&second, &plain);
        assert_eq!(
            second.samples.iter().map(Sample::learn).collect::<Vec<_>>(),
            plain.samples.iter().map(Sample::learn).collect::<Vec<_>>(),
            "{name}"
        );
    }
}

#[test]
fn what_was_cut_or_dropped_is_told_from_the_cache_too() {
    let desk = Desk::with("x.jsonl", &answers(60));
    for overlong in [Overlong::Truncate, Overlong::Drop] {
        let edit = |c: &mut DataConfig| (c.max_length, c.overlong) = (20, overlong);
        let first = desk.load_with(edit).unwrap();
        let second = desk.load_with(edit).unwrap();
        assert_eq!(how(&second), How::Read);
        assert_eq!(first.warnings(), second.warnings());
        assert!(!second.warnings().is_empty());
        same(&first, &second);
    }
}

#[test]
fn a_set_of_several_shards_is_in_order() {
    let line = |i: usize| format!("{{\"text\": \"{i} {}\"}}\n", "so it goes on and on, ".repeat(400));
    let desk = Desk::with("x.jsonl", &(0..1500).map(line).collect::<String>());
    let edit = |c: &mut DataConfig| c.max_length = 1 << 20;
    let first = desk.load_with(edit).unwrap();
    let shards = fs::read_dir(&desk.entries()[0]).unwrap().count() - 1;
    assert!(shards >= 2, "{shards} shards of {} tokens", first.statistics.tokens);
    let second = desk.load_with(edit).unwrap();
    assert_eq!((how(&first), how(&second)), (How::Written, How::Read));
    same(&first, &second);
    let plain = desk.load_with(|c| {
        edit(c);
        c.cache = Cache::Off;
    });
    same(&plain.unwrap(), &second);
    let passed: Vec<&Sample> = passing(&second.samples).collect();
    assert!(
        passed.into_iter().eq(&first.samples),
        "pages that were let go are read again"
    );
    let_go(&second.samples);
    same(&first, &second);
}

#[test]
fn samples_from_the_cache_can_be_cut_and_changed() {
    let desk = Desk::with("x.jsonl", &answers(40));
    let (plain, cached) = (desk.plain(), desk.load());
    for (a, b) in plain.samples.iter().zip(&cached.samples) {
        for length in [1, 3, a.len() - 1, a.len()] {
            let [mut a, mut b] = [a.clone(), b.clone()];
            assert_eq!(a.truncate(length), b.truncate(length));
            assert_eq!((&a, a.learn()), (&b, b.learn()));
        }
        assert_eq!(a.windows(7), b.windows(7));
        let mut changed = b.clone();
        changed.ids.to_mut()[0] = 3;
        assert_eq!((changed.ids[0], &b.ids), (3, &a.ids));
    }
}

#[test]
fn another_content_or_setting_is_another_entry() {
    let mut desk = Desk::with(
        "x.jsonl",
        "{\"q\": \"a\", \"prompt\": \"b\", \"completion\": \"c d e\"}\n",
    );
    let template = desk.folder.path().join("t.jinja");
    fs::write(&template, "{% for m in messages %}{{ m.content }}{% endfor %}").unwrap();
    let map = |text: &str| [("prompt".to_owned(), text.to_owned())].into_iter().collect();
    type Edit = Box<dyn Fn(&mut DataConfig)>;
    let edits: Vec<(&str, Edit)> = vec![
        ("as it is", Box::new(|_| {})),
        (
            "format",
            Box::new(|c| c.format = Some("prompt-completion".parse().unwrap())),
        ),
        (
            "map",
            Box::new(move |c| {
                c.map = map("{q}");
                c.map.insert("completion".into(), "{completion}".into());
            }),
        ),
        ("length", Box::new(|c| c.max_length = 3)),
        ("overlong", Box::new(|c| c.overlong = Overlong::Drop)),
        ("limit", Box::new(|c| c.limit = Some(1))),
        ("separator", Box::new(|c| c.separator = "--".into())),
        ("template", Box::new(move |c| c.chat_template = Some(template.clone()))),
        (
            "variables",
            Box::new(|c| {
                c.chat_template_kwargs.insert("date_string".into(), "today".into());
            }),
        ),
    ];
    for (number, (name, edit)) in edits.iter().enumerate() {
        assert_eq!(how(&desk.load_with(edit).unwrap()), How::Written, "{name}");
        assert_eq!(how(&desk.load_with(edit).unwrap()), How::Read, "{name}");
        assert_eq!(desk.entries().len(), number + 1, "{name}");
    }
    // What shapes no sample is no reason to make them again.
    let same_samples = desk.load_with(|c| {
        (c.shuffle, c.valid_split) = (false, 0.5);
        c.pack = crate::Pack::On;
    });
    assert_eq!(how(&same_samples.unwrap()), How::Read);

    let before = desk.load();
    fs::write(
        desk.file(),
        "{\"q\": \"a\", \"prompt\": \"b\", \"completion\": \"c d f\"}\n",
    )
    .unwrap();
    let after = desk.load();
    assert_eq!(how(&after), How::Written, "content");
    assert_ne!(before.samples, after.samples);

    desk.tokenizer = tokenizer("llama");
    assert_eq!(how(&desk.load()), How::Written, "tokenizer");
    let ids = desk.load().samples[0].ids.clone();
    assert_ne!(ids, after.samples[0].ids);
}

#[test]
fn a_moved_file_is_known_by_its_content() {
    let desk = Desk::with("x.jsonl", &answers(5));
    desk.load();
    let moved = desk.folder.path().join("moved.jsonl");
    fs::rename(desk.file(), &moved).unwrap();
    let data = desk.load_with(|c| c.train = moved.as_path().into()).unwrap();
    assert_eq!(how(&data), How::Read);
    assert!(data.places[0].among(&data.files).contains("moved.jsonl:1"));
}

#[test]
fn where_nothing_can_be_written_samples_stay_in_memory_or_it_is_said() {
    let desk = Desk::with("x.jsonl", &answers(5));
    let blocked = desk.folder.path().join("blocked");
    fs::write(&blocked, "a file where a folder should be").unwrap();
    let error = desk
        .load_with(|c| c.cache = Cache::Folder(blocked.clone()))
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("data.cache: ") && error.contains("data.cache = false") && error.contains("blocked"),
        "{error}"
    );

    // Of a set that is cached because it is large.
    let blank = " ".repeat(1 << 20) + "\n";
    let large = answers(5) + &blank.repeat(LARGE as usize >> 20);
    fs::write(desk.file(), large).unwrap();
    let auto = |c: &mut DataConfig| (c.cache, c.cache_folder) = (Cache::Auto, Some(blocked.clone()));
    let data = desk.load_with(auto).unwrap();
    assert_eq!(how(&data), How::Failed);
    assert!(
        !mapped(&data) && data.warnings()[0].contains("held in memory"),
        "{:?}",
        data.warnings()
    );
    let good = desk.folder.path().join("good");
    let auto = |c: &mut DataConfig| (c.cache, c.cache_folder) = (Cache::Auto, Some(good.clone()));
    assert_eq!(how(&desk.load_with(auto).unwrap()), How::Written);
    same(&desk.load_with(auto).unwrap(), &data);
}

#[test]
fn small_sets_are_not_cached_unless_asked() {
    let desk = Desk::with("x.jsonl", &answers(5));
    let folder = desk.folder.path().join("user");
    let with = |cache: Cache, known: bool| {
        desk.load_with(|c| (c.cache, c.cache_folder) = (cache, known.then(|| folder.clone())))
    };
    assert_eq!(with(Cache::Auto, true).unwrap().cached, None);
    assert_eq!(with(Cache::Off, true).unwrap().cached, None);
    assert!(!folder.exists());
    assert_eq!(how(&with(Cache::On, true).unwrap()), How::Written);
    let error = with(Cache::On, false).unwrap_err().to_string();
    assert!(error.starts_with("data.cache: true"), "{error}");
}

#[test]
fn bad_records_are_told_and_cached_by_nobody() {
    let desk = Desk::with("x.jsonl", &(answers(3) + "{\"prompt\": \"a\"}\n"));
    for _ in 0..2 {
        let error = desk.load_with(|_| {}).unwrap_err().to_string();
        assert!(error.contains("x.jsonl:4: no column `completion`"), "{error}");
    }
    assert!(desk.entries().iter().all(|entry| !entry.join("set.json").exists()));
}

#[test]
fn programs_that_make_the_same_entry_at_once_do_not_meet() {
    let desk = Desk::with("x.jsonl", &answers(300));
    let plain = desk.plain();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| (0..4).map(|_| desk.load()).collect::<Vec<_>>()))
            .collect();
        for thread in threads {
            thread.join().unwrap().iter().for_each(|data| same(data, &plain));
        }
    });
    assert!(desk.load().cached.unwrap().why.is_none());
    let names = fs::read_dir(&desk.entries()[0]).unwrap();
    assert_eq!(names.count(), 2, "no draft is left");
}
