//! Shards that are not what was written.

use super::*;

#[test]
fn what_is_damaged_is_made_again() {
    let desk = Desk::with("x.jsonl", &answers(80));
    let good = desk.load();
    let spoil = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let path = desk.part(name);
        let mut bytes = fs::read(&path).unwrap();
        change(&mut bytes);
        // The mapped file itself stays as it is: programs that have it open go on.
        fs::remove_file(&path).unwrap();
        fs::write(&path, bytes).unwrap();
    };
    let mut told = Vec::new();
    let mut rebuilt = |what: &str| {
        let data = desk.load();
        assert_eq!(how(&data), How::Rebuilt, "{what}");
        same(&data, &good);
        let warnings = data.warnings();
        assert!(warnings.iter().any(|w| w.contains("was damaged")), "{warnings:?}");
        told.extend(warnings);
        let again = desk.load();
        assert_eq!((how(&again), again.warnings().len()), (How::Read, 0), "{what}");
        same(&again, &good);
    };
    let length = fs::metadata(desk.part("00000.shard")).unwrap().len() as usize;
    for at in [0, 4, 8, 12, 28, 32, 36, 60, length / 2, length - 1] {
        spoil("00000.shard", &|bytes| bytes[at] ^= 16);
        rebuilt(&format!("byte {at}"));
    }
    for left in [0, 3, 4, 35, 36, length / 2, length - 4, length - 1] {
        spoil("00000.shard", &|bytes| bytes.truncate(left));
        rebuilt(&format!("{left} bytes"));
    }
    spoil("00000.shard", &|bytes| bytes.extend([0; 4]));
    rebuilt("more bytes");
    fs::remove_file(desk.part("00000.shard")).unwrap();
    rebuilt("no shard");
    spoil("set.json", &|bytes| {
        let at = String::from_utf8_lossy(bytes).find("\"tokens\":").unwrap() + 9;
        bytes[at] = if bytes[at] == b'9' { b'8' } else { bytes[at] + 1 };
    });
    rebuilt("another number");
    spoil("set.json", &|bytes| bytes.truncate(40));
    rebuilt("half of set.json");
    assert!(
        told.iter().any(|w| w.contains("00000.shard: its checksum is another")),
        "{told:?}"
    );
    assert!(told.iter().any(|w| w.contains("00000.shard: it is cut short")));
    assert!(told.iter().any(|w| w.contains("set.json: it is not what was written")));

    // An entry that was never finished is none.
    fs::remove_file(desk.part("set.json")).unwrap();
    assert_eq!(how(&desk.load()), How::Written);
}

/// A checksum tells what broke by itself; what was made to deceive must not end in a panic either.
#[test]
fn no_record_of_a_shard_reaches_out_of_it() {
    let desk = Desk::with("pairs.jsonl", &formats()[4].1);
    let good = desk.load();
    let path = desk.part("00000.shard");
    let bytes = fs::read(&path).unwrap();
    let key = Entry::of(Path::new("x"), desk.config.train.paths(), &desk.config, &desk.tokenizer)
        .unwrap()
        .key;
    let mut refused = 0;
    for word in 7..bytes.len() / 4 {
        for value in [0, 1, 2, 7, 1000, u32::MAX] {
            let mut changed = bytes.clone();
            changed[4 * word..4 * word + 4].copy_from_slice(&value.to_ne_bytes());
            let crc32 = crc32fast::hash(&changed[12..]);
            changed[8..12].copy_from_slice(&crc32.to_ne_bytes());
            let other = desk.folder.path().join("other.shard");
            fs::write(&other, changed).unwrap();
            match Shard::open(&other, key) {
                Ok((samples, _)) => samples.iter().flat_map(|s| s.sequences()).for_each(|s| {
                    assert_eq!(s.learn().len(), s.ids.len());
                    assert!(s.target_tokens() < s.len() && s.answer().len() + s.prompt().len() <= s.len());
                }),
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > 50, "{refused}");
    same(&desk.load(), &good);
}
