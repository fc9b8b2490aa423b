//! A crate uses only the crates above it in the picture of `ARCHITECTURE.md`.

use serde_json::Value;

/// Every crate of the workspace and the crates it may use. `None`: any of them.
const MAY_USE: &[(&str, Option<&[&str]>)] = &[
    ("ft-seed", Some(&[])),
    ("ft-ranks", Some(&[])),
    ("ft-kernels", Some(&[])),
    ("ft-quant", Some(&["ft-kernels"])),
    ("ft-peft", Some(&["ft-seed", "ft-kernels", "ft-quant"])),
    ("ft-gguf", Some(&[])),
    (
        "ft-model",
        Some(&["ft-seed", "ft-kernels", "ft-quant", "ft-peft", "ft-gguf"]),
    ),
    ("ft-data", Some(&["ft-seed", "ft-gguf"])),
    ("ft-optim", Some(&["ft-kernels", "ft-quant"])),
    (
        "ft-infer",
        // ft-embedded: for the example.
        Some(&[
            "ft-kernels",
            "ft-quant",
            "ft-peft",
            "ft-model",
            "ft-data",
            "ft-embedded",
        ]),
    ),
    (
        "ft-eval",
        Some(&["ft-kernels", "ft-quant", "ft-peft", "ft-model", "ft-data", "ft-infer"]),
    ),
    (
        "ft-train",
        Some(&[
            "ft-ranks",
            "ft-kernels",
            "ft-quant",
            "ft-peft",
            "ft-model",
            "ft-data",
            "ft-infer",
            "ft-eval",
            "ft-optim",
            // For the example.
            "ft-embedded",
        ]),
    ),
    ("ft-serve", Some(&["ft-data", "ft-infer"])),
    ("ft-embedded", Some(&["ft-data"])),
    ("ft-cli", None),
    ("ft-bench", None),
    ("ft-tests", None),
    ("xtask", Some(&[])),
];

/// `metadata` is what `cargo metadata --no-deps` prints. Dev and build dependencies count as well.
pub fn check(metadata: &str) -> Result<Vec<String>, String> {
    let metadata: Value = serde_json::from_str(metadata).map_err(|e| format!("cargo metadata: {e}"))?;
    let packages = metadata["packages"].as_array().ok_or("cargo metadata: no packages")?;
    Ok(packages.iter().flat_map(check_package).collect())
}

fn check_package(package: &Value) -> Vec<String> {
    let name = package["name"].as_str().unwrap_or_default();
    let Some((_, allowed)) = MAY_USE.iter().find(|(known, _)| *known == name) else {
        return vec![format!(
            "{name}: new crate; give it a line in xtask/src/tidy/arrows.rs and ARCHITECTURE.md"
        )];
    };
    let Some(allowed) = allowed else { return Vec::new() };
    let used = package["dependencies"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|d| d["name"].as_str());
    used.filter(|used| MAY_USE.iter().any(|(known, _)| known == used) && !allowed.contains(used))
        .map(|used| format!("{name} uses {used}: arrows only point up the list in ARCHITECTURE.md"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(name: &str, dependencies: &[&str]) -> String {
        let dependencies: Vec<_> = dependencies.iter().map(|d| serde_json::json!({ "name": d })).collect();
        serde_json::json!({ "packages": [{ "name": name, "dependencies": dependencies }] }).to_string()
    }

    #[test]
    fn up_is_fine_and_outside_crates_do_not_count() {
        assert!(
            check(&metadata("ft-model", &["ft-peft", "ft-kernels", "serde"]))
                .unwrap()
                .is_empty()
        );
        assert!(check(&metadata("ft-cli", &["ft-train", "clap"])).unwrap().is_empty());
    }

    #[test]
    fn down_and_sideways_are_errors() {
        assert_eq!(check(&metadata("ft-kernels", &["ft-model"])).unwrap().len(), 1);
        let found = check(&metadata("ft-data", &["ft-model", "ft-optim"])).unwrap();
        assert_eq!(found.len(), 2);
        assert!(found[0].contains("ft-data uses ft-model"), "{found:?}");
    }

    #[test]
    fn a_new_crate_must_be_placed() {
        assert!(check(&metadata("ft-new", &[])).unwrap()[0].contains("new crate"));
    }

    #[test]
    fn what_is_not_metadata_is_an_error() {
        assert!(check("{}").is_err());
        assert!(check("no").is_err());
    }
}
