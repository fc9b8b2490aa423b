//! Records that say by themselves what the tokens are and which are learned.

use serde_json::json;

use super::*;

#[test]
fn pre_tokenized_samples_are_taken_as_they_are() {
    let t = chatml();
    let ids = t.encode("The cook adds salt.", false).unwrap();
    let mut labels: Vec<i64> = ids.iter().map(|id| i64::from(*id)).collect();
    labels[..3].fill(-100);
    let s = sample("pre-tokenized", json!({"input_ids": ids, "labels": labels}), &t);
    assert_eq!((&s.ids[..], s.prompt().len()), (&ids[..], 3));
    let all = sample("pre-tokenized", json!({"input_ids": ids}), &t);
    assert_eq!(all.target_tokens(), ids.len() - 1);
    let mut mask = vec![1; ids.len()];
    mask[0] = 0;
    let cut = sample(
        "pre-tokenized",
        json!({"input_ids": ids, "labels": labels, "attention_mask": mask}),
        &t,
    );
    assert_eq!((&cut.ids[..], cut.prompt().len()), (&ids[1..], 2));
    let wrong = |record: serde_json::Value| samples("pre-tokenized", record, &t).unwrap_err().to_string();
    assert_eq!(
        wrong(json!({"input_ids": [1, 2, 3], "labels": [1, 2]})),
        "`labels` has 2 entries and `input_ids` 3"
    );
    assert_eq!(
        wrong(json!({"input_ids": [1, 2, 3], "labels": [2, 3, -100]})),
        "`labels` entry 1 is neither -100 nor the token there, 1; labels are not shifted"
    );
    assert!(wrong(json!({"input_ids": [1, -2]})).starts_with("`input_ids` entry 2: -2 is no token"));
    assert!(wrong(json!({"input_ids": [1, 4_000_000_000_u64]})).contains("is no token"));
    assert!(wrong(json!({"input_ids": [1, 0.5]})).contains("0.5 is no whole number"));
    assert!(wrong(json!({"input_ids": [1, 2], "labels": [1, -100]})).starts_with("nothing to learn"));
}

#[test]
fn segments_are_learned_one_by_one() {
    let t = chatml();
    let record = json!({"segments": [
        {"text": "Q: salt?\n", "label": false},
        {"text": "yes<|im_end|>", "label": true},
        {"text": "\nQ: more?\n", "label": 0},
        {"text": "no<|im_end|>", "label": 1},
    ]});
    let s = sample("segments", record, &t);
    let texts: Vec<String> = s.runs().map(|run| t.decode(&s.ids[run], false)).collect();
    assert_eq!(texts, ["yes<|im_end|>", "no<|im_end|>"]);
    assert_eq!(
        t.decode(&s.ids, false),
        "Q: salt?\nyes<|im_end|>\nQ: more?\nno<|im_end|>"
    );
    let wrong = |record: serde_json::Value| samples("segments", record, &t).unwrap_err().to_string();
    assert_eq!(
        wrong(json!({"segments": ["x"]})),
        "segment 1: is no object with `text` and `label`"
    );
    assert_eq!(wrong(json!({"segments": [{"text": "x"}]})), "segment 1: has no `label`");
    assert!(wrong(json!({"segments": [{"text": "x", "label": "maybe"}]})).contains("neither true nor false"));
    assert!(wrong(json!({"segments": [{"text": "x y z", "label": false}]})).starts_with("nothing to learn"));
}
