//! Near duplicates: MinHash over word shingles (Broder 1997), found by banding (Leskovec, Rajaraman, Ullman: Mining of Massive
//! Datasets, chapter 3).
//!
//! ```text
//! text ─> words ─> runs of 5 words ─> set of hashes ─> the least of each of 128 permutations ─> bands ─> candidates ─> Jaccard
//! ```
//!
//! Bands have as many rows as still let a pair at the threshold through with a probability of 999 in 1000. What shares a band is a
//! candidate, and the similarity of candidates is counted exactly: nothing is called near that is not. The hashes are fixed, so the
//! same texts in the same order give the same answer everywhere.

use std::collections::HashMap;

use ft_seed::{fnv1a, mix, sub_seed};
use rayon::prelude::*;

use crate::duplicates::Repeat;
use crate::error::{Error, Result};

/// Words in a shingle; a shorter text is one shingle.
const SHINGLE: usize = 5;

/// Hashes in a signature.
const HASHES: usize = 128;

/// Most pairs at the threshold that may be missed, as a share.
const MISSED: f64 = 1e-3;

/// The smallest threshold: below it, everything would have to be compared with everything.
const LEAST: f64 = 0.2;

/// A text with what keeps it apart from others of the same words: only texts of one group are compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// The words.
    pub text: String,
    /// The group.
    pub group: u64,
}

/// The texts whose shingles have a Jaccard similarity of `threshold` or more with an earlier text that is not itself such a repeat.
/// Texts without words are none.
///
/// # Errors
/// [`Error::Source`] for a threshold that is not from 0.2 to 1.
pub fn near_duplicates(texts: &[Text], threshold: f64) -> Result<Vec<Repeat>> {
    if !(LEAST..=1.0).contains(&threshold) {
        return Err(Error::Source(format!(
            "a similarity of {threshold} for near duplicates; it can be from {LEAST} to 1"
        )));
    }
    let rows = rows(threshold);
    let seeds = seeds();
    let prepare = |text: &Text| {
        let set = shingles(text);
        let bands = bands(&signature(&set, &seeds), rows);
        (set, bands)
    };
    let prepared: Vec<(Vec<u64>, Vec<u64>)> = texts.par_iter().map(prepare).collect();
    let mut buckets: HashMap<u64, Vec<usize>> = HashMap::new();
    let mut found = Vec::new();
    for (index, (set, bands)) in prepared.iter().enumerate().filter(|(_, (set, _))| !set.is_empty()) {
        let mut candidates: Vec<usize> = bands
            .iter()
            .flat_map(|b| buckets.get(b).into_iter().flatten().copied())
            .collect();
        candidates.sort_unstable();
        candidates.dedup();
        let near = candidates
            .into_iter()
            .find(|&other| jaccard(set, &prepared[other].0) >= threshold);
        match near {
            Some(of) => found.push(Repeat { index, of }),
            None => bands
                .iter()
                .for_each(|band| buckets.entry(*band).or_default().push(index)),
        }
    }
    Ok(found)
}

/// Rows of a band: the most with which no more than [`MISSED`] of the pairs at the threshold share no band.
fn rows(threshold: f64) -> usize {
    let missed = |rows: &usize| {
        let bands = (HASHES / rows) as f64;
        (1.0 - threshold.powi(*rows as i32)).powf(bands) <= MISSED
    };
    (1..=HASHES / 4).rev().find(missed).unwrap_or(1)
}

/// The hashes of its runs of words, sorted, each once.
fn shingles(text: &Text) -> Vec<u64> {
    let words: Vec<u64> = words(&text.text).iter().map(|word| fnv1a(word.as_bytes())).collect();
    let hash = |words: &[u64]| words.iter().fold(mix(text.group), |hash, word| mix(hash ^ word));
    let mut set: Vec<u64> = match words.len() {
        0 => vec![],
        n if n < SHINGLE => vec![hash(&words)],
        _ => words.windows(SHINGLE).map(hash).collect(),
    };
    set.sort_unstable();
    set.dedup();
    set
}

/// Runs of letters and digits in lower case; characters of scripts without spaces are words of their own.
fn words(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    for letter in text.chars().flat_map(char::to_lowercase) {
        let alone = matches!(letter, '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{9fff}' | '\u{20000}'..='\u{3ffff}');
        if alone {
            words.extend([letter.to_string(), String::new()]);
        } else if !letter.is_alphanumeric() {
            words.push(String::new());
        } else if let Some(word) = words.last_mut() {
            word.push(letter);
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

fn seeds() -> Vec<u64> {
    (0..HASHES).map(|i| sub_seed(i as u64, "minhash")).collect()
}

/// The least hash under each permutation; two sets agree in a place with the probability of their Jaccard similarity.
fn signature(set: &[u64], seeds: &[u64]) -> Vec<u64> {
    let least = |seed: &u64| set.iter().map(|hash| mix(hash ^ seed)).min().unwrap_or(u64::MAX);
    seeds.iter().map(least).collect()
}

/// A hash for each band of `rows` places, different from those of other bands.
fn bands(signature: &[u64], rows: usize) -> Vec<u64> {
    let band =
        |(index, places): (usize, &[u64])| places.iter().fold(mix(index as u64), |hash, place| mix(hash ^ place));
    signature.chunks_exact(rows).enumerate().map(band).collect()
}

/// Of two sorted sets.
fn jaccard(a: &[u64], b: &[u64]) -> f64 {
    let (mut i, mut j, mut both) = (0, 0, 0);
    while i < a.len() && j < b.len() {
        match a[i].cmp(&b[j]) {
            std::cmp::Ordering::Less => i += 1,
            std::cmp::Ordering::Greater => j += 1,
            std::cmp::Ordering::Equal => (i, j, both) = (i + 1, j + 1, both + 1),
        }
    }
    match a.len() + b.len() - both {
        0 => 0.0,
        all => both as f64 / all as f64,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use ft_seed::{below, stream};

    use super::*;

    fn text(text: &str) -> Text {
        Text {
            text: text.into(),
            group: 0,
        }
    }

    fn pairs(texts: &[&str], threshold: f64) -> Vec<(usize, usize)> {
        let texts: Vec<Text> = texts.iter().map(|t| text(t)).collect();
        let found = near_duplicates(&texts, threshold).unwrap();
        found.iter().map(|r| (r.index, r.of)).collect()
    }

    #[test]
    fn signatures_estimate_the_jaccard_similarity_of_random_sets() {
        let mut rng = stream(1, "sets");
        let seeds = seeds();
        let (mut off, cases) = (0.0, 300);
        for _ in 0..cases {
            let (universe, size) = (20 + below(&mut rng, 200), 1 + below(&mut rng, 100));
            let mut set = || -> BTreeSet<u64> { (0..size).map(|_| mix(below(&mut rng, universe) as u64)).collect() };
            let (a, b) = (set(), set());
            let exact = a.intersection(&b).count() as f64 / a.union(&b).count() as f64;
            let [a, b] = [a, b].map(|set| set.into_iter().collect::<Vec<u64>>());
            assert!((jaccard(&a, &b) - exact).abs() < 1e-12);
            let (x, y) = (signature(&a, &seeds), signature(&b, &seeds));
            let estimate = x.iter().zip(&y).filter(|(x, y)| x == y).count() as f64 / HASHES as f64;
            let deviation = (exact * (1.0 - exact) / HASHES as f64).sqrt();
            assert!(
                (estimate - exact).abs() <= 5.0 * deviation + 1e-12,
                "{estimate} for {exact}"
            );
            off += estimate - exact;
        }
        assert!((off / f64::from(cases)).abs() < 0.01, "no bias: {off}");
    }

    #[test]
    fn bands_find_what_comparing_all_pairs_finds() {
        let mut rng = stream(2, "texts");
        let mut texts: Vec<Vec<usize>> = vec![];
        for i in 0..300 {
            let mut words: Vec<usize> = match i % 3 {
                0 => (0..40).map(|_| below(&mut rng, 5000)).collect(),
                _ => texts[i / 3 * 3].clone(),
            };
            for _ in 0..below(&mut rng, 3) {
                let at = below(&mut rng, 40);
                words[at] = below(&mut rng, 5000);
            }
            texts.push(words);
        }
        let join = |words: &Vec<usize>| text(&words.iter().map(usize::to_string).collect::<Vec<_>>().join(" "));
        let texts: Vec<Text> = texts.iter().map(join).collect();
        let sets: Vec<Vec<u64>> = texts.iter().map(shingles).collect();
        for threshold in [0.5, 0.7, 0.8, 1.0] {
            let mut kept: Vec<usize> = vec![];
            let mut expected = vec![];
            for (index, set) in sets.iter().enumerate() {
                match kept.iter().find(|&&other| jaccard(set, &sets[other]) >= threshold) {
                    Some(&of) => expected.push(Repeat { index, of }),
                    None => kept.push(index),
                }
            }
            assert!(expected.len() > 20, "{threshold}: {}", expected.len());
            assert_eq!(near_duplicates(&texts, threshold).unwrap(), expected, "{threshold}");
        }
    }

    #[test]
    fn rows_miss_few_pairs_at_the_threshold() {
        assert_eq!([0.2, 0.5, 0.8, 1.0].map(rows), [1, 2, 5, 32]);
    }

    #[test]
    fn words_have_no_case_and_no_punctuation() {
        assert_eq!(
            words("Zürich, 3.5 \u{6771}\u{4eac}x"),
            ["zürich", "3", "5", "\u{6771}", "\u{4eac}", "x"]
        );
        let long = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen";
        let shout = long.to_uppercase().replace(' ', ", ");
        assert_eq!(
            pairs(&[long, "something else", &shout, "Something else!", "", ""], 0.8),
            [(2, 0), (3, 1)]
        );
        assert_eq!(pairs(&[long, &long.replace("sixteen", "seventeen")], 0.8), [(1, 0)]);
        assert_eq!(pairs(&[long, &long.replace("eight", "nine")], 0.8), []);
        let apart = [text(long), Text { group: 1, ..text(long) }];
        assert_eq!(near_duplicates(&apart, 0.8).unwrap(), []);
    }

    #[test]
    fn thresholds_are_checked() {
        for threshold in [0.0, 0.1, 1.1, f64::NAN] {
            assert!(
                near_duplicates(&[], threshold)
                    .unwrap_err()
                    .to_string()
                    .contains("from 0.2 to 1")
            );
        }
    }
}
