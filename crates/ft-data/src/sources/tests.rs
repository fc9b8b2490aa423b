#[cfg(feature = "parquet")]
mod columns;
mod files;

use super::*;

/// Every record as `(place, fields or the flaw)`.
fn all(name: &str, bytes: &[u8]) -> Result<Vec<(String, Result<Value, String>)>> {
    all_separated(name, bytes, "\n")
}

fn all_separated(name: &str, bytes: &[u8], separator: &str) -> Result<Vec<(String, Result<Value, String>)>> {
    let mut records = vec![];
    read(Source::Memory { name, bytes }, separator, &mut |raw| {
        let fields = raw.body.fields().map(Value::Object).map_err(|flaw| flaw.to_string());
        records.push((raw.at.to_string(), fields));
        ControlFlow::Continue(())
    })?;
    Ok(records)
}

fn ok(place: &str, fields: Value) -> (String, Result<Value, String>) {
    (place.into(), Ok(fields))
}

use serde_json::json;

#[test]
fn json_lines_keep_their_numbers() {
    let bytes = b"\n{\"a\": 1}\r\n\n  \n{\"a\": \"\xc3\xa9\"}";
    let expected = [ok("line 2", json!({"a": 1})), ok("line 5", json!({"a": "é"}))];
    assert_eq!(all("x.jsonl", bytes).unwrap(), expected);
    assert_eq!(all("x.json", bytes).unwrap(), expected, "lines in a .json file");
}

#[test]
fn a_byte_order_mark_is_skipped() {
    for (name, bytes) in [
        ("x.jsonl", "\u{feff}{\"a\":\"1\"}"),
        ("x.json", "\u{feff}[{\"a\":\"1\"}]"),
        ("x.csv", "\u{feff}a\n1\n"),
    ] {
        assert_eq!(
            all(name, bytes.as_bytes()).unwrap()[0].1,
            Ok(json!({"a": "1"})),
            "{name}"
        );
    }
}

#[test]
fn bad_lines_are_flaws_and_reading_goes_on() {
    let records = all(
        "x.jsonl",
        b"{\"a\": 1\n{\"a\": \"\xff\"}\n[1]\n{\"a\": 2} x\n{\"a\": 3}\n",
    )
    .unwrap();
    let errors: Vec<String> = records.iter().filter_map(|(_, r)| r.clone().err()).collect();
    assert_eq!(records.len(), 5);
    assert!(errors[0].starts_with("invalid JSON at column 7: EOF"), "{}", errors[0]);
    assert!(errors[1].starts_with("not UTF-8 from byte 7"), "{}", errors[1]);
    assert!(errors[2].contains("found a list"), "{}", errors[2]);
    assert!(
        errors[3].starts_with("invalid JSON at column 10: trailing"),
        "{}",
        errors[3]
    );
    assert_eq!(records[4], ok("line 5", json!({"a": 3})));
}

#[test]
fn deep_nesting_is_an_error_not_an_overflow() {
    let line = format!("{{\"a\": {}", "[".repeat(100_000));
    let records = all("x.jsonl", line.as_bytes()).unwrap();
    assert!(records[0].1.as_ref().unwrap_err().contains("recursion limit"));
    assert!(
        all("x.json", format!("[{line}").as_bytes())
            .unwrap_err()
            .to_string()
            .contains("recursion limit")
    );
}

#[test]
fn json_arrays_are_streamed() {
    let records = all("x.json", b" [ {\"a\": 1},\n 7 ]\n").unwrap();
    assert_eq!(records[0], ok("record 1", json!({"a": 1})));
    assert!(records[1].1.as_ref().unwrap_err().contains("found a number"));
    let error = all("x.json", b"[{\"a\": 1},\n{\"a\": ]").unwrap_err().to_string();
    assert!(error.starts_with("x.json: invalid JSON at line 2, column 7"), "{error}");
    assert!(
        all("x.json", b"[{\"a\": 1}] junk")
            .unwrap_err()
            .to_string()
            .contains("trailing")
    );
    assert!(
        all("x.json", b"[{\"a\": \"\xff\"}]")
            .unwrap_err()
            .to_string()
            .contains("invalid unicode")
    );
}

#[test]
fn a_sink_that_breaks_ends_the_reading() {
    for (name, bytes) in [
        ("x.json", "[{}, {}, {}"),
        ("x.jsonl", "{}\n{}\n{}\n"),
        ("x.csv", "a\n1\n2\n3\n"),
        ("x.txt", "a\nb\nc\n"),
    ] {
        let mut seen = 0;
        let mut sink = |_: Raw| {
            seen += 1;
            if seen == 2 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        read(
            Source::Memory {
                name,
                bytes: bytes.as_bytes(),
            },
            "\n",
            &mut sink,
        )
        .unwrap();
        assert_eq!(seen, 2, "{name}");
    }
}

#[test]
fn csv_rows_by_header_with_lines() {
    let bytes = b"mr,ref\n\"a, \"\"b\"\"\",\"two\nlines\"\nc,d\n";
    let expected = [
        ok("line 2", json!({"mr": "a, \"b\"", "ref": "two\nlines"})),
        ok("line 4", json!({"mr": "c", "ref": "d"})),
    ];
    assert_eq!(all("x.csv", bytes).unwrap(), expected);
    let tsv = all("x.tsv", b"sentence\tlabel\na \"quote\t1\n").unwrap();
    assert_eq!(tsv, [ok("line 2", json!({"sentence": "a \"quote", "label": "1"}))]);
}

#[test]
fn csv_lines_are_counted_with_either_ending() {
    for text in [
        "a,b\n1,2\n\"3\n3\",4\n5,6\n",
        "\u{feff}a,b\r\n1,2\r\n\"3\r\n3\",4\r\n5,6\r\n",
    ] {
        let records = all("x.csv", text.as_bytes()).unwrap();
        let places: Vec<&str> = records.iter().map(|(place, _)| place.as_str()).collect();
        assert_eq!(places, ["line 2", "line 3", "line 5"], "{text:?}");
    }
}

#[test]
fn bad_csv_rows_are_flaws_with_their_line() {
    let records = all("x.csv", b"a,b\n1,2\n1,2,3\n\xff,2\n5,6\n").unwrap();
    assert_eq!(
        records[1],
        ("line 3".into(), Err(Flaw::Fields { expected: 2, found: 3 }.to_string()))
    );
    assert_eq!(records[2].0, "line 4");
    assert!(records[2].1.as_ref().unwrap_err().starts_with("not UTF-8"));
    assert_eq!(records[3], ok("line 5", json!({"a": "5", "b": "6"})));
    assert!(
        all("x.csv", b"a,b,a\n1,2,3\n")
            .unwrap_err()
            .to_string()
            .contains("`a` twice")
    );
    assert!(
        all("x.csv", b"\xff,b\n1,2\n")
            .unwrap_err()
            .to_string()
            .contains("header is not UTF-8")
    );
    assert!(all("x.csv", b"").unwrap().is_empty());
}

#[test]
fn text_documents_by_separator() {
    let text = |t: &str| json!({"text": t});
    assert_eq!(
        all("x.txt", b"one\r\n\n two\nthree").unwrap(),
        [
            ok("line 1", text("one")),
            ok("line 3", text(" two")),
            ok("line 4", text("three"))
        ]
    );
    assert_eq!(
        all_separated("x.txt", b"a\nb\n<end>\nc\nd\n<end>\n", "<end>").unwrap(),
        [ok("line 1", text("a\nb")), ok("line 4", text("c\nd"))]
    );
    assert_eq!(
        all_separated("x.txt", b"a\nb\n\n\nc", "\n\n").unwrap(),
        [ok("line 1", text("a\nb")), ok("line 5", text("c"))]
    );
    assert_eq!(
        all_separated("x.txt", b"\na\n\nb\n", "").unwrap(),
        [ok("line 2", text("a\n\nb"))]
    );
    assert!(
        all("x.txt", b"a\n\xff\n").unwrap()[1]
            .1
            .as_ref()
            .unwrap_err()
            .starts_with("not UTF-8")
    );
}

#[test]
fn unknown_kinds_and_missing_files_are_errors() {
    let error = all("x.exe", b"MZ").unwrap_err().to_string();
    assert!(error.contains("`exe`") && error.contains(".jsonl"), "{error}");
    let missing = read(Source::File(Path::new("no/such.jsonl")), "\n", &mut |_| {
        ControlFlow::Continue(())
    });
    assert!(missing.unwrap_err().to_string().starts_with("no/such.jsonl: "));
    let folder = read(Source::File(Path::new(env!("CARGO_MANIFEST_DIR"))), "\n", &mut |_| {
        ControlFlow::Continue(())
    });
    assert!(folder.is_err());
}
