//! The shipped configuration of Parquet and Arrow files, over files that pyarrow wrote. A run over them is a test of `ft-tests` with the feature.

use std::fs;

use super::*;

#[test]
fn the_shipped_configuration_reads_every_record() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let text = fs::read_to_string(root.join("configs/sources/columns.toml")).unwrap();
    let mut table: toml::Table = text.parse().unwrap();
    let mut config: DataConfig = table.remove("data").unwrap().try_into().unwrap();
    config.check().unwrap();
    let here = |path: &PathBuf| root.join("tests/fixtures/columns").join(path.file_name().unwrap());
    let files: Vec<PathBuf> = config.train.paths().iter().map(here).collect();
    config.train = files.into();
    let data = load_samples(&config.train, &config, &tokenizer()).unwrap();
    let of_file = |file: u32| {
        let own = data
            .samples
            .iter()
            .zip(&data.places)
            .filter(|(_, place)| place.file == file);
        own.map(|(sample, _)| sample).collect::<Vec<_>>()
    };
    assert_eq!((data.files.len(), of_file(0).len()), (3, 7));
    assert!(of_file(0) == of_file(1) && of_file(1) == of_file(2));
}
