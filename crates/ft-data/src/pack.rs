//! `data.pack`: which samples share a row.
//!
//! ```text
//! best fit     samples, the longest of a window first, each into the fullest row that it fits into (Johnson 1973)
//! shared       neighbours share a row; of few numbers of rows that with the least padding
//! ```

use std::collections::BTreeSet;
use std::fmt;

use ft_seed::{shuffle, stream, sub_seed};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error, Unexpected, Visitor};
use serde::{Serialize, Serializer};

/// The values of `data.pack`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pack {
    /// Where samples are short: the samples of a forward pass share its rows, and steps stay what they are.
    #[default]
    Auto,
    /// Rows of `data.max_length` are filled from all samples.
    On,
    /// Every sample has a row of its own.
    Off,
}

/// Samples that are packed at a time: enough to leave no gap, few enough for any data set.
const WINDOW: usize = 8192;

/// Rows of at most `capacity` tokens for samples of these lengths: every index once. A sample that is longer has a row of its own.
/// A function of its arguments alone.
///
/// With `shuffled`, a seed, samples are drawn at random into windows, packed best fit within each, and the rows are shuffled; without
/// it, samples stay in order.
///
/// ```
/// let rows = ft_data::pack_rows(&[6, 5, 4, 3, 2], 10, Some(42));
/// let tokens = rows.iter().map(|row| row.iter().map(|i| [6, 5, 4, 3, 2][*i]).sum::<usize>());
/// assert_eq!(tokens.collect::<Vec<_>>(), [10, 10]);
/// assert_eq!(ft_data::pack_rows(&[6, 5, 4, 3, 2], 10, None), [vec![0], vec![1, 2], vec![3, 4]]);
/// ```
pub fn pack_rows(lengths: &[usize], capacity: usize, shuffled: Option<u64>) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    let Some(seed) = shuffled else {
        return in_order(&order, lengths, capacity);
    };
    let mut rng = stream(sub_seed(seed, "data"), "pack");
    shuffle(&mut order, &mut rng);
    let mut rows: Vec<Vec<usize>> = order
        .chunks_mut(WINDOW)
        .flat_map(|window| {
            window.sort_by_key(|i| std::cmp::Reverse(lengths[*i]));
            best_fit(window, lengths, capacity)
        })
        .collect();
    shuffle(&mut rows, &mut rng);
    rows
}

fn best_fit(order: &[usize], lengths: &[usize], capacity: usize) -> Vec<Vec<usize>> {
    let mut rows: Vec<Vec<usize>> = Vec::new();
    // What is left of every row.
    let mut room: BTreeSet<(usize, usize)> = BTreeSet::new();
    for sample in order {
        let length = lengths[*sample];
        let fullest = room.range((length, 0)..).next().copied();
        let (left, row) = match fullest {
            Some(found) => {
                room.remove(&found);
                found
            }
            None => {
                rows.push(Vec::new());
                (capacity.max(length), rows.len() - 1)
            }
        };
        rows[row].push(*sample);
        room.insert((left - length, row));
    }
    rows
}

fn in_order(order: &[usize], lengths: &[usize], capacity: usize) -> Vec<Vec<usize>> {
    let mut rows: Vec<Vec<usize>> = Vec::new();
    let mut left = 0;
    for sample in order {
        let length = lengths[*sample];
        match rows.last_mut() {
            Some(row) if length <= left => row.push(*sample),
            _ => {
                rows.push(vec![*sample]);
                left = capacity.max(length);
            }
        }
        left -= length;
    }
    rows
}

/// Rows of at most `capacity` tokens that hold the samples `order` in their order and make a rectangle with little padding: of few
/// numbers of rows that with the fewest cells. It never has more cells than rows of one sample each.
pub fn share_rows(order: &[usize], lengths: &[usize], capacity: usize) -> Vec<Vec<usize>> {
    let least = in_order(order, lengths, capacity);
    let counts = (least.len()..2 * least.len()).chain([order.len()]);
    let layouts = counts.map(|count| even(order, lengths, capacity, count));
    let cells = |rows: &Vec<Vec<usize>>| rows.len() * rows.iter().map(|row| tokens(row, lengths)).max().unwrap_or(0);
    // The first of equals.
    layouts.min_by_key(cells).unwrap_or(least)
}

/// At most `count` rows, at least those that `capacity` needs, with the least width.
fn even(order: &[usize], lengths: &[usize], capacity: usize, count: usize) -> Vec<Vec<usize>> {
    let longest = order.iter().map(|i| lengths[*i]).max().unwrap_or(0);
    let (mut low, mut high) = (
        longest.max(tokens(order, lengths).div_ceil(count.max(1))),
        capacity.max(longest),
    );
    while low < high {
        let middle = low + (high - low) / 2;
        match in_order(order, lengths, middle).len() <= count {
            true => high = middle,
            false => low = middle + 1,
        }
    }
    in_order(order, lengths, high)
}

fn tokens(row: &[usize], lengths: &[usize]) -> usize {
    row.iter().map(|i| lengths[*i]).sum()
}

impl fmt::Display for Pack {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Pack::Auto => "\"auto\"",
            Pack::On => "true",
            Pack::Off => "false",
        })
    }
}

impl Serialize for Pack {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Pack::Auto => serializer.serialize_str("auto"),
            Pack::On => serializer.serialize_bool(true),
            Pack::Off => serializer.serialize_bool(false),
        }
    }
}

impl<'de> Deserialize<'de> for Pack {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Typed)
    }
}

struct Typed;

impl Visitor<'_> for Typed {
    type Value = Pack;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("true, false, or \"auto\"")
    }

    fn visit_bool<E: Error>(self, on: bool) -> Result<Pack, E> {
        Ok(if on { Pack::On } else { Pack::Off })
    }

    fn visit_str<E: Error>(self, word: &str) -> Result<Pack, E> {
        match word {
            "auto" => Ok(Pack::Auto),
            other => Err(E::invalid_value(Unexpected::Str(other), &self)),
        }
    }
}

impl JsonSchema for Pack {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Pack".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [
            { "type": "boolean", "description": "fill rows of data.max_length, or give every sample its own" },
            { "const": "auto", "description": "share rows where samples are short" }
        ]})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(count: usize) -> Vec<usize> {
        // Like short prompts with answers: 20 to 140 tokens.
        (0..count).map(|i| 20 + (i * 7919) % 121).collect()
    }

    fn filled(rows: &[Vec<usize>], lengths: &[usize], capacity: usize) -> f64 {
        lengths.iter().sum::<usize>() as f64 / (rows.len() * capacity) as f64
    }

    #[test]
    fn every_sample_once_in_rows_that_are_full_and_never_too_long() {
        let lengths = lengths(20_000);
        let packed = pack_rows(&lengths, 1024, Some(7));
        let mut seen: Vec<usize> = packed.iter().flatten().copied().collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..20_000).collect::<Vec<_>>());
        assert!(packed.iter().all(|row| tokens(row, &lengths) <= 1024));
        let share = filled(&packed, &lengths, 1024);
        assert!(share > 0.99, "{share}");
    }

    #[test]
    fn the_same_seed_gives_the_same_rows_and_another_seed_others() {
        let lengths = lengths(500);
        assert_eq!(pack_rows(&lengths, 256, Some(1)), pack_rows(&lengths, 256, Some(1)));
        assert_ne!(pack_rows(&lengths, 256, Some(1)), pack_rows(&lengths, 256, Some(2)));
    }

    #[test]
    fn samples_that_are_too_long_and_samples_of_one_token_have_their_place() {
        let rows = pack_rows(&[12, 1, 10, 1, 1, 9], 10, Some(3));
        let mut sorted: Vec<Vec<usize>> = rows
            .into_iter()
            .map(|mut row| {
                row.sort_unstable();
                row
            })
            .collect();
        sorted.sort();
        let alone = [vec![0], vec![2]];
        assert!(alone.iter().all(|row| sorted.contains(row)), "{sorted:?}");
        assert_eq!(sorted.len(), 4, "12, 10, 9 + 1, 1 + 1: {sorted:?}");
        assert_eq!(pack_rows(&[], 10, Some(3)), Vec::<Vec<usize>>::new());
    }

    #[test]
    fn shared_rows_keep_the_order_and_share_it_out() {
        let lengths = [4, 4, 4, 4, 4, 4];
        let order: Vec<usize> = (0..6).collect();
        assert_eq!(share_rows(&order, &lengths, 100), [vec![0, 1, 2, 3, 4, 5]]);
        assert_eq!(share_rows(&order, &lengths, 20), [vec![0, 1, 2], vec![3, 4, 5]]);
        assert_eq!(share_rows(&order[..1], &lengths, 2), [vec![0]]);
        assert_eq!(share_rows(&[], &lengths, 2), Vec::<Vec<usize>>::new());
        let alike = [80; 16];
        let order: Vec<usize> = (0..16).collect();
        let even = share_rows(&order, &alike, 512);
        assert_eq!(
            even.iter().map(Vec::len).collect::<Vec<_>>(),
            [4; 4],
            "three rows would be less even"
        );
        let lengths = self::lengths(64);
        let order: Vec<usize> = (0..64).collect();
        let even = share_rows(&order, &lengths, 1024);
        assert_eq!(even.concat(), order);
        let widest = even.iter().map(|row| tokens(row, &lengths)).max().unwrap();
        assert!(filled(&even, &lengths, widest) > 0.95);
    }

    #[test]
    fn the_key_takes_three_values() {
        let parse = |text: &str| serde_json::from_str::<Pack>(text);
        for (text, pack) in [("\"auto\"", Pack::Auto), ("true", Pack::On), ("false", Pack::Off)] {
            assert_eq!(parse(text).unwrap(), pack);
            assert_eq!(serde_json::to_string(&pack).unwrap(), text);
            assert_eq!(pack.to_string(), text);
        }
        assert!(
            parse("\"on\"")
                .unwrap_err()
                .to_string()
                .contains("true, false, or \"auto\"")
        );
    }
}
