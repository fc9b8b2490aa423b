use serde_json::json;

use super::*;

fn rope(section: Value) -> Rope {
    let config = json!({"rope_parameters": section, "max_position_embeddings": 64, "rope_theta": 10000.0});
    Rope::parse(&config).unwrap()
}

#[track_caller]
fn near(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    for (a, b) in found.iter().zip(expected) {
        assert!((a - b).abs() < 1e-5 * b.abs(), "{found:?} {expected:?}");
    }
}

/// The numbers of transformers 5.24.
#[test]
fn longrope_has_other_wavelengths_beyond_the_original_context() {
    let rope = rope(json!({
        "rope_type": "longrope", "short_factor": [1.0, 1.1, 1.2, 1.5], "long_factor": [1.0, 1.5, 2.5, 4.0],
        "original_max_position_embeddings": 16,
    }));
    near(
        &rope.inverse_frequencies(8, 16),
        &[1.0, 9.090909e-2, 8.333333e-3, 6.666667e-4],
    );
    near(&rope.inverse_frequencies(8, 17), &[1.0, 6.666667e-2, 4e-3, 2.5e-4]);
    assert!((rope.attention_factor() - 1.224_744_9).abs() < 1e-6);
}

/// The numbers of transformers 5.24.
#[test]
fn yarn_keeps_what_turns_often() {
    let section = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16});
    let plain = rope(section.clone());
    let expected = [
        1.0,
        7.905694e-2,
        2.5e-2,
        7.905694e-3,
        2.5e-3,
        7.905694e-4,
        2.5e-4,
        7.905694e-5,
    ];
    near(&plain.inverse_frequencies(16, 5), &expected);
    assert!((plain.attention_factor() - 1.138_629_4).abs() < 1e-6);
    let mut more = section;
    for (key, value) in [
        ("beta_fast", 2.0),
        ("beta_slow", 0.5),
        ("mscale", 0.7),
        ("mscale_all_dim", 0.4),
    ] {
        more[key] = value.into();
    }
    more["truncate"] = false.into();
    let found = rope(more);
    assert!((found.inverse_frequencies(16, 5)[1] - 0.160_589_16).abs() < 1e-6);
    assert!((found.attention_factor() - 1.039_403_8).abs() < 1e-6);
}

#[test]
fn what_does_not_fit_is_named() {
    let wrong = |section: Value| Rope::parse(&json!({"rope_scaling": section})).unwrap_err().0;
    assert_eq!(
        wrong(json!({"type": "dynamic", "factor": 2.0})),
        "rope_scaling.rope_type"
    );
    assert_eq!(
        wrong(json!({"type": "yarn"})),
        "rope_scaling.original_max_position_embeddings"
    );
    let list =
        json!({"type": "longrope", "original_max_position_embeddings": 4, "factor": 2.0, "short_factor": [1, 0]});
    assert_eq!(wrong(list), "rope_scaling.short_factor");
    let short = rope(json!({"rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}));
    assert_eq!(short.check(8).unwrap_err().0, "short_factor");
    assert_eq!(
        rope(json!({"partial_rotary_factor": 0.4})).check(8).unwrap_err().0,
        "head_dim"
    );
}
