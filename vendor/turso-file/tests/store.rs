//! The statements of cubecl-environment, over one file and several openings of it.
use std::future::Future;
use std::io::Write;
use std::path::PathBuf;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use turso::{Builder, Connection, Error};

const INSERT: &str = "INSERT INTO entries (namespace, key, value, origin) VALUES (?1, ?2, ?3, ?4) \
                      ON CONFLICT(namespace, key) DO UPDATE SET value = excluded.value, origin = excluded.origin \
                      WHERE entries.origin = 1 AND excluded.origin = 0";
const SELECT: &str = "SELECT value FROM entries WHERE namespace = ?1 AND key = ?2";

/// Nothing here waits.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("a statement waits"),
    }
}

/// A file that is gone with the test.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("turso-file-{}-{name}.db", std::process::id()));
        let _ = std::fs::remove_file(&path);
        Self(path)
    }

    fn open(&self) -> Connection {
        let built = now(Builder::new_local(self.0.to_str().unwrap()).build());
        built.and_then(|database| database.connect()).unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn insert(to: &Connection, key: &[u8], value: &[u8], origin: i64) -> u64 {
    now(to.execute(INSERT, ("tuned", key.to_vec(), value.to_vec(), origin))).unwrap()
}

fn select(from: &Connection, key: &[u8]) -> Option<Vec<u8>> {
    let mut rows = now(from.query(SELECT, ("tuned", key.to_vec()))).unwrap();
    now(rows.next()).unwrap().map(|row| row.get(0).unwrap())
}

#[test]
fn the_first_of_a_key_stays_unless_it_was_imported() {
    let place = Place::new("first");
    let store = place.open();
    assert_eq!(insert(&store, b"a", b"1", 0), 1);
    assert_eq!(insert(&store, b"a", b"2", 0), 0);
    assert_eq!(insert(&store, b"b", b"3", 1), 1);
    assert_eq!(insert(&store, b"b", b"4", 1), 0);
    assert_eq!(insert(&store, b"b", b"5", 0), 1);
    let kept = || [b"a", b"b", b"c"].map(|key| select(&place.open(), key));
    assert_eq!(kept(), [Some(b"1".to_vec()), Some(b"5".to_vec()), None]);
    now(store.execute(
        "DELETE FROM entries WHERE namespace = ?1 AND key = ?2",
        ("tuned", b"a".to_vec()),
    ))
    .unwrap();
    assert_eq!(kept(), [None, Some(b"5".to_vec()), None]);
    now(store.execute("DROP TABLE IF EXISTS entries", ())).unwrap();
    assert_eq!(kept(), [None, None, None]);
}

#[test]
fn openings_see_each_other() {
    let place = Place::new("two");
    let (one, two) = (place.open(), place.open());
    let summary = "SELECT namespace, COUNT(*), SUM(length(key) + length(value)) FROM entries GROUP BY namespace ORDER BY namespace";
    std::thread::scope(|scope| {
        for store in [&one, &two] {
            scope.spawn(move || {
                for i in 0..200u8 {
                    insert(store, &[i], &[i; 9], 0);
                }
            });
        }
    });
    let mut rows = now(one.query(summary, ())).unwrap();
    let row = now(rows.next()).unwrap().unwrap();
    assert_eq!(
        (row.get::<String>(0).unwrap(), row.get::<i64>(1).unwrap()),
        ("tuned".into(), 200)
    );
    assert_eq!(row.get::<i64>(2).unwrap(), 200 * 10);
    assert_eq!(select(&two, &[77]), Some(vec![77; 9]));
}

#[test]
fn what_was_cut_off_is_mended() {
    let place = Place::new("cut");
    insert(&place.open(), b"a", b"1", 0);
    insert(&place.open(), b"b", b"2", 0);
    let whole = std::fs::read(&place.0).unwrap();
    for cut in 1..20 {
        std::fs::write(&place.0, &whole[..whole.len() - cut]).unwrap();
        let store = place.open();
        assert_eq!(
            (select(&store, b"a"), select(&store, b"b")),
            (Some(b"1".to_vec()), None)
        );
        insert(&store, b"b", b"3", 0);
        assert_eq!(select(&place.open(), b"b"), Some(b"3".to_vec()));
    }
    let mut bytes = whole.clone();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&place.0, &bytes).unwrap();
    assert_eq!(select(&place.open(), b"b"), None);
}

#[test]
fn other_files_and_statements_are_refused() {
    let place = Place::new("other");
    std::fs::File::create(&place.0)
        .unwrap()
        .write_all(b"SQLite format 3\0 and more")
        .unwrap();
    let opened = now(Builder::new_local(place.0.to_str().unwrap()).build());
    assert!(
        matches!(&opened, Err(Error::Error(why)) if why.contains("no store")),
        "{opened:?}"
    );
    let place = Place::new("statement");
    let refused = now(place.open().execute("VACUUM", ()));
    assert!(
        matches!(&refused, Err(Error::Error(why)) if why.contains("VACUUM")),
        "{refused:?}"
    );
    let read = now(Builder::new_local(place.0.to_str().unwrap()).read_only(true).build()).unwrap();
    let store = read.connect().unwrap();
    assert!(now(store.execute(INSERT, ("n", vec![1u8], vec![2u8], 0i64))).is_err());
}
