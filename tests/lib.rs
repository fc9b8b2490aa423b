//! Integration tests of the workspace live in `it/`, one binary.
