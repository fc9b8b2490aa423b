//! `ft data convert`: the records of any source as JSON lines, under the names of their format's fields.

use std::path::PathBuf;

use ft_data::load_records;
use serde_json::json;

use super::{Common, Opened};
use crate::failure::Failure;
use crate::output;

#[derive(clap::Args, Debug)]
pub struct ConvertArgs {
    #[command(flatten)]
    common: Common,
    /// File to write (.jsonl); it must not exist
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Convert data.valid instead of data.train
    #[arg(long)]
    valid: bool,
}

impl ConvertArgs {
    pub fn run(self) -> Result<(), Failure> {
        super::must_be_new_lines(&self.out)?;
        let Opened { section, tokenizer, .. } = self.common.open()?;
        let records = match (self.valid, section.valid_files()?) {
            (false, _) => load_records(section.train_files()?, &section, None, &tokenizer)?,
            (true, Some(files)) => load_records(files, &section.held_out(), None, &tokenizer)?,
            (true, None) => return Err(Failure::wrong_use("--valid: the configuration has no data.valid")),
        };
        super::write_lines(&self.out, records.rows.iter().map(|row| row.line()))?;
        let (count, format) = (records.rows.len(), records.data.format);
        match self.common.json {
            true => output::json(&json!({ "out": self.out, "records": count, "format": format })),
            false => output::write(&format!(
                "{} records in {}, format \"{}\"\n",
                output::count(count as u64),
                self.out.display(),
                format.as_str()
            )),
        }
    }
}
