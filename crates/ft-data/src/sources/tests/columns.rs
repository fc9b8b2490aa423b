//! Files that pyarrow wrote, against the rows that it wrote into them.

use super::*;

fn fixture(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/columns");
    std::fs::read(folder.join(name)).unwrap()
}

const FILES: [&str; 9] = [
    "none.parquet",
    "snappy.parquet",
    "gzip.parquet",
    "zstd.parquet",
    "lz4.parquet",
    "stream.arrow",
    "file.arrow",
    "lz4.feather",
    "zstd.feather",
];

#[test]
fn every_codec_and_layout_gives_the_rows() {
    let rows = String::from_utf8(fixture("rows.jsonl")).unwrap();
    let rows: Vec<Value> = rows.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for name in FILES {
        let found = all(name, &fixture(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        let numbered = (1..)
            .zip(&rows)
            .map(|(n, row)| (format!("record {n}"), Ok(row.clone())));
        assert_eq!(found, numbered.collect::<Vec<_>>(), "{name}");
    }
}

#[test]
fn the_same_from_disk_and_stopped_early() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/columns");
    for name in FILES {
        let mut places = Vec::new();
        read(Source::File(&path.join(name)), "\n", &mut |raw| {
            places.push(raw.at);
            match places.len() {
                4 => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        })
        .unwrap();
        assert_eq!(places, (1..=4).map(At::Record).collect::<Vec<_>>(), "{name}");
    }
}

#[test]
fn cut_and_foreign_files_are_errors() {
    for name in FILES {
        let bytes = fixture(name);
        for cut in [0, 3, 8, 100, bytes.len() / 2, bytes.len() - 1] {
            let outcome = all(name, &bytes[..cut]);
            let ends_well = name.ends_with("parquet") || cut == 3 || cut == 100 || cut == bytes.len() / 2;
            assert!(
                outcome.is_err() || !ends_well,
                "{name}: {cut} bytes of it give {outcome:?}"
            );
        }
        let error = all(name, b"{\"a\": 1}\n").unwrap_err().to_string();
        assert!(error.starts_with(name) && error.contains("behind record 0"), "{error}");
    }
    assert!(
        all("x.feather", b"FEA1....")
            .unwrap_err()
            .to_string()
            .contains("version 2")
    );
    assert!(
        all("x.parquet.gz", b"x")
            .unwrap_err()
            .to_string()
            .contains("unpack this file")
    );
}
