//! The `tojson` filter as transformers defines it: Python's `json.dumps` without HTML escaping.

use minijinja::value::{Kwargs, Rest};
use minijinja::{Error, ErrorKind};
use serde_json::Value;

/// How `json.dumps` was asked to write.
struct Style {
    indent: Option<String>,
    item: String,
    key: String,
    ascii: bool,
    sort: bool,
}

/// `tojson(ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
pub(super) fn filter(value: &minijinja::Value, args: Rest<minijinja::Value>, kwargs: Kwargs) -> Result<String, Error> {
    if value.is_undefined() {
        return Err(Error::new(
            ErrorKind::InvalidOperation,
            "an undefined value is not JSON serializable",
        ));
    }
    let value = serde_json::to_value(value)
        .map_err(|e| Error::new(ErrorKind::InvalidOperation, format!("not JSON serializable: {e}")))?;
    let style = Style::read(&args, &kwargs)?;
    kwargs.assert_all_used()?;
    let mut out = String::new();
    style.write(&value, 0, &mut out);
    Ok(out)
}

impl Style {
    fn read(args: &[minijinja::Value], kwargs: &Kwargs) -> Result<Style, Error> {
        // Positional order of transformers' filter.
        let argument = |at: usize, name: &str| -> Result<Option<minijinja::Value>, Error> {
            let value: Option<minijinja::Value> = kwargs.get(name)?;
            Ok(value
                .or_else(|| args.get(at).cloned())
                .filter(|v| !v.is_none() && !v.is_undefined()))
        };
        let (ascii, indent) = (argument(0, "ensure_ascii")?, argument(1, "indent")?);
        let (separators, sort) = (argument(2, "separators")?, argument(3, "sort_keys")?);
        let indent = indent.map(|i| match i.as_str() {
            Some(text) => text.to_owned(),
            None => " ".repeat(usize::try_from(i.clone()).unwrap_or(0).min(64)),
        });
        let (item, key) = match separators {
            Some(pair) => (
                pair.get_item_by_index(0)?.to_string(),
                pair.get_item_by_index(1)?.to_string(),
            ),
            None => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
        };
        let truth = |value: Option<minijinja::Value>| value.is_some_and(|v| v.is_true());
        Ok(Style {
            indent,
            item,
            key,
            ascii: truth(ascii),
            sort: truth(sort),
        })
    }

    fn write(&self, value: &Value, depth: usize, out: &mut String) {
        match value {
            Value::String(text) => self.string(text, out),
            Value::Number(number) => match number.as_f64().filter(|_| number.is_f64()) {
                Some(float) => out.push_str(&float_repr(float)),
                None => out.push_str(&number.to_string()),
            },
            Value::Array(items) => self.group('[', ']', items.iter(), depth, out, |item, out| {
                self.write(item, depth + 1, out)
            }),
            Value::Object(fields) => {
                let mut fields: Vec<(&String, &Value)> = fields.iter().collect();
                if self.sort {
                    fields.sort_by_key(|(key, _)| *key);
                }
                self.group('{', '}', fields.into_iter(), depth, out, |(key, value), out| {
                    self.string(key, out);
                    out.push_str(&self.key);
                    self.write(value, depth + 1, out);
                });
            }
            Value::Null | Value::Bool(_) => out.push_str(&value.to_string()),
        }
    }

    fn group<T>(
        &self,
        open: char,
        close: char,
        items: impl ExactSizeIterator<Item = T>,
        depth: usize,
        out: &mut String,
        mut write: impl FnMut(T, &mut String),
    ) {
        let empty = items.len() == 0;
        out.push(open);
        for (i, item) in items.enumerate() {
            if i > 0 {
                out.push_str(&self.item);
            }
            self.new_line(depth + 1, out);
            write(item, out);
        }
        if !empty {
            self.new_line(depth, out);
        }
        out.push(close);
    }

    fn new_line(&self, depth: usize, out: &mut String) {
        if let Some(indent) = &self.indent {
            out.push('\n');
            out.push_str(&indent.repeat(depth));
        }
    }

    fn string(&self, text: &str, out: &mut String) {
        let json = Value::from(text).to_string();
        if !self.ascii {
            return out.push_str(&json);
        }
        for c in json.chars() {
            match c.is_ascii() {
                true => out.push(c),
                false => c
                    .encode_utf16(&mut [0; 2])
                    .iter()
                    .for_each(|unit| out.push_str(&format!("\\u{unit:04x}"))),
            }
        }
    }
}

/// Python's `repr` of a float: shortest digits, an exponent outside of 1e-4 .. 1e16.
pub(super) fn float_repr(float: f64) -> String {
    let scientific = format!("{float:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.parse().unwrap_or(0) {
        -4..16 => format!("{float:?}"),
        exponent => format!(
            "{digits}e{}{:02}",
            if exponent < 0 { '-' } else { '+' },
            i32::abs(exponent)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_as_python_prints_them() {
        // [repr(x) for x in ...]
        let cases = [
            (1.0, "1.0"),
            (0.1, "0.1"),
            (1e16, "1e+16"),
            (1.5e300, "1.5e+300"),
            (9.5e15, "9500000000000000.0"),
        ];
        let small = [
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (-2.5e-10, "-2.5e-10"),
            (0.0, "0.0"),
            (-0.0, "-0.0"),
        ];
        for (float, expected) in cases.into_iter().chain(small) {
            assert_eq!(float_repr(float), expected);
        }
    }
}
