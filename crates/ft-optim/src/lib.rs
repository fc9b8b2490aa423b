//! Optimizers with PyTorch's formulas, parameter groups, learning-rate schedules and global-norm clipping.
