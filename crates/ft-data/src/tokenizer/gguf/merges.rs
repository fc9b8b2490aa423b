//! SentencePiece's scores as the list of merges that puts the same tokens together.

use std::cmp::Ordering;
use std::collections::HashMap;

/// Every way to make a token of two others, best score first; between equal scores as transformers orders them (`generate_merges`): longer left
/// parts first, then longer right ones, then by token and the ids of the parts. `None` in `scores` is a token that is not merged.
pub(super) fn of_scores(tokens: &[String], scores: &[Option<f32>]) -> Vec<(String, String)> {
    let merged = || tokens.iter().zip(scores).enumerate();
    let ids: HashMap<&str, usize> = merged()
        .filter_map(|(id, (token, score))| score.map(|_| (token.as_str(), id)))
        .collect();
    let mut found: Vec<(f32, [usize; 2], &str, &str)> = Vec::new();
    for (_, (token, score)) in merged() {
        let Some(score) = score else { continue };
        let first = found.len();
        for (at, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(at);
            if ids.contains_key(left) && ids.contains_key(right) {
                let length = |part: &str| part.chars().count();
                found.push((*score, [length(left), length(right)], left, right));
            }
        }
        found[first..].sort_by_key(|(_, _, left, right)| (ids[left], ids[right]));
    }
    found.sort_by(|a, b| {
        let scores = b.0.partial_cmp(&a.0).unwrap_or(Ordering::Equal);
        scores.then(b.1.cmp(&a.1))
    });
    found
        .into_iter()
        .map(|(_, _, left, right)| (left.into(), right.into()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn best_scores_come_first_and_parts_must_be_tokens() {
        let tokens = ["<s>", "a", "b", "c", "ab", "bc", "abc", "ad"].map(String::from);
        let scores = [
            None,
            Some(-9.0),
            Some(-9.0),
            Some(-9.0),
            Some(-2.0),
            Some(-1.0),
            Some(-3.0),
            Some(0.0),
        ];
        let merges = of_scores(&tokens, &scores);
        let merges: Vec<_> = merges.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        assert_eq!(merges, [("b", "c"), ("a", "b"), ("ab", "c"), ("a", "bc")]);
    }
}
