//! Files, folders, patterns and splits; compression; how much a record may take.

use std::fs;
use std::io::{Read, Write};

use super::*;

fn folder(files: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in files {
        let path = dir.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "x").unwrap();
    }
    dir
}

fn resolve(dir: &Path, name: &str, split: Option<&str>, role: Role) -> Result<Vec<String>, String> {
    let files = Files::from(dir.join(name))
        .resolve(split, role)
        .map_err(|e| e.to_string())?;
    let short = |path: &std::path::PathBuf| path.strip_prefix(dir).unwrap().to_string_lossy().replace('\\', "/");
    Ok(files.paths().iter().map(short).collect())
}

#[test]
fn a_folder_is_its_data_files_by_name() {
    let dir = folder(&[
        "b.jsonl",
        "a.csv.gz",
        "deep/c.txt",
        ".hidden.jsonl",
        ".git/x.jsonl",
        "README.md",
        "dataset_info.json",
        "picture.png",
    ]);
    assert_eq!(
        resolve(dir.path(), "", None, Role::Train).unwrap(),
        ["a.csv.gz", "b.jsonl", "deep/c.txt"]
    );
    let empty = folder(&["x.png"]);
    let error = resolve(empty.path(), "", None, Role::Train).unwrap_err();
    assert!(error.contains("holds no data file (.jsonl"), "{error}");
}

#[test]
fn patterns_and_lists() {
    let dir = folder(&["b.jsonl", "a.jsonl", "c.csv", ".d.jsonl", "deep/e.jsonl", "f[1].jsonl"]);
    let find = |name| resolve(dir.path(), name, None, Role::Train);
    assert_eq!(find("?.jsonl").unwrap(), ["a.jsonl", "b.jsonl"]);
    assert_eq!(
        find("**/*.jsonl").unwrap(),
        ["a.jsonl", "b.jsonl", "deep/e.jsonl", "f[1].jsonl"]
    );
    assert_eq!(
        find("f[1].jsonl").unwrap(),
        ["f[1].jsonl"],
        "a file that is there is no pattern"
    );
    assert!(find("*.tsv").unwrap_err().contains("no file fits"));
    assert!(find("a.tsv").unwrap_err().starts_with("no file "));
    assert!(find("[").unwrap_err().contains("attern"));
    let deep = find(&format!("{}*.jsonl", "./".repeat(10_000))).unwrap_err();
    assert!(deep.contains("parts; at most 256 are followed"), "{deep}");
    assert!(finds(&dir.path().join("*.csv")) && !finds(&dir.path().join("*.tsv")));

    let list = Files::from(vec![
        dir.path().join("c.csv"),
        dir.path().join("no"),
        dir.path().join("a.jsonl"),
    ]);
    let error = list.resolve(None, Role::Train).unwrap_err().to_string();
    assert!(error.starts_with("no file ") && error.ends_with("no"), "{error}");
}

#[test]
fn one_text_or_a_list_is_read_and_written_as_typed() {
    for text in ["\"a.jsonl\"", "[\"a.jsonl\",\"b.csv\"]"] {
        let files: Files = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&files).unwrap(), text);
    }
    assert!(serde_json::from_str::<Files>("\"\"").unwrap().is_empty());
    assert!(serde_json::from_str::<Files>("3").is_err());
}

#[test]
fn splits_are_told_as_the_hub_lays_them_out() {
    let dir = folder(&[
        "data/train-00001-of-00002.csv",
        "data/train-00000-of-00002.csv",
        "data/test-00000-of-00001.csv",
        "data/dev.csv",
        "data/hard-00000-of-00001.csv",
    ]);
    let find = |split, role| resolve(dir.path(), "", split, role);
    let train = ["data/train-00000-of-00002.csv", "data/train-00001-of-00002.csv"];
    assert_eq!(find(None, Role::Train).unwrap(), train);
    assert_eq!(find(None, Role::HeldOut).unwrap(), ["data/dev.csv"]);
    assert_eq!(find(Some("validation"), Role::Train).unwrap(), ["data/dev.csv"]);
    assert_eq!(
        find(Some("Test"), Role::HeldOut).unwrap(),
        ["data/test-00000-of-00001.csv"]
    );
    assert_eq!(
        find(Some("hard"), Role::Train).unwrap(),
        ["data/hard-00000-of-00001.csv"]
    );
    let error = find(Some("easy"), Role::Train).unwrap_err();
    assert!(
        error.ends_with("no split `easy`; it has: hard, test, train, validation"),
        "{error}"
    );

    let dir = folder(&["train/a.jsonl", "train/b/c.jsonl", "eval/a.jsonl"]);
    let find = |split, role| resolve(dir.path(), "", split, role);
    assert_eq!(find(None, Role::Train).unwrap(), ["train/a.jsonl", "train/b/c.jsonl"]);
    assert_eq!(find(None, Role::HeldOut).unwrap(), ["eval/a.jsonl"]);

    let dir = folder(&["one.jsonl", "two.jsonl"]);
    let all = ["one.jsonl", "two.jsonl"];
    assert_eq!(resolve(dir.path(), "", None, Role::Train).unwrap(), all);
    assert_eq!(resolve(dir.path(), "", None, Role::HeldOut).unwrap(), all);

    let dir = folder(&["train.jsonl"]);
    let error = resolve(dir.path(), "", None, Role::HeldOut).unwrap_err();
    assert!(error.contains("data.valid_split_name"), "{error}");
}

#[test]
fn two_data_sets_in_a_folder_are_not_mixed_unasked() {
    let dir = folder(&["main/train.jsonl", "socratic/train.jsonl", "main/test.jsonl"]);
    let error = resolve(dir.path(), "", None, Role::Train).unwrap_err();
    assert!(
        error.contains("several data sets have a split `train`") && error.contains("main"),
        "{error}"
    );
    assert_eq!(
        resolve(dir.path(), "main", None, Role::Train).unwrap(),
        ["main/train.jsonl"]
    );
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

fn lines(name: &str, bytes: &[u8]) -> Result<Vec<String>, String> {
    let mut found = Vec::new();
    let outcome = read(Source::Memory { name, bytes }, "\n", &mut |raw| {
        found.push(Value::Object(raw.body.fields().unwrap()).to_string());
        ControlFlow::Continue(())
    });
    outcome.map(|()| found).map_err(|e| e.to_string())
}

#[test]
fn compressed_files_are_told_by_their_first_bytes() {
    let text = b"{\"a\":1}\n{\"a\":2}\n";
    let two = [&text[..], &text[..]].concat();
    let expected = ["{\"a\":1}", "{\"a\":2}", "{\"a\":1}", "{\"a\":2}"];
    let skipped = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3][..], &zstd(&two)].concat();
    for (name, bytes) in [
        ("x.jsonl.gz", gzip(&two)),
        ("x.jsonl", gzip(&two)),
        ("X.JSONL.GZ", [gzip(text), gzip(text)].concat()),
        ("x.jsonl.zst", zstd(&two)),
        ("x.jsonl.zstd", [zstd(text), zstd(b""), zstd(text)].concat()),
        ("x.json", zstd(&two)),
        ("x.jsonl.zst", skipped),
    ] {
        assert_eq!(lines(name, &bytes).unwrap(), expected, "{name}");
    }
    assert_eq!(
        lines("x.csv.gz", &gzip(b"\xef\xbb\xbfa\n1\n")).unwrap(),
        ["{\"a\":\"1\"}"]
    );
    let error = lines("x.jsonl.gz", text).unwrap_err();
    assert!(
        error.contains("x.jsonl.gz: ") && error.contains("neither gzip nor Zstandard"),
        "{error}"
    );
    assert!(
        lines("x.gz", &gzip(text))
            .unwrap_err()
            .contains("unknown kind of file ``")
    );
}

#[test]
fn damaged_and_cut_files_say_so_and_where() {
    let text: String = (0..2000).map(|i| format!("{{\"a\":{}}}\n", i * 7919 % 1009)).collect();
    for (name, kind, bytes) in [
        ("x.jsonl.gz", "gzip", gzip(text.as_bytes())),
        ("x.jsonl.zst", "Zstandard", zstd(text.as_bytes())),
    ] {
        let cut = lines(name, &bytes[..bytes.len() / 2]).unwrap_err();
        assert!(
            cut.starts_with(&format!("{name}: the {kind} data is damaged or cut off")),
            "{cut}"
        );
        assert!(cut.contains("after line"), "{cut}");
        let mut damaged = bytes.clone();
        let last = damaged.len() - 6;
        damaged[last] ^= 0x55;
        assert!(lines(name, &damaged).is_err(), "{name}: the checksum is looked at");
    }
}

#[test]
fn a_record_without_end_is_an_error_with_its_place() {
    let long = "x".repeat(10 << 20);
    for (name, text) in [
        ("x.jsonl", format!("{{\"a\": 1}}\n{{\"a\": \"{long}\"}}\n")),
        ("x.json", format!("[{{\"a\": 1}},\n{{\"a\": \"{long}\"}}]")),
        ("x.csv", format!("a\n1\n\"{long}\"\n")),
        ("x.txt", format!("one\n{long}\n")),
    ] {
        let at = match name {
            "x.csv" => "line 3",
            "x.json" => "record 2",
            _ => "line 2",
        };
        for (name, bytes) in [
            (name.to_owned(), text.clone().into_bytes()),
            (format!("{name}.gz"), gzip(text.as_bytes())),
        ] {
            let error = lines(&name, &bytes).unwrap_err();
            assert!(
                error.starts_with(&format!("{name}: the record at {at} takes more than 8 MiB")),
                "{error}"
            );
        }
    }
}

/// A reader of zeros without end.
struct Endless;

impl Read for Endless {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        out.fill(b' ');
        Ok(out.len())
    }
}

#[test]
fn many_short_records_have_no_limit_in_sum() {
    let text = "{\"a\":\"0123456789\"}\n".repeat(700_000);
    assert!(text.len() > MAX_RECORD);
    assert_eq!(lines("x.jsonl", text.as_bytes()).unwrap().len(), 700_000);
    let csv = format!("a\n{}", "0123456789\n".repeat(900_000));
    assert_eq!(lines("x.csv", csv.as_bytes()).unwrap().len(), 900_000);
    let (mut reader, _) = bounded(Box::new(BufReader::new(Endless)), 1 << 20);
    let error = reader.read_until(b'\n', &mut Vec::new()).unwrap_err();
    assert!(error.to_string().contains("1 MiB"));
}
