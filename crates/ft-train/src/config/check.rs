//! Holds a configuration against its JSON schema: every unknown key (with the known one it was probably meant to be)
//! and every value of the wrong type, all at once and each with its place in the file. `serde` has the last word
//! afterwards, but stops at the first error and cannot point into tagged enums.

use serde_json::Value;
use toml::Spanned;
use toml::de::{DeArray, DeValue};

use super::Issue;
use super::source::{Sources, Tree, join};

/// One [`Issue`] per key of `tree` that the schema does not know or whose value it does not take.
pub(super) fn against_schema(tree: &Tree, schema: &Value, sources: &Sources) -> Vec<Issue> {
    let mut check = Check {
        root: schema,
        known: all_paths(schema),
        sources,
        issues: Vec::new(),
    };
    check.table(tree, "", schema);
    check.issues
}

struct Check<'s> {
    root: &'s Value,
    known: Vec<String>,
    sources: &'s Sources,
    issues: Vec<Issue>,
}

impl<'s> Check<'s> {
    fn report(&mut self, offset: usize, message: String) {
        let issue = Issue::new(self.sources.locate(offset), message);
        if !self.issues.contains(&issue) {
            self.issues.push(issue);
        }
    }

    fn table(&mut self, tree: &Tree, prefix: &str, node: &'s Value) {
        let shapes = chosen(leaves(node, self.root), tree);
        // A shape that is not closed takes any key (a free-form map); there is nothing to judge then.
        let closed = |s: &&Value| s["additionalProperties"] == Value::Bool(false);
        let shapes: Vec<&Value> = shapes.into_iter().filter(|s| s["properties"].is_object()).collect();
        if shapes.is_empty() || !shapes.iter().all(closed) {
            return;
        }
        for (key, value) in tree {
            let path = join(prefix, key.get_ref());
            let below = shapes
                .iter()
                .filter_map(|s| s["properties"].get(key.get_ref().as_ref()));
            let below: Vec<&Value> = below.collect();
            match below.is_empty() {
                true => self.unknown(&path, key.span().start, &shapes),
                false => self.value(value, &path, &below),
            }
        }
    }

    fn unknown(&mut self, path: &str, offset: usize, shapes: &[&Value]) {
        let known = |key: &str| self.known.iter().any(|k| k == key);
        let name = last(path);
        let namesakes: Vec<&str> = self
            .known
            .iter()
            .map(String::as_str)
            .filter(|k| last(k) == name)
            .collect();
        let foreign = FOREIGN
            .iter()
            .find(|(word, key)| *word == name && known(key))
            .map(|(_, key)| *key);
        if known(path) {
            let here = siblings(shapes).join(", ");
            return self.report(
                offset,
                format!("`{path}` belongs to another choice of this section; known here: {here}"),
            );
        }
        let hint = match (namesakes.as_slice(), foreign.or_else(|| nearest(path, &self.known))) {
            ([], Some(best)) => format!("; did you mean `{best}`?"),
            ([], None) => format!("; known here: {}", siblings(shapes).join(", ")),
            (elsewhere, _) => format!("; did you mean `{}`?", elsewhere.join("` or `")),
        };
        self.report(offset, format!("unknown key `{path}`{hint}"));
    }

    fn value(&mut self, value: &Spanned<DeValue>, path: &str, nodes: &[&'s Value]) {
        match value.get_ref() {
            DeValue::Table(inner) => nodes.iter().for_each(|node| self.table(inner, path, node)),
            DeValue::Array(list) => self.items(list, path, nodes),
            _ => {}
        }
        let leaves: Vec<&Value> = nodes.iter().flat_map(|n| leaves(n, self.root)).collect();
        let wanted: Vec<&str> = leaves.iter().flat_map(|l| type_names(l)).collect();
        if !wanted.is_empty() && !leaves.iter().any(|l| takes(l, value.get_ref())) {
            let message = format!("`{path}` must be {}, not {}", spell(&wanted), kind(value.get_ref()));
            return self.report(value.span().start, message);
        }
        if let DeValue::String(text) = value.get_ref() {
            self.word(text, path, value.span().start, &leaves);
        }
    }

    /// Tables in a list, such as `[[task]]`.
    fn items(&mut self, list: &DeArray, path: &str, nodes: &[&'s Value]) {
        let lists = nodes.iter().flat_map(|node| leaves(node, self.root));
        let items: Vec<&Value> = lists
            .map(|list| &list["items"])
            .filter(|items| items.is_object())
            .collect();
        for item in list.iter().filter(|item| matches!(item.get_ref(), DeValue::Table(_))) {
            self.value(item, path, &items);
        }
    }

    /// A string where only certain words are allowed.
    fn word(&mut self, text: &str, path: &str, offset: usize, leaves: &[&Value]) {
        let open = |l: &&Value| takes(l, &DeValue::String(text.into())) && words(l).is_empty();
        let allowed: Vec<String> = leaves.iter().flat_map(|l| words(l)).collect();
        if allowed.is_empty() || leaves.iter().any(open) || allowed.iter().any(|w| w == text) {
            return;
        }
        let hint = match nearest(text, &allowed) {
            Some(best) => format!("; did you mean \"{best}\"?"),
            None => String::new(),
        };
        let message = format!(
            "`{path}` must be one of \"{}\", not \"{text}\"{hint}",
            allowed.join("\", \"")
        );
        self.report(offset, message);
    }
}

/// Names that other trainers use, and ours.
const FOREIGN: &[(&str, &str)] = &[
    ("learning_rate", "optim.lr"),
    ("max_grad_norm", "optim.clip"),
    ("optimizer", "optim.kind"),
    ("lr_scheduler_type", "schedule.kind"),
    ("label_smoothing_factor", "objective.label_smoothing"),
    ("neftune_noise_alpha", "objective.neftune_alpha"),
    ("warmup_steps", "schedule.warmup"),
    ("warmup_ratio", "schedule.warmup"),
    ("per_device_train_batch_size", "train.batch_size"),
    ("micro_batch_size", "train.batch_size"),
    ("gradient_accumulation_steps", "train.accumulation"),
    ("num_train_epochs", "train.epochs"),
    ("num_epochs", "train.epochs"),
    ("max_steps", "train.steps"),
    ("output_dir", "train.out"),
    ("logging_steps", "train.log_every"),
    ("eval_steps", "train.eval_every"),
    ("save_steps", "train.save_every"),
    ("save_total_limit", "train.keep"),
    ("load_best_model_at_end", "train.load_best"),
    ("early_stopping_patience", "train.early_stopping.patience"),
    ("r", "peft.rank"),
    ("lora_r", "peft.rank"),
    ("lora_alpha", "peft.alpha"),
    ("lora_dropout", "peft.dropout"),
    ("target_modules", "peft.targets"),
    ("lora_target_modules", "peft.targets"),
    ("base_model", "model.path"),
    ("model_name_or_path", "model.path"),
    ("max_seq_length", "data.max_length"),
    ("sequence_len", "data.max_length"),
];

fn last(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

fn siblings(shapes: &[&Value]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for name in shapes
        .iter()
        .filter_map(|s| s["properties"].as_object())
        .flat_map(|o| o.keys())
    {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    names
}

/// The known dotted path spelled most like `path`; a sibling wins over the same word in another section.
pub(super) fn nearest<'k>(path: &str, known: &'k [String]) -> Option<&'k str> {
    let split = |p: &'_ str| {
        p.rsplit_once('.')
            .map_or((String::new(), p.to_owned()), |(a, b)| (a.into(), b.into()))
    };
    let (parent, name) = split(path);
    let score = |candidate: &str| {
        let (other_parent, other) = split(candidate);
        let near = strsim::normalized_damerau_levenshtein(&name, &other);
        let part = name.len() > 3 && other.len() > 3 && (other.contains(&name) || name.contains(&other));
        near.max(if part { 0.7 } else { 0.0 }) + if parent == other_parent { 0.15 } else { 0.0 }
    };
    let scored = known.iter().map(|k| (score(k), k.as_str())).filter(|(s, _)| *s >= 0.7);
    scored.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, k)| k)
}

/// Drops the variants of a tagged enum whose tag is not the one in `tree`; a tag that none of them has keeps them all.
fn chosen<'s>(shapes: Vec<&'s Value>, tree: &Tree) -> Vec<&'s Value> {
    let tag_fits = |shape: &Value| {
        let tags = shape["properties"].as_object().into_iter().flatten();
        let mut judged = tags.filter_map(|(name, node)| {
            let typed = tree.get(name.as_str()).map(Spanned::get_ref);
            let tag = node["const"].is_string() || name == "kind";
            match typed {
                Some(DeValue::String(word)) if tag => Some(words(node).iter().any(|w| w == word)),
                _ => None,
            }
        });
        judged.next()
    };
    match shapes.iter().any(|s| tag_fits(s) == Some(true)) {
        true => shapes.into_iter().filter(|s| tag_fits(s) != Some(false)).collect(),
        false => shapes,
    }
}

/// The plain schemas that a node may stand for, through `$ref`, `anyOf`, `oneOf` and `allOf`. A node that carries
/// properties beside variants contributes to each of them.
fn leaves<'s>(node: &'s Value, root: &'s Value) -> Vec<&'s Value> {
    if let Some(target) = node["$ref"].as_str() {
        let found = root.pointer(target.trim_start_matches('#'));
        return found.map_or(Vec::new(), |n| leaves(n, root));
    }
    let variants = ["anyOf", "oneOf", "allOf"]
        .iter()
        .filter_map(|k| node[*k].as_array())
        .flatten();
    let below: Vec<&Value> = variants.flat_map(|v| leaves(v, root)).collect();
    if below.is_empty() || node["properties"].is_object() {
        let own = std::iter::once(node);
        return own.chain(below).collect();
    }
    below
}

fn type_names(leaf: &Value) -> Vec<&str> {
    match &leaf["type"] {
        Value::String(one) => vec![one],
        Value::Array(many) => many.iter().filter_map(Value::as_str).collect(),
        _ if leaf["const"].is_string() || leaf["enum"].is_array() => vec!["string"],
        _ => Vec::new(),
    }
}

fn takes(leaf: &Value, value: &DeValue) -> bool {
    let types = type_names(leaf);
    types.is_empty()
        || types.iter().any(|t| match *t {
            "integer" => matches!(value, DeValue::Integer(_)),
            "number" => matches!(value, DeValue::Integer(_) | DeValue::Float(_)),
            "string" => matches!(value, DeValue::String(_)),
            "boolean" => matches!(value, DeValue::Boolean(_)),
            "array" => matches!(value, DeValue::Array(_)),
            "object" => matches!(value, DeValue::Table(_)),
            _ => false,
        })
}

fn words(leaf: &Value) -> Vec<String> {
    let listed = leaf["enum"].as_array().into_iter().flatten().filter_map(Value::as_str);
    leaf["const"]
        .as_str()
        .into_iter()
        .chain(listed)
        .map(str::to_owned)
        .collect()
}

fn spell(types: &[&str]) -> String {
    let mut names: Vec<&str> = types
        .iter()
        .filter_map(|t| match *t {
            "integer" => Some("an integer"),
            "number" => Some("a number"),
            "string" => Some("a string"),
            "boolean" => Some("true or false"),
            "array" => Some("a list"),
            "object" => Some("a table"),
            _ => None,
        })
        .collect();
    names.dedup();
    names.join(" or ")
}

fn kind(value: &DeValue) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// Every dotted path of the schema.
pub(super) fn all_paths(schema: &Value) -> Vec<String> {
    fn collect(node: &Value, root: &Value, prefix: &str, out: &mut Vec<String>) {
        for shape in leaves(node, root) {
            if shape["items"].is_object() {
                collect(&shape["items"], root, prefix, out);
            }
            for (name, below) in shape["properties"].as_object().into_iter().flatten() {
                let path = join(prefix, name);
                if !out.contains(&path) {
                    out.push(path.clone());
                }
                collect(below, root, &path, out);
            }
        }
    }
    let mut out = Vec::new();
    collect(schema, schema, "", &mut out);
    out
}
