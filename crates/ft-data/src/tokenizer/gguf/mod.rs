//! Tokenizers in GGUF files (`tokenizer.ggml.*`), written and read.
//!
//! llama.cpp knows two kinds of BPE, and has their splitting rules built in under names: over bytes ("gpt2", with
//! `tokenizer.ggml.pre` naming the regular expressions), and SentencePiece's ("llama", where a score per token says what is
//! merged first). What is neither is refused, since text would silently become other tokens.

mod merges;
mod read;
mod write;

pub(super) use read::files;

/// How text is split before bytes are merged.
struct Split {
    /// Value of `tokenizer.ggml.pre`.
    name: &'static str,
    /// Other names of the same.
    others: &'static [&'static str],
    rule: Rule,
    /// Whether a word that is a token is not put together from its bytes (`ignore_merges`).
    ignores_merges: bool,
}

enum Rule {
    /// The expression that is built into `ByteLevel`, GPT-2's.
    Gpt2,
    /// The same, after every digit was put aside.
    Digits,
    /// An expression of its own.
    Regex(&'static str),
}

const SPLITS: [Split; 6] = [
    Split {
        name: "gpt-2",
        others: &["olmo", "mpt", "jais"],
        rule: Rule::Gpt2,
        ignores_merges: false,
    },
    Split {
        name: "smollm",
        others: &["starcoder", "refact", "codeshell"],
        rule: Rule::Digits,
        ignores_merges: false,
    },
    Split {
        name: "llama-bpe",
        others: &["llama3", "llama-v3", "falcon3"],
        rule: Rule::Regex(LLAMA3),
        ignores_merges: true,
    },
    Split {
        name: "dbrx",
        others: &["smaug-bpe"],
        rule: Rule::Regex(LLAMA3),
        ignores_merges: false,
    },
    Split {
        name: "qwen2",
        others: &["deepseek-r1-qwen", "megrez"],
        rule: Rule::Regex(QWEN2),
        ignores_merges: false,
    },
    Split {
        name: "tekken",
        others: &[],
        rule: Rule::Regex(TEKKEN),
        ignores_merges: true,
    },
];

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// What SentencePiece writes for a space.
const SPACE: &str = "▁";

/// Values of `tokenizer.ggml.token_type`.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;

#[cfg(test)]
mod tests;
