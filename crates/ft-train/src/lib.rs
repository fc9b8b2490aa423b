//! From a run configuration to a finished run: plan, fit, checkpoint, resume, report.
