use super::*;

fn tokenizer() -> Tokenizer {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/tokenizers/chatml");
    Tokenizer::from_dir(folder.as_ref()).unwrap()
}

fn records(text: &str, by: Option<&str>, edit: impl FnOnce(&mut DataConfig)) -> Result<Records> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x.jsonl");
    std::fs::write(&file, text).unwrap();
    let mut config = DataConfig::new("x");
    edit(&mut config);
    load_records(file, &config, by, &tokenizer())
}

fn lines(prompts: impl Iterator<Item = (usize, usize)>) -> String {
    prompts
        .map(|(prompt, answer)| {
            format!(
                "{{\"prompt\": \"Q{prompt}:\", \"completion\": \"{answer}\", \"kind\": {}}}\n",
                prompt % 3
            )
        })
        .collect()
}

#[test]
fn rows_have_the_fields_of_the_format_and_whole_samples() {
    let text = "{\"q\": \"a\", \"n\": 5, \"completion\": \"x\", \"as\": [\"one two three four\", \"b\"]}\n";
    let records = records(text, Some("n"), |c| {
        c.map = [("prompt", "Q: {q}"), ("completion", "{as}")]
            .map(|(k, v)| (k.into(), v.into()))
            .into();
        c.max_length = 2;
    })
    .unwrap();
    let row = &records.rows[0];
    assert_eq!((row.samples.clone(), row.by.as_deref()), (0..2, Some("5")));
    let fields: Value = serde_json::from_str(&row.line()).unwrap();
    assert_eq!(
        fields,
        serde_json::json!({"prompt": "Q: a", "completion": ["one two three four", "b"]})
    );
    assert!(records.data.samples[0].len() > 2);

    let plain = self::records(&lines([(0, 0)].into_iter()), None, |_| {}).unwrap();
    assert_eq!(plain.rows[0].line(), "{\"prompt\":\"Q0:\",\"completion\":\"0\"}");
    let missing = self::records(&lines([(0, 0)].into_iter()), Some("kin"), |_| {})
        .unwrap_err()
        .to_string();
    assert!(
        missing.contains("x.jsonl:1: no column `kin` (did you mean `kind`?)"),
        "{missing}"
    );
}

#[test]
fn taking_duplicates_out_twice_is_taking_them_out_once() {
    let mut rng = ft_seed::stream(4, "records");
    let mut below = |n| ft_seed::below(&mut rng, n);
    let words = |at: usize| format!("alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu word{at}");
    let text: String = (0..200)
        .map(|_| {
            format!(
                "{{\"prompt\": \"{} {}:\", \"completion\": \"yes\"}}\n",
                below(12),
                words(below(6))
            )
        })
        .collect();
    for near in [None, Some(0.8), Some(0.5)] {
        let find = |text: &str| {
            let records = records(text, None, |_| {}).unwrap();
            let found = records.duplicates(near, None, &tokenizer()).unwrap();
            let out = [found.exact.clone(), found.near.clone()].concat();
            let rows = records.rows.iter().enumerate().filter(|(i, _)| !out.contains(i));
            (found, rows.map(|(_, row)| row.line() + "\n").collect::<String>())
        };
        let (first, kept) = find(&text);
        assert!(
            first.exact.len() > 100 && near.is_some() != first.near.is_empty(),
            "{first:?}"
        );
        assert_eq!(kept.lines().count() + first.exact.len() + first.near.len(), 200);
        assert_eq!(find(&kept), (Duplicates::default(), kept));
    }
}

#[test]
fn records_with_held_out_prompts_are_found() {
    let train = records(&lines((0..10).map(|i| (i, i))), None, |_| {}).unwrap();
    let held_out = records(&lines([(3, 9), (11, 0), (5, 5)].into_iter()), None, |_| {}).unwrap();
    let found = train
        .duplicates(None, Some(&held_out.data.samples), &tokenizer())
        .unwrap();
    assert_eq!((found.exact.len(), found.held_out), (0, vec![3, 5]));
}

#[test]
fn a_split_keeps_proportions_and_prompts_together() {
    let text = lines((0..900).map(|i| (i / 2, i)));
    let records = records(&text, Some("kind"), |_| {}).unwrap();
    for (share, seed) in [(0.1, 1), (0.25, 2), (0.5, 3)] {
        let out = records.split(share, seed).unwrap();
        assert!(out.chunks(2).all(|pair| pair[0] == pair[1]));
        for kind in ["0", "1", "2"] {
            let own = records
                .rows
                .iter()
                .zip(&out)
                .filter(|(row, _)| row.by.as_deref() == Some(kind));
            let (all, chosen) = own.fold((0, 0), |(all, chosen), (_, out)| (all + 1, chosen + usize::from(*out)));
            assert!(
                (f64::from(chosen as u32) - share * f64::from(all)).abs() <= 2.0,
                "{chosen} of {all} for {share}"
            );
        }
        assert_ne!(out, records.split(share, seed + 10).unwrap());
    }
    let one = self::records(&lines((0..5).map(|i| (0, i))), None, |_| {}).unwrap();
    assert!(one.split(0.5, 1).unwrap_err().to_string().contains("the same prompt"));
    let few = self::records(&lines((0..4).map(|i| (i, i))), Some("kind"), |_| {}).unwrap();
    assert_eq!(few.split(0.1, 1).unwrap().iter().filter(|out| **out).count(), 1);
}
