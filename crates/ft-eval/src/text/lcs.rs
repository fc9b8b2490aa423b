//! Longest common subsequences.

/// Length of the longest common subsequence; one row of the table at a time.
pub(crate) fn length<T: PartialEq>(a: &[T], b: &[T]) -> usize {
    let mut row = vec![0; b.len() + 1];
    a.iter().for_each(|x| next_row(&mut row, x, b, |_, _, _| ()));
    row[b.len()]
}

/// Indices into `a` of one longest common subsequence, in descending order: that which a walk from the end finds when it goes
/// back in `b` only where this keeps more.
pub(crate) fn indices<T: PartialEq>(a: &[T], b: &[T]) -> Vec<usize> {
    let mut back_in_b = Bits::new(a.len() * b.len());
    let mut row = vec![0; b.len() + 1];
    for (i, x) in a.iter().enumerate() {
        next_row(&mut row, x, b, |j, left, above| {
            if left > above {
                back_in_b.set(i * b.len() + j);
            }
        });
    }
    let (mut i, mut j) = (a.len(), b.len());
    let mut found = Vec::new();
    while i > 0 && j > 0 {
        if a[i - 1] == b[j - 1] {
            found.push(i - 1);
            (i, j) = (i - 1, j - 1);
        } else if back_in_b.get((i - 1) * b.len() + j - 1) {
            j -= 1;
        } else {
            i -= 1;
        }
    }
    found
}

/// Turns the row of the table for what precedes `x` into the row with it; `see` gets every column with its neighbours.
fn next_row<T: PartialEq>(row: &mut [usize], x: &T, b: &[T], mut see: impl FnMut(usize, usize, usize)) {
    let mut diagonal = 0;
    for (j, y) in b.iter().enumerate() {
        let (left, above) = (row[j], row[j + 1]);
        see(j, left, above);
        row[j + 1] = if x == y { diagonal + 1 } else { above.max(left) };
        diagonal = above;
    }
}

struct Bits(Vec<u64>);

impl Bits {
    fn new(count: usize) -> Self {
        Self(vec![0; count.div_ceil(64)])
    }

    fn set(&mut self, at: usize) {
        self.0[at / 64] |= 1 << (at % 64);
    }

    fn get(&self, at: usize) -> bool {
        self.0[at / 64] >> (at % 64) & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_indices_as_the_length_says() {
        for (a, b, expected) in [
            ("abcbdab", "bdcaba", 4),
            ("", "ab", 0),
            ("aaa", "aa", 2),
            ("xyz", "abc", 0),
        ] {
            let (a, b) = (a.as_bytes(), b.as_bytes());
            let found = indices(a, b);
            assert_eq!((length(a, b), found.len()), (expected, expected));
            assert!(found.iter().rev().is_sorted());
            let mut rest = b.iter();
            assert!(found.iter().rev().all(|i| rest.any(|y| *y == a[*i])));
        }
    }
}
