//! Writes the four tasks of the grammar as files: `tasks DIR` makes `DIR/facts.jsonl`, `DIR/facts_valid.jsonl` and so on.

use std::fs::File;
use std::io::{BufWriter, Error, Write};
use std::path::Path;

use ft_embedded::grammar::{Lesson, Task};
use ft_embedded::recipe;

fn main() -> Result<(), Error> {
    let dir = std::env::args()
        .nth(1)
        .ok_or_else(|| Error::other("usage: tasks DIR"))?;
    std::fs::create_dir_all(&dir)?;
    for task in Task::ALL {
        let [train, valid] = recipe::task(task);
        write(&Path::new(&dir).join(format!("{}.jsonl", task.name())), train)?;
        write(&Path::new(&dir).join(format!("{}_valid.jsonl", task.name())), valid)?;
    }
    Ok(())
}

fn write(path: &Path, lessons: impl Iterator<Item = Lesson>) -> Result<(), Error> {
    let mut file = BufWriter::new(File::create(path)?);
    for lesson in lessons {
        writeln!(file, "{}", serde_json::to_string(&lesson)?)?;
    }
    file.flush()
}
