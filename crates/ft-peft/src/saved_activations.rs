//! What an adapter adds to what a forward pass leaves for the backward pass.

/// What an adapted module keeps between forward and backward, beside what the plain layer does. Numbers, not bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SavedActivations {
    /// Whether the module's input must stay.
    pub input: bool,
    /// Whether activations of 16 bits are widened to an f32 copy that stays instead of the input.
    pub copies: bool,
    /// Further numbers per token.
    pub per_token: usize,
    /// How many of those are f32 whatever the type of the activations.
    pub wide: usize,
    /// Numbers that do not depend on the tokens, such as a factor that is built from others.
    pub fixed: usize,
    /// Numbers per token that its backward pass needs at once.
    pub passing: usize,
}

impl SavedActivations {
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
