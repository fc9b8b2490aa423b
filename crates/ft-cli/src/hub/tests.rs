//! Downloads from a server in this process that breaks off, lies, redirects and refuses.

mod server;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use ft_data::Role;

use super::*;
use server::{Prank, Server, sha256};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

fn weights() -> Vec<u8> {
    (0..300_000u32).flat_map(|i| i.to_le_bytes()).collect()
}

fn model() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("README.md", b"# no file for ft".to_vec()),
        ("config.json", b"{\"model_type\": \"llama\"}".to_vec()),
        ("tokenizer.json", b"{}".to_vec()),
        ("model.safetensors", weights()),
        ("pytorch_model.bin", b"pickle".to_vec()),
        ("onnx/model.safetensors", b"elsewhere".to_vec()),
        ("additional_chat_templates/tool.jinja", b"{{ 1 }}".to_vec()),
    ]
}

struct Home {
    dir: tempfile::TempDir,
    settings: Settings,
}

impl Home {
    fn new(endpoint: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings {
            endpoint: endpoint.to_owned(),
            token: Some("secret".into()),
            cache: dir.path().join("hub"),
            offline: false,
            pause: Duration::from_millis(1),
        };
        Self { dir, settings }
    }

    fn fetch(&self) -> Result<PathBuf, String> {
        let name = Name::model("org/tiny").unwrap();
        fetch_with(&name, &Wanted::Model, &self.settings).map_err(|failure| format!("{failure:?}"))
    }

    /// Every file in the cache that has a name there.
    fn blobs(&self) -> Vec<String> {
        let folder = self.dir.path().join("hub/models--org--tiny/blobs");
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| !name.ends_with(".incomplete")).collect()
    }
}

#[test]
fn the_layout_is_that_of_python_and_afterwards_no_network_is_needed() {
    let server = Server::start("models", "org/tiny", &model());
    server.prank("model.safetensors", &[Prank::Redirect]);
    let home = Home::new(&server.endpoint);
    let folder = home.fetch().unwrap();
    assert_eq!(
        folder,
        home.dir.path().join("hub/models--org--tiny/snapshots").join(COMMIT)
    );
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), weights());
    assert_eq!(
        fs::read(folder.join("additional_chat_templates/tool.jinja")).unwrap(),
        b"{{ 1 }}"
    );
    for absent in ["README.md", "pytorch_model.bin", "onnx"] {
        assert!(!folder.join(absent).exists(), "{absent}");
    }
    let repo = home.dir.path().join("hub/models--org--tiny");
    assert_eq!(fs::read_to_string(repo.join("refs/main")).unwrap(), COMMIT);
    let blob = repo.join("blobs").join(sha256(&weights()));
    #[cfg(unix)]
    assert_eq!(
        folder.join("model.safetensors").canonicalize().unwrap(),
        blob.canonicalize().unwrap()
    );
    assert!(blob.is_file() && home.blobs().len() == 4);
    assert!(server.saw_the_token(), "the token goes along");

    server.stop();
    assert_eq!(home.fetch().unwrap(), folder, "the server is gone");
}

#[test]
fn what_breaks_off_goes_on_where_it_stopped() {
    let server = Server::start("models", "org/tiny", &model());
    let pranks = [
        Prank::BreakOff(400_000),
        Prank::Status(503),
        Prank::BreakOff(0),
        Prank::Short(300_000),
    ];
    server.prank("model.safetensors", &pranks);
    let home = Home::new(&server.endpoint);
    let folder = home.fetch().unwrap();
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), weights());
    let asked = server.log("model.safetensors");
    assert_eq!(asked.len(), 5);
    assert_eq!((asked[0], asked[1]), (0, asked[2]), "{asked:?}");
    assert!(asked[1] > 300_000 && asked[4] == asked[3] + 300_000, "{asked:?}");
}

#[test]
fn a_second_call_goes_on_with_what_the_first_left() {
    let server = Server::start("models", "org/tiny", &model());
    server.prank(
        "model.safetensors",
        &[&[Prank::BreakOff(500_000)][..], &[Prank::Status(500); 5]].concat(),
    );
    let home = Home::new(&server.endpoint);
    let error = home.fetch().unwrap_err();
    assert!(
        error.contains("model.safetensors") && error.contains("HTTP 500"),
        "{error}"
    );
    assert!(!home.blobs().contains(&sha256(&weights())));
    assert!(!home.dir.path().join("hub/models--org--tiny/refs/main").exists());
    let folder = home.fetch().unwrap();
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), weights());
    assert!(*server.log("model.safetensors").last().unwrap() > 0);
}

#[test]
fn ranges_that_are_not_heeded_do_no_damage() {
    for prank in [Prank::WholeAgain, Prank::OtherRange] {
        let server = Server::start("models", "org/tiny", &model());
        server.prank("model.safetensors", &[Prank::BreakOff(500_000), prank]);
        let folder = Home::new(&server.endpoint);
        let folder = (folder.fetch().unwrap(), folder);
        assert_eq!(
            fs::read(folder.0.join("model.safetensors")).unwrap(),
            weights(),
            "{prank:?}"
        );
    }
}

#[test]
fn lies_never_reach_the_cache() {
    let always = |prank| vec![prank; 20];
    for (prank, reason) in [
        (Prank::Wrong, "the checksum is not the Hub's"),
        (Prank::Long, "more than the 1200000 bytes"),
        (Prank::Short(0), "it ended after 0 of 1200000 bytes"),
        (Prank::BreakOff(0), "cannot be read"),
    ] {
        let server = Server::start("models", "org/tiny", &model());
        server.prank("model.safetensors", &always(prank));
        let home = Home::new(&server.endpoint);
        let error = home.fetch().unwrap_err();
        assert!(error.contains(reason), "{prank:?}: {error}");
        assert!(!home.blobs().contains(&sha256(&weights())), "{prank:?}");
        assert!(home.blobs().len() <= 3);
    }
    // Once is forgiven.
    let server = Server::start("models", "org/tiny", &model());
    server.prank("model.safetensors", &[Prank::Wrong]);
    server.prank("config.json", &[Prank::Wrong]);
    let home = Home::new(&server.endpoint);
    let folder = home.fetch().unwrap();
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), weights());
    assert_eq!(fs::read(folder.join("config.json")).unwrap(), model()[1].1);
}

#[test]
fn refusals_say_what_would_help() {
    let server = Server::start("models", "org/other", &model());
    let mut home = Home::new(&server.endpoint);
    assert!(
        home.fetch()
            .unwrap_err()
            .contains("the Hub has no `org/tiny` (HTTP 404")
    );
    let server = Server::start("models", "org/tiny", &model());
    home.settings.endpoint = server.endpoint.clone();
    for code in [401, 403] {
        server.prank("?blobs=true", &[Prank::Status(code)]);
        let error = home.fetch().unwrap_err();
        assert!(
            error.contains(&format!("HTTP {code}")) && error.contains("the token (HF_TOKEN) does not open it"),
            "{error}"
        );
    }
    server.prank("?blobs=true", &[Prank::Status(401)]);
    home.settings.token = None;
    assert!(home.fetch().unwrap_err().contains("set HF_TOKEN"));
    home.settings.offline = true;
    let error = home.fetch().unwrap_err();
    assert!(
        error.contains("not in the local cache") && error.contains("hf download org/tiny"),
        "{error}"
    );
    assert!(server.log("config.json").is_empty(), "no network where it is forbidden");
}

#[test]
fn of_a_data_set_only_the_wanted_split_is_fetched() {
    let line = |i: usize| format!("{{\"prompt\": \"{i}\", \"completion\": \"x\"}}\n").into_bytes();
    let files = [
        ("README.md", b"# card".to_vec()),
        ("data/train-00000-of-00002.jsonl", line(1)),
        ("data/train-00001-of-00002.jsonl", line(2)),
        ("data/test-00000-of-00001.jsonl", line(3)),
    ];
    let server = Server::start("datasets", "org/set", &files);
    let home = Home::new(&server.endpoint);
    let fetch = |splits: &[(Option<&str>, Role)]| {
        let splits = splits
            .iter()
            .map(|(name, role)| (name.map(str::to_owned), *role))
            .collect();
        let wanted = Wanted::Data {
            path: String::new(),
            splits,
        };
        let name = Name::dataset("hf://datasets/org/set").unwrap().unwrap();
        fetch_with(&name, &wanted, &home.settings).map_err(|failure| format!("{failure:?}"))
    };
    let folder = fetch(&[(None, Role::Train)]).unwrap();
    assert!(folder.join("data/train-00001-of-00002.jsonl").is_file());
    assert!(!folder.join("data/test-00000-of-00001.jsonl").exists() && !folder.join("README.md").exists());
    assert!(
        fetch(&[(Some("hard"), Role::Train)])
            .unwrap_err()
            .contains("no split `hard`; it has: test, train")
    );
    fetch(&[(None, Role::Train), (Some("test"), Role::HeldOut)]).unwrap();
    assert!(folder.join("data/test-00000-of-00001.jsonl").is_file());
    server.stop();
    fetch(&[(None, Role::Train)]).unwrap();
    fetch(&[(None, Role::Train), (Some("test"), Role::HeldOut)]).unwrap();
}

#[test]
fn what_python_has_fetched_is_found() {
    let home = Home::new("http://127.0.0.1:1");
    let snapshot = home.dir.path().join("hub/models--org--tiny/snapshots").join(COMMIT);
    fs::create_dir_all(&snapshot).unwrap();
    for (name, bytes) in model().iter().filter(|(name, _)| !name.contains('/')) {
        fs::write(snapshot.join(name), bytes).unwrap();
    }
    let refs = home.dir.path().join("hub/models--org--tiny/refs");
    fs::create_dir_all(&refs).unwrap();
    fs::write(refs.join("main"), format!("{COMMIT}\n")).unwrap();
    assert_eq!(home.fetch().unwrap(), snapshot);
    let pinned = Name::model(&format!("org/tiny@{COMMIT}")).unwrap();
    assert!(fetch_with(&pinned, &Wanted::Model, &home.settings).is_ok());
}
