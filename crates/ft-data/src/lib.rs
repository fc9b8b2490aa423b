//! From a file of examples to padded batches of token ids with a loss mask that is right by construction.
//!
//! ```text
//!  sources     files, folders, patterns         one record at a time, decompressed
//!     |
//!  map         data.map placeholders            columns -> fields of the format
//!     |
//!  formats     text, prompt-completion,         fields -> tokens + which are learned
//!     |        instruct, chat
//!     |          uses template (Jinja) and tokenizer
//!  load        over-length policy, statistics, in parallel and in order
//!     |          of large sets into the token cache (cache), from where the next run reads them
//!  Sample      ids + learn           Order       which samples share a batch
//!     |                                |
//!  Batch       ids [rows, width], right padded, with positions and targets
//! ```
//!
//! Formats for preference data give pairs of samples, those for classification samples with a label.
//!
//! ```
//! use ft_data::{Batch, DataConfig, Order, Source, Tokenizer, load_source};
//!
//! # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/tokenizers/chatml");
//! # let folder = std::path::Path::new(folder);
//! let tokenizer = Tokenizer::from_dir(folder)?;
//! let examples = Source::Memory {
//!     name: "two.csv",
//!     bytes: b"question,answer\nTwo and two?,Four.\nThree and three?,Six.\n",
//! };
//! let mut config = DataConfig::new("two.csv");
//! config.map.insert("prompt".into(), "Q: {question}\nA:".into());
//! config.map.insert("completion".into(), " {answer}".into());
//!
//! let data = load_source(examples, &config, &tokenizer)?;
//! assert_eq!(tokenizer.decode(data.samples[0].answer(), true), " Four.");
//!
//! let lengths: Vec<usize> = data.samples.iter().map(|s| s.len()).collect();
//! for indices in Order::epoch(&lengths, 2, 42, 0, true) {
//!     let rows: Vec<_> = indices.iter().map(|&i| &data.samples[i]).collect();
//!     let batch = Batch::new(&rows, tokenizer.padding(), 1);
//!     assert_eq!(batch.ids.len(), batch.rows * batch.width);
//! }
//! # Ok::<(), ft_data::Error>(())
//! ```

#![warn(missing_docs)]

mod align;
mod augment;
mod batch;
mod cache;
mod check;
mod checksum;
mod config;
mod duplicates;
mod error;
mod formats;
mod labels;
mod lengths;
mod load;
mod map;
mod masking;
mod minhash;
mod order;
mod pack;
mod preview;
mod reference;
mod sample;
mod sources;
mod split;
mod statistics;
mod stored;
mod teacher_batch;
mod template;
mod tokenizer;

pub use align::{Span, Taught};
pub use augment::{
    Apply, AskedModel, AugmentConfig, Author, Made, OperatorConfig, Origin, Protected, Question, Reply, Rewritten,
    rewrite,
};
pub use batch::Batch;
pub use cache::{Cache, Cached, How, LARGE, let_go, passing};
pub use check::{Finding, Kind, Spot, check};
pub use checksum::checksum;
pub use config::{DataConfig, Overlong};
pub use duplicates::{Repeat, exact_duplicates, leak_warning, leaks, repeated_prompts};
pub use error::{At, Error, Flaw, MAX_FLAWS, Place, Result};
pub use formats::{Examples, FormatName};
pub use ft_seed::{below, shuffle, stream, sub_seed};
pub use labels::{LabelKind, Labels, NO_CLASS};
pub use lengths::{Lengths, Padding};
pub use load::{
    Augmented, Dataset, Duplicates, Fate, Records, Row, load_augmented, load_records, load_samples, load_source,
    load_taught,
};
pub use masking::Masking;
pub use minhash::{Text, near_duplicates};
pub use order::Order;
pub use pack::{Pack, pack_rows, share_rows};
pub use preview::{Preview, PreviewToken, is_preview_page, preview_page};
pub use rand_chacha::ChaCha8Rng;
pub use sample::{Preference, Sample};
pub use sources::{Files, MAX_DOCUMENT, MAX_RECORD, Role, Source, choose_files, finds};
pub use statistics::{Bin, Counts, Statistics};
pub use stored::{Stored, Word};
pub use teacher_batch::TeacherBatch;
pub use template::{ChatTemplate, Conversation, named_template, template_names};
pub use tokenizer::{TextStream, Tokenizer};
