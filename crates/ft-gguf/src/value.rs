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
    /// A whole number that is negative or large.
    I64(i64),
    /// Yes or no, several times.
    Bools(Vec<bool>),
}

impl Value {
    /// A whole number of 0 or more.
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Value::U32(value) => Some(u64::from(*value)),
            Value::I64(value) => u64::try_from(*value).ok(),
            _ => None,
        }
    }

    /// A finite number. Floats are the shortest decimals that round to them, which is what was written.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Value::U32(value) => Some(f64::from(*value)),
            Value::I64(value) => Some(*value as f64),
            Value::F32(value) => value.to_string().parse().ok().filter(|number: &f64| number.is_finite()),
            _ => None,
        }
    }

    /// Yes or no.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// A text.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::Text(value) => Some(value),
            _ => None,
        }
    }
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
pub(crate) const U8: u32 = 0;
pub(crate) const I8: u32 = 1;
pub(crate) const U16: u32 = 2;
pub(crate) const I16: u32 = 3;
pub(crate) const U32: u32 = 4;
pub(crate) const I32: u32 = 5;
pub(crate) const F32: u32 = 6;
pub(crate) const BOOL: u32 = 7;
pub(crate) const STRING: u32 = 8;
pub(crate) const ARRAY: u32 = 9;
pub(crate) const U64: u32 = 10;
pub(crate) const I64: u32 = 11;
pub(crate) const F64: u32 = 12;

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
            Value::I64(value) => put(out, I64, &value.to_le_bytes()),
            Value::Bools(values) => {
                array(out, BOOL, values.len());
                out.extend(values.iter().map(|value| u8::from(*value)));
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

    /// Adds a key that is not there yet.
    pub(crate) fn append(&mut self, key: String, value: Value) {
        self.entries.push((key, value));
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

    /// Keys and values in turn.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
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
