//! What an adapter adds to what a forward pass leaves for the backward pass.

/// What an adapted place keeps between forward and backward, beside what the plain layer does. Numbers, not bytes: they are
/// f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keeps {
    /// Whether the place's input must stay.
    pub input: bool,
    /// Further numbers per token.
    pub per_token: usize,
    /// Numbers that do not depend on the tokens, such as a factor that is built from others.
    pub fixed: usize,
    /// Numbers per token that its backward pass needs at once.
    pub passing: usize,
}

impl Keeps {
    /// The input and nothing else.
    pub fn input() -> Self {
        Self {
            input: true,
            ..Self::default()
        }
    }

    /// The input and so many numbers per token.
    pub fn input_and(per_token: usize) -> Self {
        Self {
            per_token,
            ..Self::input()
        }
    }
}
