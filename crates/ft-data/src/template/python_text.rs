//! Values as text, as Python's `str` writes them: minijinja does, but for very small and very large floats.

use minijinja::formatting::{FormatStyle, format as minijinja_format};
use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Output, State, Value, escape_formatter};

use super::python::fits;
use super::python_json::float_repr;

/// What `{{ value }}` prints.
pub(super) fn print(out: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    match odd(state, value)? {
        Some(text) => Ok(std::fmt::Write::write_str(out, &text)?),
        None => escape_formatter(out, state, value),
    }
}

/// Jinja's `string` filter.
pub(super) fn string(state: &State, value: &Value) -> Result<Value, Error> {
    match odd(state, value)? {
        Some(text) => Ok(text.into()),
        None => minijinja::filters::string(state, value),
    }
}

/// `str.format`.
pub(super) fn format(template: &str, args: &[Value]) -> Result<Value, Error> {
    let digits = template.split(|c: char| !c.is_ascii_digit()).map(str::len);
    if digits.max().unwrap_or(0) > 4 {
        let what = "str.format with a width of more than four digits";
        return Err(Error::new(ErrorKind::InvalidOperation, what));
    }
    let text = minijinja_format(FormatStyle::StrFormat, template, args)?;
    fits(Some(text.len()))?;
    Ok(text.into())
}

/// The text of a value with such a float in it, paid for as minijinja pays.
fn odd(state: &State, value: &Value) -> Result<Option<String>, Error> {
    if !has_odd_float(value) {
        return Ok(None);
    }
    let mut text = String::new();
    repr(value, &mut text);
    fits(Some(text.len()))?;
    state.consume_fuel(text.len() as u64 / 64)?;
    Ok(Some(text))
}

fn has_odd_float(value: &Value) -> bool {
    match value.kind() {
        ValueKind::Number if !value.is_integer() => {
            f64::try_from(value.clone()).is_ok_and(|float| float_repr(float).contains('e'))
        }
        ValueKind::Seq => items(value).any(|item| has_odd_float(&item)),
        ValueKind::Map => items(value).any(|key| value.get_item(&key).is_ok_and(|item| has_odd_float(&item))),
        _ => false,
    }
}

fn items(value: &Value) -> impl Iterator<Item = Value> {
    value.try_iter().into_iter().flatten()
}

fn repr(value: &Value, out: &mut String) {
    let mut group = |[open, close]: [char; 2], write: &dyn Fn(&Value, &mut String)| {
        out.push(open);
        for (i, item) in items(value).enumerate() {
            if i > 0 {
                out.push_str(", ");
            }
            write(&item, out);
        }
        out.push(close);
    };
    match value.kind() {
        ValueKind::Map => group(['{', '}'], &|key, out| {
            repr(key, out);
            out.push_str(": ");
            repr(&value.get_item(key).unwrap_or_default(), out);
        }),
        ValueKind::Seq => group(['[', ']'], &repr),
        _ => match f64::try_from(value.clone()) {
            Ok(float) if !value.is_integer() => out.push_str(&float_repr(float)),
            _ => out.push_str(&format!("{value:?}")),
        },
    }
}
