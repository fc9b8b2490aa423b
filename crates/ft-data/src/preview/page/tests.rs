use super::*;
use crate::{Source, load_source};

fn tokenizer() -> Tokenizer {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/tokenizers/chatml");
    Tokenizer::from_dir(folder.as_ref()).unwrap()
}

fn load(pairs: &[(&str, &str)], config: &DataConfig) -> Dataset {
    let line = |(prompt, completion): &(&str, &str)| {
        serde_json::json!({"prompt": prompt, "completion": completion}).to_string() + "\n"
    };
    let text: String = pairs.iter().map(line).collect();
    let source = Source::Memory {
        name: "a<b>.jsonl",
        bytes: text.as_bytes(),
    };
    load_source(source, config, &tokenizer()).unwrap()
}

fn page(pairs: &[(&str, &str)], config: &DataConfig, shown: usize) -> String {
    preview_page(&load(pairs, config), config, &tokenizer(), 1, shown)
}

/// The elements of a page, opened and closed in pairs; panics where they are not.
fn elements(page: &str) -> Vec<String> {
    let (mut open, mut all) = (vec![], vec![]);
    for piece in page.split('<').skip(1) {
        let (tag, _) = piece.split_once('>').expect("an end of every tag");
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name), "{tag}");
        } else if !tag.starts_with('!') {
            let name = tag.split_whitespace().next().unwrap_or_default().to_owned();
            all.push(tag.to_owned());
            if name != "meta" {
                open.push(name);
            }
        }
    }
    assert!(open.is_empty(), "{open:?}");
    all
}

#[test]
fn tokens_are_marked_by_what_is_learned() {
    let page = page(&[("Who?", "The cook.")], &DataConfig::new("x"), 10);
    assert!(is_preview_page(&page));
    elements(&page);
    let (learned, tokens) = (page.matches("<span class=\"l").count(), page.matches("<span").count());
    // Each token of the sample stands among the samples and in its row; the key has two more that are learned, and four in all.
    let data = load(&[("Who?", "The cook.")], &DataConfig::new("x"));
    assert_eq!(learned, 2 * data.statistics.learned + 2);
    assert_eq!(tokens, 2 * data.statistics.tokens + 4);
    let eos = tokenizer().id_to_token(tokenizer().eos_id().unwrap()).unwrap();
    let last = format!(
        "<span class=\"l s\" title=\"{}\">{}</span>",
        tokenizer().eos_id().unwrap(),
        escape(&eos)
    );
    assert!(page.contains(&last), "{last}");
    assert!(page.contains(&format!(
        "{} ({:.1} %)",
        data.statistics.learned,
        100.0 * data.statistics.learned as f64 / data.statistics.tokens as f64
    )));
    assert!(page.contains("Nothing: every record is there in full."));
}

#[test]
fn what_others_wrote_stays_text() {
    let hostile = "</script></pre><script>alert(1)</script><img src=x onerror='a'>\"&amp;\u{202e}\u{0}\u{200b}\n\t";
    let page = page(&[(hostile, hostile)], &DataConfig::new("x"), 10);
    let allowed = [
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "h1",
        "h2",
        "table",
        "tr",
        "th",
        "td",
        "p",
        "span",
        "div",
        "figure",
        "figcaption",
        "pre",
        "b",
        "em",
        "meter",
    ];
    for tag in elements(&page) {
        let name = tag.split_whitespace().next().unwrap();
        assert!(allowed.contains(&name), "{tag}");
        let attributes: Vec<&str> = tag.split('"').step_by(2).skip(1).collect();
        assert!(attributes.iter().all(|text| !text.contains("onerror")), "{tag}");
    }
    assert!(page.contains("a&lt;b&gt;.jsonl") && page.contains("[U+202E]") && page.contains("[U+0000]"));
    assert!(!page.contains('\u{202e}') && !page.contains('\u{0}') && !page.contains("alert(1)</script>"));
    assert!(
        !page.contains("http://") && !page.contains("https://") && !page.contains("url("),
        "nothing to load"
    );
}

#[test]
fn what_is_cut_is_told_with_its_line() {
    let long = "The cook tastes the soup and adds a little salt. ".repeat(4);
    let mut config = DataConfig::new("x");
    config.max_length = 16;
    let pairs = [("a", "b"), (long.as_str(), "b"), ("a", long.as_str())];
    let told = page(&pairs, &config, 10);
    assert!(
        told.contains("1 samples were cut at data.max_length = 16") && told.contains("<p class=\"soft\">line 3</p>"),
        "{told}"
    );
    assert!(told.contains("left nothing to learn") && told.contains("<p class=\"soft\">line 2</p>"));
    config.overlong = crate::Overlong::Drop;
    let told = page(&pairs, &config, 10);
    assert!(
        told.contains("2 samples were left out as longer") && told.contains("<p class=\"soft\">line 2, line 3</p>")
    );
    config.limit = Some(1);
    assert!(page(&pairs, &config, 10).contains("Read up to data.limit = 1"));
}

#[test]
fn rows_have_a_border_before_every_document() {
    let mut config = DataConfig::new("x");
    (config.max_length, config.shuffle) = (32, false);
    let pairs = [("Who?", "The cook."); 3];
    let rows = page(&pairs, &config, 0);
    assert_eq!(rows.matches("<b>line ").count(), 3);
    assert!(rows.contains("<h2>Packed rows</h2>") && rows.contains("title=\"line 1: "));
    config.pack = Pack::Off;
    assert!(!page(&pairs, &config, 0).contains("Packed rows"));
}

#[test]
fn the_page_of_a_large_set_is_small() {
    let long = "The cook tastes the soup. ".repeat(20_000);
    let mut config = DataConfig::new("x");
    config.max_length = 1 << 20;
    let page = page(&[(long.as_str(), long.as_str()); 8], &config, 1000);
    elements(&page);
    assert!(page.len() < 2_000_000, "{}", page.len());
    assert!(page.contains("more tokens") && page.contains("20000 tokens at most"));
    let mut small = DataConfig::new("x");
    small.max_length = 8;
    let many = vec![("a", "The cook tastes the soup and adds a little salt."); 3000];
    let page = super::tests::page(&many, &small, 3000);
    assert!(
        page.contains("and 2950 more") && page.len() < 3_000_000,
        "{}",
        page.len()
    );
}
