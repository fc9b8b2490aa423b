//! The weight of a convolution of each channel by itself: `[channels, 1, taps]` in checkpoints, `[channels, taps]` here.

const NAME: &str = ".conv1d.weight";

/// The shape of a tensor of a checkpoint as it is here.
pub(crate) fn flatten(name: &str, shape: &mut Vec<usize>) {
    if name.ends_with(NAME) && shape.len() == 3 && shape[1] == 1 {
        shape.remove(1);
    }
}

/// The shape under which a tensor is written.
pub(crate) fn stored(name: &str, mut shape: Vec<usize>) -> Vec<usize> {
    if name.ends_with(NAME) && shape.len() == 2 {
        shape.insert(1, 1);
    }
    shape
}
