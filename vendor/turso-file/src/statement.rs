//! The statements of cubecl-environment, by their text.
use crate::file::{Change, META, Store};
use crate::rows::{Row, Value};
use crate::{Error, Result};

/// A statement, without its values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Statement {
    /// Makes a table, which is always there.
    Create,
    DropEntries,
    MetaGet,
    MetaSet,
    /// Only where there is no entry, or an imported one and this one is not.
    Insert,
    Replace,
    Select,
    Scan,
    Purge,
    PurgeKey,
    Summary,
}

const STATEMENTS: [(&str, Statement); 11] = [
    ("CREATE TABLE IF NOT EXISTS meta", Statement::Create),
    ("CREATE TABLE IF NOT EXISTS entries", Statement::Create),
    ("DROP TABLE IF EXISTS entries", Statement::DropEntries),
    ("SELECT v FROM meta WHERE k = ?1", Statement::MetaGet),
    (
        "INSERT INTO meta (k, v) VALUES (?1, ?2) ON CONFLICT(k) DO UPDATE SET v = excluded.v",
        Statement::MetaSet,
    ),
    (
        "INSERT INTO entries (namespace, key, value, origin) VALUES (?1, ?2, ?3, ?4) ON CONFLICT(namespace, key) DO UPDATE \
         SET value = excluded.value, origin = excluded.origin WHERE entries.origin = 1 AND excluded.origin = 0",
        Statement::Insert,
    ),
    (
        "INSERT INTO entries (namespace, key, value, origin) VALUES (?1, ?2, ?3, ?4) ON CONFLICT(namespace, key) DO UPDATE \
         SET value = excluded.value, origin = excluded.origin",
        Statement::Replace,
    ),
    (
        "SELECT value FROM entries WHERE namespace = ?1 AND key = ?2",
        Statement::Select,
    ),
    (
        "SELECT key, value, origin FROM entries WHERE namespace = ?1",
        Statement::Scan,
    ),
    ("DELETE FROM entries WHERE namespace = ?1", Statement::Purge),
    (
        "DELETE FROM entries WHERE namespace = ?1 AND key = ?2",
        Statement::PurgeKey,
    ),
];

const SUMMARY: &str =
    "SELECT namespace, COUNT(*), SUM(length(key) + length(value)) FROM entries GROUP BY namespace ORDER BY namespace";

impl Statement {
    pub(crate) fn of(sql: &str) -> Result<Self> {
        let words: Vec<&str> = sql.split_whitespace().collect();
        let text = words.join(" ");
        let same = |known: &str, statement: Self| match statement {
            Self::Create => text.starts_with(known),
            _ => text == known,
        };
        if text == SUMMARY {
            return Ok(Self::Summary);
        }
        let found = STATEMENTS.iter().find(|(known, statement)| same(known, *statement));
        let unknown = || Error::Error(format!("this store has no statement `{text}`"));
        found.map(|(_, statement)| *statement).ok_or_else(unknown)
    }

    pub(crate) fn execute(self, store: &mut Store, values: Vec<Value>) -> Result<u64> {
        let mut values = Values(values.into_iter());
        match self {
            Self::Create => Ok(0),
            Self::DropEntries => store.change(|_| Some(Change::Clear)),
            Self::MetaSet => {
                let (key, value) = (values.text()?.into_bytes(), values.text()?.into_bytes());
                store.change(|_| Some(Change::set(META, key, value, 0)))
            }
            Self::Insert | Self::Replace => {
                let (space, key, value, origin) = (values.text()?, values.blob()?, values.blob()?, values.integer()?);
                store.change(|entries| {
                    let there = entries.get(&space).and_then(|all| all.get(&key));
                    let free = there.is_none_or(|(_, old)| *old == 1 && origin == 0);
                    (free || self == Self::Replace).then(|| Change::set(&space, key, value, origin))
                })
            }
            Self::Purge => {
                let space = values.text()?;
                store.change(|entries| entries.contains_key(&space).then(|| Change::Purge(space)))
            }
            Self::PurgeKey => {
                let (space, key) = (values.text()?, values.blob()?);
                store.change(|entries| {
                    let there = entries.get(&space).is_some_and(|all| all.contains_key(&key));
                    there.then(|| Change::Remove(space, key))
                })
            }
            Self::MetaGet | Self::Select | Self::Scan | Self::Summary => {
                Err(Error::Error(format!("{self:?} gives rows")))
            }
        }
    }

    pub(crate) fn query(self, store: &mut Store, values: Vec<Value>) -> Result<Vec<Row>> {
        let mut values = Values(values.into_iter());
        let entries = store.entries()?;
        let blob = |bytes: &Vec<u8>| Value::Blob(bytes.clone());
        Ok(match self {
            Self::MetaGet => {
                let key = values.text()?.into_bytes();
                let found = entries.get(META).and_then(|all| all.get(&key));
                let text = |(value, _): &(Vec<u8>, i64)| Value::Text(String::from_utf8_lossy(value).into_owned());
                found.map(|entry| Row(vec![text(entry)])).into_iter().collect()
            }
            Self::Select => {
                let (space, key) = (values.text()?, values.blob()?);
                let found = entries.get(&space).and_then(|all| all.get(&key));
                found.map(|(value, _)| Row(vec![blob(value)])).into_iter().collect()
            }
            Self::Scan => {
                let all = entries.get(&values.text()?);
                let row = |(key, (value, origin)): (&Vec<u8>, &(Vec<u8>, i64))| {
                    Row(vec![blob(key), blob(value), Value::Integer(*origin)])
                };
                all.into_iter().flatten().map(row).collect()
            }
            Self::Summary => {
                let spaces = entries.iter().filter(|(space, _)| *space != META);
                let row = |(space, all): (&String, &std::collections::BTreeMap<Vec<u8>, (Vec<u8>, i64)>)| {
                    let bytes: usize = all.iter().map(|(key, (value, _))| key.len() + value.len()).sum();
                    Row(vec![
                        Value::Text(space.clone()),
                        Value::Integer(all.len() as i64),
                        Value::Integer(bytes as i64),
                    ])
                };
                spaces.map(row).collect()
            }
            other => return Err(Error::Error(format!("{other:?} gives no rows"))),
        })
    }
}

struct Values(std::vec::IntoIter<Value>);

impl Values {
    fn text(&mut self) -> Result<String> {
        match self.0.next() {
            Some(Value::Text(text)) => Ok(text),
            other => Err(Error::Error(format!("a text and not {other:?}"))),
        }
    }

    fn blob(&mut self) -> Result<Vec<u8>> {
        match self.0.next() {
            Some(Value::Blob(bytes)) => Ok(bytes),
            other => Err(Error::Error(format!("bytes and not {other:?}"))),
        }
    }

    fn integer(&mut self) -> Result<i64> {
        match self.0.next() {
            Some(Value::Integer(number)) => Ok(number),
            other => Err(Error::Error(format!("a number and not {other:?}"))),
        }
    }
}
