//! Models and data sets by their names on the Hub, which is a server in this process.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ring::digest;
use serde_json::json;

use crate::support::{Bench, Done, ft, ft_with};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// Name and contents.
type File = (String, Vec<u8>);

/// Bodies by path; gone once asked to be.
struct Server {
    endpoint: String,
    gone: Arc<AtomicBool>,
}

impl Server {
    fn start(repositories: &[(&str, &str, Vec<File>)]) -> Self {
        let mut bodies = HashMap::new();
        for (kind, id, files) in repositories {
            let sibling = |(name, bytes): &File| {
                let blob = [format!("blob {}\0", bytes.len()).as_bytes(), bytes].concat();
                let hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &blob);
                let hash: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
                json!({"rfilename": name, "size": bytes.len(), "blobId": hash})
            };
            let list = json!({"sha": COMMIT, "siblings": files.iter().map(sibling).collect::<Vec<_>>()});
            bodies.insert(
                format!("/api/{kind}/{id}/revision/main?blobs=true"),
                list.to_string().into_bytes(),
            );
            let prefix = if *kind == "datasets" { "/datasets" } else { "" };
            for (name, bytes) in files {
                bodies.insert(format!("{prefix}/{id}/resolve/{COMMIT}/{name}"), bytes.clone());
            }
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let gone = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&gone);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if asked.load(Ordering::Relaxed) {
                    return;
                }
                // A client that has enough closes the connection.
                let _ = answer(stream, &bodies);
            }
        });
        Self { endpoint, gone }
    }

    fn stop(&self) {
        self.gone.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.endpoint.trim_start_matches("http://"));
    }
}

fn answer(mut stream: TcpStream, bodies: &HashMap<String, Vec<u8>>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    let body = bodies.get(request.split(' ').nth(1).unwrap_or_default());
    let status = if body.is_some() { "200 OK" } else { "404 Not Found" };
    let body = body.cloned().unwrap_or_default();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(&body)
}

/// The embedded model's files.
fn model() -> Vec<File> {
    ft(&["inspect", "embedded:tiny"]).ok();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("ft-cache");
    let folder = folder.join(concat!("embedded-tiny-", env!("CARGO_PKG_VERSION")));
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let named = |path: PathBuf| {
        (
            path.file_name().unwrap().to_string_lossy().into_owned(),
            fs::read(&path).unwrap(),
        )
    };
    files.filter(|path| path.is_file()).map(named).collect()
}

#[test]
fn a_run_from_the_hub_and_afterwards_without_it() {
    let bench = Bench::new();
    let data = |name: &str| fs::read(bench.path(name)).unwrap();
    let data = vec![
        ("README.md".into(), b"# card".to_vec()),
        ("data/train-00000-of-00001.jsonl".into(), data("train.jsonl")),
        ("data/test-00000-of-00001.jsonl".into(), data("valid.jsonl")),
    ];
    let server = Server::start(&[("models", "org/tiny", model()), ("datasets", "org/keys", data)]);
    let home = bench.path("hf").display().to_string();
    let call = |args: &[&str], offline: &str| -> Done {
        let environment = [
            ("HF_HOME", home.as_str()),
            ("HF_ENDPOINT", &server.endpoint),
            ("HF_HUB_OFFLINE", offline),
        ];
        ft_with(args, &environment)
    };
    let config = bench
        .text
        .replace("'embedded:tiny'", "'org/tiny'")
        .replace("'train.jsonl'", "'hf://datasets/org/keys'");
    let config = bench.write(
        "hub.toml",
        &config.replace("valid = 'valid.jsonl'", "valid_split_name = 'test'"),
    );

    let refused = call(&["plan", &config], "1");
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("not in the local cache"), "{}", refused.stderr);
    let unknown = call(&["inspect", "org/other"], "0");
    assert!(
        unknown.stderr.contains("there is no folder `org/other`"),
        "{}",
        unknown.stderr
    );
    assert!(
        unknown.stderr.contains("the Hub has no `org/other`"),
        "{}",
        unknown.stderr
    );

    let first = call(&["train", &config, "--plain"], "0");
    assert!(first.stderr.contains("fetching org/tiny"), "{}", first.stderr);
    assert_eq!(first.code, 0, "{}", first.stderr);
    let set = bench.path("hf/hub/datasets--org--keys/snapshots").join(COMMIT);
    assert!(set.join("data/test-00000-of-00001.jsonl").is_file() && !set.join("README.md").exists());

    server.stop();
    let again = call(&["plan", &config], "0");
    assert_eq!(again.code, 0, "{}", again.stderr);
    let resumed = call(
        &["train", &format!("{}/config.toml", bench.out()), "--resume", "--plain"],
        "0",
    );
    assert_eq!(resumed.code, 0, "{}", resumed.stderr);
    let data = "hf://datasets/org/keys/data/test-00000-of-00001.jsonl";
    let scored = call(&["eval", "org/tiny", "--data", data, "--json"], "0").ok();
    let plain = ft(&["eval", "embedded:tiny", "--data", &bench.valid, "--json"]).ok();
    assert_eq!(scored, plain);
}
