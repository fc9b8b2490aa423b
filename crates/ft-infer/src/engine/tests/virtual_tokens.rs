use ft_peft::methods::{prefix_tuning::PrefixTuningConfig, prompt_tuning::PromptTuningConfig};
use ft_peft::{PeftConfig, adapter, attach};

use super::*;

#[test]
fn a_preempted_request_begins_with_its_virtual_tokens_again() {
    let folder = |config: PeftConfig| {
        let (dir, mut model) = (tempfile::tempdir().unwrap(), model());
        attach(&mut model, &config, 3).unwrap();
        adapter::save(dir.path(), &mut model, &config, "base").unwrap();
        dir
    };
    let prefix = folder(PeftConfig::PrefixTuning(PrefixTuningConfig::default()));
    let prompt = folder(PeftConfig::PromptTuning(PromptTuningConfig::default()));
    let text = |i: u32| (0..100).map(|j| 3 + (i * 37 + j * 13) % 1000).collect::<Vec<u32>>();
    let run = |positions: usize| {
        let engine = engine(|options| options.cache_positions = positions);
        engine.load_adapter("prefix", prefix.path(), false).unwrap();
        engine.load_adapter("prompt", prompt.path(), false).unwrap();
        let ask = |(i, name): (u32, &str)| engine.submit(scored(&text(i), 100).with_adapter(name)).unwrap();
        let events = [(0, "prefix"), (1, "prompt"), (2, "prefix")].map(ask);
        (events.map(collect), engine.stats().preempted)
    };
    let (wide, narrow) = (run(1024), run(384));
    assert_eq!((wide.1, narrow.1 > 0), (0, true));
    assert_eq!(narrow.0, wide.0);
}
