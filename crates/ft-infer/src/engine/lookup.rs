//! Speculative decoding by n-grams (prompt lookup decoding, Saxena 2023): what followed the last tokens where they stood before is
//! computed together with the next token, and stays as far as it is what the model says.
//!
//! A step of few rows takes the time in which the weights are read, so that tokens that turn out wrong cost little. Each token is
//! chosen from the logits that it would have been chosen from without: answers are the same.

/// Longest and shortest run of tokens that is looked for.
const LONGEST: usize = 4;
const SHORTEST: usize = 2;

/// How many tokens a request speculates on: more while they turn out right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reach(usize);

impl Reach {
    /// At first.
    pub const START: Self = Self(2);

    /// Tokens to speculate on, of at most `most`.
    pub fn of(self, most: usize) -> usize {
        self.0.min(most)
    }

    /// After `right` of `drafted` tokens were.
    pub fn after(self, drafted: usize, right: usize) -> Self {
        match right == drafted {
            true => Self((self.0 + 2).min(16)),
            false => Self((self.0 - usize::from(right == 0)).max(1)),
        }
    }
}

/// The `most` tokens that follow the latest earlier place of the longest run of tokens that `tokens` ends with, going on with what
/// is repeated; none where there is no such place.
pub(super) fn follow(tokens: &[u32], most: usize) -> Vec<u32> {
    if most == 0 {
        return Vec::new();
    }
    let place = (SHORTEST..=LONGEST.min(tokens.len())).rev().find_map(|len| {
        let (before, last) = tokens.split_at(tokens.len() - len);
        // The run may overlap its earlier place, but something follows that.
        let starts = (0..before.len()).rev();
        starts
            .map(|start| start + len)
            .find(|end| tokens[end - len..*end] == *last)
    });
    let following = |from: usize| tokens[from..].iter().copied().cycle().take(most).collect();
    place.map_or_else(Vec::new, following)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_run_and_its_latest_place_win() {
        //            0  1  2  3  4  5  6  7  8  9 10
        let tokens = [1, 2, 3, 9, 2, 3, 7, 1, 2, 3];
        assert_eq!(follow(&tokens, 2), [9, 2], "1 2 3 comes before 2 3");
        assert_eq!(follow(&tokens[1..], 2), [7, 1], "of 2 3 and 3 9 2 3, the latest");
        let nothing = |tokens: &[u32], most| follow(tokens, most).is_empty();
        assert!(nothing(&tokens, 0) && nothing(&[5, 6, 7], 3) && nothing(&[5], 3));
    }

    #[test]
    fn a_repetition_goes_on() {
        assert_eq!(follow(&[4, 4, 4, 4], 3), [4, 4, 4]);
        assert_eq!(follow(&[1, 2, 1, 2, 1, 2], 5), [1, 2, 1, 2, 1]);
    }

    #[test]
    fn reach_grows_with_success_and_never_ends() {
        let mut reach = Reach::START;
        (0..20).for_each(|_| reach = reach.after(2, 2));
        assert_eq!((reach.of(7), reach.of(100)), (7, 16));
        (0..40).for_each(|_| reach = reach.after(3, 0));
        assert_eq!(reach.of(7), 1);
        assert_eq!(reach.after(4, 1), reach, "some were right");
    }
}
