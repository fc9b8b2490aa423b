//! Samples that a teacher with another tokenizer reads too.

use super::*;

/// What a student with the chatml tokenizer reads beside a teacher.
fn taught(text: &str, teacher: &Tokenizer, edit: impl FnOnce(&mut DataConfig)) -> Result<Dataset> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("data.jsonl");
    std::fs::write(&file, text).unwrap();
    let mut config = DataConfig::new(&file);
    edit(&mut config);
    load_taught(&file, &config, &tokenizer(), teacher)
}

#[test]
fn a_teacher_reads_the_records_by_its_own_template() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/tokenizers");
    let llama = Tokenizer::from_dir(&fixtures.join("llama")).unwrap();
    let chats = r#"{"user": "Hello!", "assistant": "The cook tastes the soup."}"#;
    let error = taught(chats, &llama, |_| {}).unwrap_err().to_string();
    assert!(
        error.starts_with("the teacher's chat template: the tokenizer has none"),
        "{error}"
    );
    let other = "{% for m in messages %}{{ '<s>' + m.role + ': ' + m.content + '</s>' }}{% endfor %}\
                 {% if add_generation_prompt %}<s>assistant: {% endif %}";
    let llama = llama.with_chat_template(other).unwrap();
    let data = taught(chats, &llama, |_| {}).unwrap();
    let sample = &data.samples[0];
    let theirs = &sample.teacher.as_ref().unwrap().sample;
    assert_eq!(
        llama.decode(theirs.answer(), false).trim_start(),
        "The cook tastes the soup.</s>"
    );
    assert!(sample.aligned_tokens() + 1 >= sample.target_tokens());
    // The teacher's side ends where its own tokens do, and spans reach no further.
    let cut = taught(chats, &llama, |config| config.max_length = theirs.len() - 4).unwrap();
    let cut = &cut.samples[0];
    assert_eq!(cut.teacher.as_ref().unwrap().sample.len(), theirs.len() - 4);
    assert!(cut.aligned_tokens() < sample.aligned_tokens() && cut.aligned_tokens() > 0);
}

#[test]
fn a_record_that_is_other_samples_to_the_teacher_is_named() {
    let turns = r#"{"messages": [{"role": "user", "content": "1?"}, {"role": "assistant", "content": "2."},
        {"role": "user", "content": "3?"}, {"role": "assistant", "content": "4."}]}"#;
    let turns = turns.replace('\n', "");
    // The last answer is written otherwise than those before it.
    let last = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}\
                {% if m.role == 'assistant' and loop.last %}{{ 'So: ' }}{% endif %}{{ m.content + '<|im_end|>\\n' }}{% endfor %}\
                {% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";
    let teacher = tokenizer().with_chat_template(last).unwrap();
    let error = taught(&turns, &teacher, |_| {}).unwrap_err().to_string();
    assert!(
        error.contains("data.jsonl:1: it makes 1 samples, and 2 with the teacher's chat template"),
        "{error}"
    );
    let fails = tokenizer().with_chat_template("{{ raise_exception('no') }}").unwrap();
    let error = taught(&turns, &fails, |_| {}).unwrap_err().to_string();
    assert!(
        error.contains(":1: with the teacher's tokenizer and chat template: the chat template failed"),
        "{error}"
    );
}
