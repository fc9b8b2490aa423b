//! What is wrong with a number among an objective's options.

/// A number above 0.
pub fn positive(key: &str, value: f64) -> Vec<String> {
    unless(value.is_finite() && value > 0.0, key, "must be a number above 0")
}

/// A number of at least 0.
pub fn at_least_zero(key: &str, value: f64) -> Vec<String> {
    unless(value.is_finite() && value >= 0.0, key, "must be a number of at least 0")
}

/// A number from 0 to below `limit`.
pub fn below(key: &str, value: f64, limit: f64) -> Vec<String> {
    let message = format!("must be a number of at least 0 and below {limit}");
    unless((0.0..limit).contains(&value), key, &message)
}

/// A number from 0 to 1.
pub fn share(key: &str, value: f64) -> Vec<String> {
    unless((0.0..=1.0).contains(&value), key, "must be a number from 0 to 1")
}

fn unless(right: bool, key: &str, message: &str) -> Vec<String> {
    if right {
        return Vec::new();
    }
    vec![format!("objective.{key}: {message}")]
}
