//! Renders conversations: JSON lines in, JSON lines out. `benches/check_templates.py` compares them with transformers'.
//!
//! ```text
//! {"template": "the Jinja source", "special": {"bos_token": ".."}, "kwargs": {}, "prompt": false, "messages": [..], "tools": [..],
//!  "documents": [..]}
//! {"text": ".."}   or   {"error": ".."}
//! ```
//!
//! `"named"` with the name of a built-in template may take the place of `"template"`.

use std::io::{BufRead, Write};

use ft_data::{ChatTemplate, Conversation, named_template};
use serde_json::{Value, json};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let case: Value = serde_json::from_str(&line?)?;
        let rendered = match render(&case) {
            Ok(text) => json!({ "text": text }),
            Err(error) => json!({ "error": error }),
        };
        writeln!(out, "{rendered}")?;
    }
    Ok(())
}

fn render(case: &Value) -> Result<String, String> {
    let source = match case["named"].as_str() {
        Some(name) => named_template(name).ok_or(format!("no template {name}"))?,
        None => case["template"].as_str().ok_or("no template")?,
    };
    let special = serde_json::from_value(case["special"].clone()).map_err(|e| e.to_string())?;
    let kwargs = case["kwargs"].as_object().cloned().unwrap_or_default();
    let conversation = Conversation {
        messages: case["messages"].as_array().cloned().unwrap_or_default(),
        tools: case.get("tools").filter(|t| !t.is_null()).cloned(),
        documents: case.get("documents").filter(|d| !d.is_null()).cloned(),
    };
    let template = ChatTemplate::new(source, &special).map_err(|e| e.to_string())?;
    template
        .with_kwargs(&kwargs)
        .render(&conversation, case["prompt"] == true)
}
