//! How a layer is changed: adapter slots, attach, fold, and PEFT-compatible adapter files.
