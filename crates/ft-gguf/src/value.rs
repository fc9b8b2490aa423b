//! Metadata: typed values by key, in the order they were put.

/// A metadata value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Unsigned number.
    U32(u32),
    /// Float.
    F32(f32),
    /// Yes or no.
    Bool(bool),
    /// Text.
    Text(String),
    /// Texts.
    Texts(Vec<String>),
    /// Floats.
    Floats(Vec<f32>),
    /// Signed numbers.
    Ints(Vec<i32>),
}

impl From<u32> for Value {
    fn from(value: u32) -> Self {
        Value::U32(value)
    }
}

impl From<f32> for Value {
    fn from(value: f32) -> Self {
        Value::F32(value)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Value::Bool(value)
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Value::Text(value.into())
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        Value::Text(value)
    }
}

/// Numbers of the value types in the file.
const U32: u32 = 4;
const I32: u32 = 5;
const F32: u32 = 6;
const BOOL: u32 = 7;
const STRING: u32 = 8;
const ARRAY: u32 = 9;

impl Value {
    /// Type and value as the file holds them.
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Value::U32(value) => put(out, U32, &value.to_le_bytes()),
            Value::F32(value) => put(out, F32, &value.to_le_bytes()),
            Value::Bool(value) => put(out, BOOL, &[u8::from(*value)]),
            Value::Text(value) => {
                put(out, STRING, &[]);
                text(out, value);
            }
            Value::Texts(values) => {
                array(out, STRING, values.len());
                values.iter().for_each(|value| text(out, value));
            }
            Value::Floats(values) => {
                array(out, F32, values.len());
                out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            }
            Value::Ints(values) => {
                array(out, I32, values.len());
                out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            }
        }
    }
}

fn put(out: &mut Vec<u8>, kind: u32, bytes: &[u8]) {
    out.extend(kind.to_le_bytes());
    out.extend(bytes);
}

fn array(out: &mut Vec<u8>, kind: u32, len: usize) {
    put(out, ARRAY, &kind.to_le_bytes());
    out.extend((len as u64).to_le_bytes());
}

/// A text with its length in bytes before it.
pub(crate) fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// The metadata of a file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    entries: Vec<(String, Value)>,
}

impl Metadata {
    /// Sets a key.
    pub fn put(&mut self, key: impl Into<String>, value: impl Into<Value>) {
        let (key, value) = (key.into(), value.into());
        match self.entries.iter_mut().find(|(known, _)| *known == key) {
            Some((_, present)) => *present = value,
            None => self.entries.push((key, value)),
        }
    }

    /// Sets a key where there is a value.
    pub fn put_some(&mut self, key: &str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.put(key, value);
        }
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.entries
            .iter()
            .find(|(known, _)| known == key)
            .map(|(_, value)| value)
    }

    /// Takes in the entries of another.
    pub fn extend(&mut self, other: Metadata) {
        other.entries.into_iter().for_each(|(key, value)| self.put(key, value));
    }

    /// Number of keys.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        for (key, value) in &self.entries {
            text(out, key);
            value.encode(out);
        }
    }
}
