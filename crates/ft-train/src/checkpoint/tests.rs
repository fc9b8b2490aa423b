use std::fs;
use std::path::Path;

use burn::tensor::TensorData;

use super::*;

fn whole(checkpoints: &Checkpoints, step: usize) -> std::path::PathBuf {
    let draft = Draft::begin(&checkpoints.path(step)).unwrap();
    fs::write(draft.path().join("a.txt"), format!("step {step}")).unwrap();
    fs::write(draft.path().join("b.bin"), vec![7u8; 100_000]).unwrap();
    draft.commit().unwrap()
}

#[test]
fn a_folder_appears_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::of(dir.path());
    checkpoints.prepare().unwrap();
    let draft = Draft::begin(&checkpoints.path(5)).unwrap();
    fs::write(draft.path().join("a.txt"), "half").unwrap();
    assert!(checkpoints.steps().is_empty(), "nothing is there before the commit");
    drop(draft); // as a kill would leave it
    fs::write(dir.path().join("checkpoints/.writing-config.toml"), "half").unwrap(); // a file that was being replaced
    assert_eq!(fs::read_dir(dir.path().join("checkpoints")).unwrap().count(), 2);
    checkpoints.prepare().unwrap();
    assert_eq!(
        fs::read_dir(dir.path().join("checkpoints")).unwrap().count(),
        0,
        "leftovers are cleaned"
    );
    let path = whole(&checkpoints, 5);
    assert!(damage(&path).is_empty());
    assert_eq!(checkpoints.steps(), [5]);
}

#[cfg(unix)]
#[test]
fn weights_are_as_readable_as_any_other_file() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
    fs::write(dir.path().join("ordinary"), "").unwrap();
    let draft = Draft::begin(&dir.path().join("step-1")).unwrap();
    let data = TensorData::from([1.0f32]);
    write_tensors(&draft.path().join("w.safetensors"), &[("w".to_owned(), data)]).unwrap();
    let path = draft.commit().unwrap();
    assert_eq!(mode(&path.join("w.safetensors")), mode(&dir.path().join("ordinary")));
}

#[test]
fn replacing_a_checkpoint_survives_a_kill_between_its_two_renames() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::of(dir.path());
    let path = whole(&checkpoints, 1);
    // What is on the disk when the process dies after moving the old one aside.
    fs::rename(&path, path.with_file_name(".replaced-step-1")).unwrap();
    assert!(checkpoints.steps().is_empty());
    checkpoints.prepare().unwrap();
    assert_eq!(checkpoints.steps(), [1]);
    assert!(damage(&path).is_empty());
    // And after the second rename: the new one counts.
    fs::create_dir_all(path.with_file_name(".replaced-step-1")).unwrap();
    checkpoints.prepare().unwrap();
    assert!(damage(&path).is_empty() && !path.with_file_name(".replaced-step-1").exists());
    assert_eq!(
        whole(&checkpoints, 1),
        path,
        "and it can be replaced in the ordinary way"
    );
}

#[test]
fn every_kind_of_damage_is_seen_and_the_one_before_is_taken() {
    let flip = |path: &Path| {
        let mut bytes = fs::read(path.join("b.bin")).unwrap();
        bytes[50_000] ^= 1;
        fs::write(path.join("b.bin"), bytes).unwrap();
    };
    let cut = |path: &Path| fs::write(path.join("b.bin"), [7u8; 99]).unwrap();
    let lose = |path: &Path| fs::remove_file(path.join("a.txt")).unwrap();
    let no_manifest = |path: &Path| fs::remove_file(path.join("manifest.json")).unwrap();
    let bad_manifest = |path: &Path| fs::write(path.join("manifest.json"), "{").unwrap();
    type Harm<'a> = &'a dyn Fn(&Path);
    let cases: [(Harm, &str); 5] = [
        (&flip, "b.bin: checksum does not match"),
        (&cut, "b.bin: 99 bytes instead of 100000"),
        (&lose, "a.txt"),
        (&no_manifest, "manifest.json"),
        (&bad_manifest, "manifest.json"),
    ];
    for (harm, expected) in cases {
        let dir = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::of(dir.path());
        let good = whole(&checkpoints, 10);
        let bad = whole(&checkpoints, 20);
        harm(&bad);
        let (path, warnings) = checkpoints.latest().unwrap();
        assert_eq!(path, good);
        assert!(warnings.len() == 1 && warnings[0].contains(expected), "{warnings:?}");
        harm(&good);
        let error = checkpoints.latest().unwrap_err().to_string();
        assert!(error.contains("no checkpoint is whole"), "{error}");
    }
}

#[test]
fn nothing_to_resume_from_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let error = Checkpoints::of(dir.path()).latest().unwrap_err().to_string();
    assert!(error.contains("start the run without --resume"), "{error}");
}

#[test]
fn pruning_keeps_the_newest_and_the_best() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::of(dir.path());
    for step in [2, 4, 10, 6, 8] {
        whole(&checkpoints, step);
    }
    checkpoints.prune(2, Some(4)).unwrap();
    assert_eq!(checkpoints.steps(), [4, 8, 10]);
    checkpoints.prune(0, None).unwrap();
    assert_eq!(checkpoints.steps(), [10], "the newest always stays");
}

#[test]
fn what_lies_after_a_resume_is_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::of(dir.path());
    for step in [2, 4, 6] {
        whole(&checkpoints, step);
    }
    assert_eq!(checkpoints.set_aside_after(2).unwrap().len(), 2);
    assert_eq!(checkpoints.steps(), [2]);
    whole(&checkpoints, 4);
    assert_eq!(
        checkpoints.set_aside_after(2).unwrap().len(),
        1,
        "an older one of that name gives way"
    );
    assert!(checkpoints.set_aside_after(2).unwrap().is_empty());
}

#[test]
fn numbers_come_back_bit_by_bit() {
    for value in [
        0.1 + 0.2,
        f64::MIN_POSITIVE,
        1.0 / 3.0,
        -0.0,
        std::f64::consts::LN_10,
        f64::NAN,
        f64::INFINITY,
    ] {
        let text = serde_json::to_string(&Exact(value)).unwrap();
        let back: Exact = serde_json::from_str(&text).unwrap();
        assert_eq!(back.0.to_bits(), value.to_bits(), "{text}");
    }
    assert!(serde_json::from_str::<Exact>("\"many\"").is_err());
}

#[test]
fn tensors_come_back_bit_by_bit() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.safetensors");
    let tensors = vec![
        ("b.step".to_owned(), TensorData::new(vec![3i64], [0usize; 0])),
        (
            "a.weight".to_owned(),
            TensorData::new(vec![0.1f32, -0.0, f32::MIN_POSITIVE, 4.0], [2, 2]),
        ),
    ];
    write_tensors(&path, &tensors).unwrap();
    let mut back = read_tensors(&path).unwrap();
    back.sort_by(|a, b| b.0.cmp(&a.0));
    assert_eq!(back, tensors);
    fs::write(&path, [9u8; 40]).unwrap();
    assert!(read_tensors(&path).unwrap_err().to_string().contains("t.safetensors"));
}

#[test]
fn changes_are_weighed() {
    let text = |lr: &str, rank: usize, [out, steps, seed]: [&str; 3], more: &str| {
        format!(
            "[optim]\nkind = \"adamw\"\nlr = {lr}\n[peft]\nmethod = \"lora\"\nrank = {rank}\n[train]\nout = \"{out}\"\n\
             steps = {steps}\nseed = {seed}\n{more}"
        )
    };
    let old = text("0.1", 8, ["a", "10", "1"], "");
    assert!(
        compare(&old, &text("0.1", 8, ["b", "10", "1"], "keep = 7\n")).is_empty(),
        "a folder may move"
    );
    let told = compare(&old, &text("0.3", 8, ["b", "20", "1"], ""));
    assert_eq!(
        told.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["optim.lr: 0.1 -> 0.3", "train.steps: 10 -> 20"]
    );
    assert!(told.iter().all(|c| !c.fatal));
    let changes = compare(&old, &text("0.3", 16, ["b", "10", "2"], "[data]\nmax_length = 64\n"));
    let fatal: Vec<String> = changes.iter().filter(|c| c.fatal).map(ToString::to_string).collect();
    assert_eq!(
        fatal,
        [
            "data.max_length: (absent) -> 64",
            "peft.rank: 8 -> 16",
            "train.seed: 1 -> 2"
        ]
    );
    assert!(changes[0].fatal, "fatal ones first");
    let other = old.replace("adamw", "lion");
    assert!(compare(&old, &other).iter().any(|c| c.fatal && c.key == "optim.kind"));
}
