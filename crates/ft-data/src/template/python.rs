//! Methods of Python's strings, dictionaries and lists, which templates call and minijinja leaves to its host.

use minijinja::value::{Kwargs, Rest, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};

/// Called for `value.name(args)`.
pub(super) fn call_method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::String => string_method(value.as_str().unwrap_or_default(), name, args),
        ValueKind::Map => map_method(state, value, name, args),
        ValueKind::Seq => sequence_method(value, name, args),
        _ => Err(ErrorKind::UnknownMethod.into()),
    }
}

/// Bytes of a conversation's text, and of one that a method works on or makes: none comes near, and templates that double a text do.
const LONGEST: usize = 1 << 24;

pub(super) fn fits(bytes: Option<usize>) -> Result<(), Error> {
    match bytes {
        Some(bytes) if bytes <= LONGEST => Ok(()),
        _ => {
            let what = format!("it makes a text of more than {LONGEST} bytes");
            Err(Error::new(ErrorKind::InvalidOperation, what))
        }
    }
}

fn string_method(text: &str, name: &str, args: &[Value]) -> Result<Value, Error> {
    fits(Some(text.len()))?;
    let all = |test: fn(char) -> bool| -> Result<Value, Error> {
        let () = from_args(args)?;
        Ok(Value::from(!text.is_empty() && text.chars().all(test)))
    };
    match name {
        "strip" => Ok(strip(text, args, true, true)?.into()),
        "lstrip" => Ok(strip(text, args, true, false)?.into()),
        "rstrip" => Ok(strip(text, args, false, true)?.into()),
        "split" => split(text, args, false),
        "rsplit" => split(text, args, true),
        "splitlines" => Ok(text.lines().map(Value::from).collect()),
        "partition" | "rpartition" => partition(text, args, name == "rpartition"),
        "startswith" => affix(args, |affix| text.starts_with(affix)),
        "endswith" => affix(args, |affix| text.ends_with(affix)),
        "removeprefix" => without(text, args, |affix| text.strip_prefix(affix)),
        "removesuffix" => without(text, args, |affix| text.strip_suffix(affix)),
        "replace" => replace(text, args),
        "find" | "rfind" | "index" => find(text, name, args),
        "count" => {
            let (needle,): (&str,) = from_args(args)?;
            Ok(text.matches(needle).count().into())
        }
        "join" => {
            let (items,): (Value,) = from_args(args)?;
            let mut joined = String::new();
            for (i, item) in items.try_iter()?.enumerate() {
                if i > 0 {
                    joined.push_str(text);
                }
                joined.push_str(&item.to_string());
                fits(Some(joined.len()))?;
            }
            Ok(joined.into())
        }
        "format" => super::python_text::format(text, args),
        "upper" => Ok(text.to_uppercase().into()),
        "lower" => Ok(text.to_lowercase().into()),
        "capitalize" => Ok(capitalize(text).into()),
        "title" => Ok(title(text).into()),
        "isdigit" | "isdecimal" | "isnumeric" => all(char::is_numeric),
        "isalpha" => all(char::is_alphabetic),
        "isalnum" => all(char::is_alphanumeric),
        "isspace" => all(char::is_whitespace),
        "isupper" => Ok((text.chars().any(char::is_uppercase) && !text.chars().any(char::is_lowercase)).into()),
        "islower" => Ok((text.chars().any(char::is_lowercase) && !text.chars().any(char::is_uppercase)).into()),
        _ => Err(ErrorKind::UnknownMethod.into()),
    }
}

fn strip<'a>(text: &'a str, args: &[Value], left: bool, right: bool) -> Result<&'a str, Error> {
    let (set,): (Option<&str>,) = from_args(args)?;
    let stripped = |c: char| set.map_or(c.is_whitespace(), |set| set.contains(c));
    let text = if left { text.trim_start_matches(stripped) } else { text };
    Ok(if right { text.trim_end_matches(stripped) } else { text })
}

/// `split(sep=None, maxsplit=-1)`; without a separator at runs of white space.
fn split(text: &str, args: &[Value], from_right: bool) -> Result<Value, Error> {
    let (separator, most, kwargs): (Option<Value>, Option<i64>, Kwargs) = from_args(args)?;
    let separator = separator.or(kwargs.get("sep")?).filter(|s| !s.is_none());
    let most = most.or(kwargs.get("maxsplit")?).unwrap_or(-1);
    kwargs.assert_all_used()?;
    let pieces = usize::try_from(most).map_or(usize::MAX, |m| m.saturating_add(1));
    let mut parts: Vec<&str> = match (separator.as_ref().map(|s| s.as_str()), from_right) {
        (Some(Some("")), _) => return Err(Error::new(ErrorKind::InvalidOperation, "empty separator")),
        (Some(Some(separator)), false) => text.splitn(pieces, separator).collect(),
        (Some(Some(separator)), true) => text.rsplitn(pieces, separator).collect(),
        (Some(None), _) => return Err(Error::new(ErrorKind::InvalidOperation, "split() takes a string")),
        (None, false) => split_space(text, pieces),
        (None, true) => rsplit_space(text, pieces),
    };
    if from_right {
        parts.reverse();
    }
    Ok(parts.into_iter().map(Value::from).collect())
}

fn split_space(text: &str, pieces: usize) -> Vec<&str> {
    let mut parts = vec![];
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let end = rest
            .find(char::is_whitespace)
            .filter(|_| parts.len() + 1 < pieces)
            .unwrap_or(rest.len());
        parts.push(&rest[..end]);
        rest = rest[end..].trim_start();
    }
    parts
}

fn rsplit_space(text: &str, pieces: usize) -> Vec<&str> {
    let mut parts = vec![];
    let mut rest = text.trim_end();
    while !rest.is_empty() {
        let space = rest
            .char_indices()
            .rev()
            .find(|(_, c)| c.is_whitespace())
            .filter(|_| parts.len() + 1 < pieces);
        let start = space.map_or(0, |(at, c)| at + c.len_utf8());
        parts.push(&rest[start..]);
        rest = rest[..start].trim_end();
    }
    parts
}

fn partition(text: &str, args: &[Value], from_right: bool) -> Result<Value, Error> {
    let (separator,): (&str,) = from_args(args)?;
    let found = if from_right {
        text.rsplit_once(separator)
    } else {
        text.split_once(separator)
    };
    let parts = match (found, from_right) {
        (Some((before, after)), _) => [before, separator, after],
        (None, false) => [text, "", ""],
        (None, true) => ["", "", text],
    };
    Ok(parts.into_iter().map(Value::from).collect())
}

/// One affix, or a tuple of which any may fit.
fn affix(args: &[Value], fits: impl Fn(&str) -> bool) -> Result<Value, Error> {
    let (affix,): (Value,) = from_args(args)?;
    if let Some(affix) = affix.as_str() {
        return Ok(fits(affix).into());
    }
    Ok(affix.try_iter()?.any(|affix| affix.as_str().is_some_and(&fits)).into())
}

fn without<'a>(text: &'a str, args: &'a [Value], strip: impl Fn(&'a str) -> Option<&'a str>) -> Result<Value, Error> {
    let (affix,): (&str,) = from_args(args)?;
    Ok(strip(affix).unwrap_or(text).into())
}

fn replace(text: &str, args: &[Value]) -> Result<Value, Error> {
    let (from, to, count): (&str, &str, Option<i64>) = from_args(args)?;
    fits(text.matches(from).count().checked_mul(to.len()))?;
    Ok(match count.map(usize::try_from) {
        Some(Ok(count)) => text.replacen(from, to, count).into(),
        _ => text.replace(from, to).into(),
    })
}

/// Positions count characters, as Python's do.
fn find(text: &str, name: &str, args: &[Value]) -> Result<Value, Error> {
    let (needle,): (&str,) = from_args(args)?;
    let at = if name == "rfind" {
        text.rfind(needle)
    } else {
        text.find(needle)
    };
    match at {
        Some(at) => Ok(text[..at].chars().count().into()),
        None if name == "index" => Err(Error::new(ErrorKind::InvalidOperation, "substring not found")),
        None => Ok((-1).into()),
    }
}

fn capitalize(text: &str) -> String {
    let mut chars = text.chars();
    let first: String = chars.next().map(|c| c.to_uppercase().collect()).unwrap_or_default();
    first + &chars.as_str().to_lowercase()
}

/// Upper case after anything that is not a letter.
fn title(text: &str) -> String {
    let mut inside = false;
    let mut out = String::new();
    for c in text.chars() {
        match inside {
            true => out.extend(c.to_lowercase()),
            false => out.extend(c.to_uppercase()),
        }
        inside = c.is_alphabetic();
    }
    out
}

fn map_method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    match name {
        "get" => {
            let (key, default): (Value, Option<Value>) = from_args(args)?;
            let found = value.get_item(&key).ok().filter(|v| !v.is_undefined());
            Ok(found.or(default).unwrap_or(Value::from(())))
        }
        "items" => {
            let () = from_args(args)?;
            state.apply_filter("items", std::slice::from_ref(value))
        }
        "keys" => Ok(value.try_iter()?.collect()),
        "values" => value.try_iter()?.map(|key| value.get_item(&key)).collect(),
        _ => Err(ErrorKind::UnknownMethod.into()),
    }
}

fn sequence_method(value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let position =
        |needle: &Value| -> Result<Option<usize>, Error> { Ok(value.try_iter()?.position(|item| item == *needle)) };
    match name {
        "count" => {
            let (needle,): (Value,) = from_args(args)?;
            Ok(value.try_iter()?.filter(|item| *item == needle).count().into())
        }
        "index" => {
            let (needle,): (Value,) = from_args(args)?;
            let missing = || Error::new(ErrorKind::InvalidOperation, "value not in list");
            Ok(position(&needle)?.ok_or_else(missing)?.into())
        }
        _ => Err(ErrorKind::UnknownMethod.into()),
    }
}

/// Jinja's `iterable` test: in Python, strings are and None is not.
pub(super) fn is_iterable(value: &Value, _: Rest<Value>) -> bool {
    value.kind() == ValueKind::String || !value.is_none() && value.try_iter().is_ok()
}

/// Jinja's `sequence` test: whatever has a length and takes an index, strings and dictionaries included.
pub(super) fn is_sequence(value: &Value, _: Rest<Value>) -> bool {
    matches!(
        value.kind(),
        ValueKind::Undefined | ValueKind::String | ValueKind::Seq | ValueKind::Map
    )
}
