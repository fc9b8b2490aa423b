//! A configuration that a client makes: keys of a form over a TOML text. It writes nowhere but into its run folder.

use std::path::Path;

use serde_json::Value;
use toml::Table;

use crate::error::ApiError;
use crate::fields::Fields;

/// Most characters of a run's name.
const NAME: usize = 64;

/// A run that may be started.
#[derive(Debug)]
pub struct Draft {
    /// Name of the run, and of its folder.
    pub name: String,
    /// The configuration as TOML.
    pub text: String,
}

impl Draft {
    /// Takes `name`, `keys` (dotted names with their values) and `toml` of a request. The run's folder is `NAME` in `runs`.
    pub fn take(fields: &mut Fields, runs: &Path) -> Result<Self, ApiError> {
        let name = Fields::needed("name", fields.text("name")?)?;
        if !is_name(&name) {
            let why = format!("1 to {NAME} letters, digits, hyphens and underscores are expected, the first no hyphen");
            return Err(ApiError::field("name", why));
        }
        let typed = fields.text("toml")?.unwrap_or_default();
        let mut table: Table = typed
            .parse()
            .map_err(|e: toml::de::Error| ApiError::field("toml", e.to_string().trim_end()))?;
        if let Some(keys) = fields.take("keys") {
            let Value::Object(keys) = keys else {
                return Err(ApiError::field("keys", "an object of dotted keys is expected"));
            };
            for (key, value) in keys {
                put(&mut table, &key, value)?;
            }
        }
        refuse(&table)?;
        put(&mut table, "train.out", runs.join(&name).to_string_lossy().into())?;
        let text = toml::to_string_pretty(&table).map_err(|e| ApiError::field("toml", e))?;
        Ok(Self { name, text })
    }
}

fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    (1..=NAME).contains(&name.len()) && name.bytes().all(plain) && !name.starts_with('-')
}

/// Keys by which a configuration reaches beyond its run folder.
fn refuse(table: &Table) -> Result<(), ApiError> {
    let wrong = |key: &str, why: &str| Err(ApiError::field("toml", format!("{key}: {why}")));
    let of = |section: &str, key: &str| table.get(section).and_then(|section| section.get(key));
    if table.contains_key("extends") {
        return wrong(
            "extends",
            "a run that is started here has one text; put the other file's keys into it",
        );
    }
    if of("train", "out").is_some() {
        return wrong("train.out", "the run's name says where it goes; leave it out");
    }
    for key in ["tensorboard", "dump_batches"] {
        let path = of("train", key).map(|value| value.as_str().map(Path::new));
        if path.is_some_and(|path| path.is_none_or(|path| !stays(path))) {
            return wrong(
                &format!("train.{key}"),
                "only a name inside the run folder may be given here",
            );
        }
    }
    match of("data", "cache") {
        Some(toml::Value::String(cache)) if cache != "auto" => wrong(
            "data.cache",
            "\"auto\", true or false; another folder is for `ft train` on the command line",
        ),
        _ => Ok(()),
    }
}

/// Whether a relative path stays below where it starts.
fn stays(path: &Path) -> bool {
    path.components()
        .all(|part| matches!(part, std::path::Component::Normal(_)))
}

fn put(table: &mut Table, key: &str, value: Value) -> Result<(), ApiError> {
    let (sections, name) = match key.rsplit_once('.') {
        Some((sections, name)) => (sections.split('.').collect(), name),
        None => (Vec::new(), key),
    };
    let mut at = table;
    for section in sections {
        let next = at.entry(section).or_insert_with(|| Table::new().into());
        let next = next.as_table_mut();
        at = next.ok_or_else(|| ApiError::field("toml", format!("{section} must be a table, as {key} is set")))?;
    }
    if at.contains_key(name) {
        let why = format!("{key} is in the form and in the text; leave one of them out");
        return Err(ApiError::field("toml", why));
    }
    let value = toml::Value::try_from(value).map_err(|e| ApiError::field("keys", format!("{key}: {e}")))?;
    at.insert(name.to_owned(), value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn draft(body: &Value) -> Result<Draft, ApiError> {
        let mut fields = Fields::parse(body.to_string().as_bytes()).unwrap();
        Draft::take(&mut fields, Path::new("/runs")).and_then(|draft| fields.end().map(|()| draft))
    }

    #[test]
    fn the_form_and_the_text_are_one_configuration() {
        let body = json!({"name": "a-1", "keys": {"model.path": "m", "train.steps": 5, "optim.lr": 1e-3},
            "toml": "[train]\nbatch_size = 2\n[data]\nmap = { prompt = \"{a}\" }\n"});
        let table: Table = draft(&body).unwrap().text.parse().unwrap();
        let expected: Table = "model.path = 'm'\noptim.lr = 1e-3\ndata.map.prompt = '{a}'\n[train]\nbatch_size = 2\nsteps = 5\nout = '/runs/a-1'"
            .parse()
            .unwrap();
        assert_eq!(table, expected);
    }

    #[test]
    fn nothing_is_written_elsewhere() {
        let long = "x".repeat(65);
        for name in ["", ".", "..", "a/b", "a b", "-a", "a.toml", "\u{e4}", long.as_str()] {
            let error = draft(&json!({ "name": name })).unwrap_err();
            assert_eq!(error.body()["error"]["param"], "name", "{name}");
        }
        for text in [
            "extends = '/etc/passwd'",
            "train.out = '/tmp/x'",
            "data.cache = '/tmp/x'",
            "train.tensorboard = '/tmp/x'",
            "train.dump_batches = 'a/../../x'",
            "model.path = 'other'",
            "model = 5",
            "no TOML",
        ] {
            let body = json!({"name": "a", "toml": text, "keys": {"model.path": "m"}});
            assert_eq!(draft(&body).unwrap_err().body()["error"]["param"], "toml", "{text}");
        }
        for text in [
            "data.cache = true",
            "data.cache = 'auto'",
            "train.tensorboard = 'board'",
        ] {
            draft(&json!({"name": "a", "toml": text})).unwrap();
        }
        assert!(draft(&json!({"name": "a", "keys": {"a.b": null}})).is_err());
    }
}
