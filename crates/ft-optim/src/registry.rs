//! Configuration enums whose variant is picked by the key `kind`: one line per entry, the first entry is the default.
//!
//! Serde's internally tagged enums demand the tag. Here a table without `kind` means the first entry, so that
//! `optim.lr = 1e-4` alone is a whole `[optim]` section.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, Visitor};
use serde_json::Value;

const KIND: &str = "kind";

/// Declares `pub enum Name: Trait { "tag" | "alias" => Variant(Config), .. }` with serde, a JSON schema, `Default`
/// and `entry()`, the chosen configuration as `&dyn Trait`.
macro_rules! registry {
    (
        $(#[$meta:meta])*
        pub enum $name:ident: $trait:ident {
            $( $(#[$doc:meta])* $tag:literal $(| $alias:literal)* => $variant:ident($config:ty), )+
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, serde::Serialize, schemars::JsonSchema)]
        #[serde(tag = "kind")]
        #[schemars(transform = $crate::registry::Kinds(&[$(&[$tag $(, $alias)*]),+]))]
        pub enum $name {
            $( $(#[$doc])* #[serde(rename = $tag)] $variant($config), )+
        }

        impl $name {
            /// Every value of `kind`.
            pub const KINDS: &'static [&'static str] = &[$($tag),+];

            /// The value of `kind`.
            pub fn kind(&self) -> &'static str {
                match self { $( Self::$variant(_) => $tag, )+ }
            }

            fn entry(&self) -> &dyn $trait {
                match self { $( Self::$variant(config) => config, )+ }
            }
        }

        impl Default for $name {
            fn default() -> Self {
                const MAKE: &[fn() -> $name] = &[$( || $name::$variant(<$config>::default()) ),+];
                MAKE[0]()
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
                #[derive(serde::Deserialize)]
                #[serde(tag = "kind")]
                enum Tagged {
                    $( #[serde(rename = $tag $(, alias = $alias)*)] $variant($config), )+
                }
                let tagged = $crate::registry::with_default_kind(deserializer, Self::KINDS[0])?;
                Ok(match tagged { $( Tagged::$variant(config) => Self::$variant(config), )+ })
            }
        }
    };
}
pub(crate) use registry;

/// Reads `T` from a map, adding `kind = default` when the map has no `kind`.
pub(crate) fn with_default_kind<'de, T, D>(deserializer: D, default: &'static str) -> Result<T, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    let table = Table {
        default,
        marker: PhantomData,
    };
    deserializer.deserialize_map(table)
}

struct Table<T> {
    default: &'static str,
    marker: PhantomData<T>,
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for Table<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a table")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        let keys = Keys {
            map,
            state: Kind::Unseen,
            default: self.default,
        };
        T::deserialize(MapAccessDeserializer::new(keys))
    }
}

#[derive(PartialEq)]
enum Kind {
    Unseen,
    /// The map gave its own.
    Given,
    /// The map ended without one: its key has been handed out, its value has not.
    Added,
    Done,
}

/// A map that ends with the default `kind` when it had none.
struct Keys<A> {
    map: A,
    state: Kind,
    default: &'static str,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Keys<A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        if let Some(key) = self.map.next_key::<String>()? {
            if key == KIND {
                self.state = Kind::Given;
            }
            return seed.deserialize(key.into_deserializer()).map(Some);
        }
        if self.state != Kind::Unseen {
            return Ok(None);
        }
        self.state = Kind::Added;
        seed.deserialize(KIND.into_deserializer()).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        if self.state == Kind::Added {
            self.state = Kind::Done;
            return seed.deserialize(self.default.into_deserializer());
        }
        self.map.next_value_seed(seed)
    }
}

/// The JSON schema's side of `kind`, the names of each alternative: any of them picks it, and only the first alternative does without.
pub(crate) struct Kinds(pub &'static [&'static [&'static str]]);

impl schemars::transform::Transform for Kinds {
    fn transform(&mut self, schema: &mut schemars::Schema) {
        let Some(Value::Array(all)) = schema.get_mut("oneOf") else {
            return;
        };
        for (alternative, names) in all.iter_mut().zip(self.0) {
            if names.len() > 1 {
                alternative["properties"][KIND] = serde_json::json!({ "type": "string", "enum": names });
            }
        }
        if let Some(Value::Array(required)) = all.first_mut().and_then(|first| first.get_mut("required")) {
            required.retain(|key| key != KIND);
        }
    }
}
