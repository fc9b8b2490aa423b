//! What damage, carelessness and malice do to a file.

use std::ops::Range;

use ft_data::ChaCha8Rng;
use ft_seed::below;
use serde_json::{Value, json};

/// Numbers at which arithmetic ends.
const NUMBERS: [u64; 12] = [
    0,
    1,
    3,
    255,
    65_536,
    (1 << 31) - 1,
    1 << 31,
    1 << 32,
    1 << 40,
    (1 << 53) + 1,
    1 << 63,
    u64::MAX,
];

fn pick<'a, T>(rng: &mut ChaCha8Rng, items: &'a [T]) -> &'a T {
    &items[below(rng, items.len())]
}

/// A short range of places in `length`.
fn range(rng: &mut ChaCha8Rng, length: usize) -> Range<usize> {
    let start = below(rng, length + 1);
    let most = (length - start).min(1 << below(rng, 11));
    start..start + below(rng, most + 1)
}

/// One to four times: a bit turned, a byte or a number overwritten, a piece removed, repeated, moved or cut off. Of a file with a
/// header, two thirds fall into its first `head` bytes.
pub fn bytes(rng: &mut ChaCha8Rng, mut data: Vec<u8>, head: usize) -> Vec<u8> {
    for _ in 0..1 + below(rng, 4) {
        if data.is_empty() {
            return data;
        }
        let length = match below(rng, 3) {
            0 => data.len(),
            _ => data.len().min(head.max(1)),
        };
        let at = below(rng, length);
        match below(rng, 9) {
            0 | 1 => data[at] ^= 1 << below(rng, 8),
            2 => {
                data[at] = *pick(
                    rng,
                    &[0, 1, 0x7f, 0x80, 0xff, b'"', b'{', b'}', b'\n', b'0', b'9', b'-'],
                )
            }
            3 => {
                let number = pick(rng, &NUMBERS).to_le_bytes();
                let place = at / 8 * 8;
                let end = (place + 8).min(data.len());
                data[place..end].copy_from_slice(&number[..end - place]);
            }
            4 => drop(data.drain(range(rng, length))),
            5 => {
                let piece = data[range(rng, length)].to_vec();
                data.splice(at..at, piece);
            }
            6 => {
                let (from, piece) = (range(rng, length), range(rng, length));
                let piece = data[piece].to_vec();
                data.splice(from, piece);
            }
            7 => {
                let number = pick(rng, &NUMBERS).to_string();
                let digits = digits_at(&data, at);
                data.splice(digits, number.into_bytes());
            }
            _ => data.truncate(at),
        }
    }
    data
}

/// The digits of a number at or after `at`, or nothing there.
fn digits_at(data: &[u8], at: usize) -> Range<usize> {
    let Some(start) = data[at..].iter().position(u8::is_ascii_digit) else {
        return at..at;
    };
    let start = at + start;
    let end = data[start..].iter().position(|byte| !byte.is_ascii_digit());
    start..end.map_or(data.len(), |end| start + end)
}

/// One to three values of a JSON document replaced, removed, renamed, moved, repeated or nested; sometimes its bytes as in [`bytes`].
pub fn json(rng: &mut ChaCha8Rng, document: &[u8]) -> Vec<u8> {
    let Ok(mut value) = serde_json::from_slice::<Value>(document) else {
        return bytes(rng, document.to_vec(), document.len());
    };
    for _ in 0..1 + below(rng, 3) {
        let mut places = below(rng, count(&value));
        change(rng, &mut value, &mut places);
    }
    let text = value.to_string().into_bytes();
    match below(rng, 8) {
        0 => bytes(rng, text, usize::MAX),
        1 => deep(rng, &text),
        _ => text,
    }
}

/// A document per line, one of them changed as in [`json`].
pub fn json_lines(rng: &mut ChaCha8Rng, document: &[u8]) -> Vec<u8> {
    let mut lines: Vec<Vec<u8>> = document.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    let at = below(rng, lines.len());
    lines[at] = json(rng, &lines[at]);
    lines.join(&b'\n')
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(count).sum(),
        Value::Object(fields) => fields.values().map(count).sum(),
        _ => 0,
    }
}

/// Changes the value that is reached after `left` others.
fn change(rng: &mut ChaCha8Rng, value: &mut Value, left: &mut usize) -> bool {
    if *left == 0 {
        *value = changed(rng, value.take());
        return true;
    }
    *left -= 1;
    match value {
        Value::Array(items) => items.iter_mut().any(|item| change(rng, item, left)),
        Value::Object(fields) => fields.values_mut().any(|item| change(rng, item, left)),
        _ => false,
    }
}

fn changed(rng: &mut ChaCha8Rng, old: Value) -> Value {
    match (below(rng, 12), old) {
        (0..3, Value::Object(mut fields)) if !fields.is_empty() => {
            let at = below(rng, fields.len());
            let key = fields.keys().nth(at).cloned().unwrap_or_default();
            let value = fields.remove(&key).unwrap_or_default();
            match below(rng, 3) {
                0 => drop(fields.insert(format!("{key}x"), value)),
                1 => drop(fields.insert(key.to_uppercase(), value)),
                _ => {}
            }
            Value::Object(fields)
        }
        (0..3, Value::Array(mut items)) if !items.is_empty() => {
            let at = below(rng, items.len());
            match below(rng, 4) {
                0 => drop(items.remove(at)),
                1 => items.swap(0, at),
                2 => items = vec![items[at].clone(); 1000],
                _ => items.push(items[at].clone()),
            }
            Value::Array(items)
        }
        (0..3, Value::Number(number)) => {
            let near = number
                .as_i64()
                .unwrap_or(0)
                .wrapping_add(*pick(rng, &[-1, 1, 7, 1 << 20]));
            near.into()
        }
        (3..7, _) => (*pick(rng, &NUMBERS)).into(),
        (7, _) => json!(pick(rng, &[-1.0, 0.5, -0.0, 1e-320, 1e308, f64::MAX])),
        (8, _) => pick(rng, &[Value::Null, json!(true), json!([]), json!({}), json!([[]])]).clone(),
        (9, _) => text(rng).into(),
        (10, old) => json!([old]),
        (_, Value::String(text)) => Value::String(text.repeat(1 + below(rng, 4)) + "x"),
        (_, _) => (-1).into(),
    }
}

fn text(rng: &mut ChaCha8Rng) -> String {
    const TEXTS: [&str; 14] = [
        "",
        " ",
        "\0",
        "../..",
        "/",
        "nan",
        "-inf",
        "🦀",
        "\u{202e}abc",
        "(",
        "[",
        "{{",
        "llama",
        "a.b.c",
    ];
    match below(rng, 12) {
        0 => "x".repeat(1 << 20),
        1 => "(".repeat(20_000),
        _ => (*pick(rng, &TEXTS)).into(),
    }
}

/// The document under thousands of brackets, closed or not.
fn deep(rng: &mut ChaCha8Rng, document: &[u8]) -> Vec<u8> {
    let depth = *pick(rng, &[120, 200, 100_000]);
    let (open, close) = *pick(rng, &[("[", "]"), (r#"{"a":"#, "}")]);
    let closed = if below(rng, 2) == 0 { depth } else { 0 };
    [open.repeat(depth).as_bytes(), document, close.repeat(closed).as_bytes()].concat()
}

/// One to four times: a line or a piece removed, repeated or moved, a word put in, a number replaced; sometimes as in [`bytes`].
pub fn lines(rng: &mut ChaCha8Rng, document: &[u8], words: &[&str]) -> Vec<u8> {
    let mut data = document.to_vec();
    for _ in 0..1 + below(rng, 4) {
        let lines: Vec<&[u8]> = data.split_inclusive(|byte| *byte == b'\n').collect();
        if lines.is_empty() {
            return data;
        }
        let (a, b) = (below(rng, lines.len()), below(rng, lines.len()));
        data = match below(rng, 8) {
            0 => [&lines[..a], &lines[a + 1..]].concat().concat(),
            1 => [&lines[..a], &lines[b..=b], &lines[a..]].concat().concat(),
            2 => [
                lines[..b].concat(),
                pick(rng, words).as_bytes().to_vec(),
                lines[b..].concat(),
            ]
            .concat(),
            3 => {
                let mut data = data.clone();
                let at = below(rng, data.len());
                data.splice(at..at, pick(rng, words).bytes());
                data
            }
            4 => {
                let mut data = data.clone();
                let at = below(rng, data.len());
                let digits = digits_at(&data, at);
                data.splice(digits, pick(rng, &NUMBERS).to_string().into_bytes());
                data
            }
            5 => {
                let mut data = data.clone();
                data.extend(pick(rng, words).repeat(1 + below(rng, 3000)).bytes());
                data
            }
            _ => bytes(rng, data, usize::MAX),
        };
        if data.len() > 4 << 20 {
            break;
        }
    }
    data
}
