//! `ft generate`: continues prompts, or answers them as chat messages.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use ft_data::{Conversation, Tokenizer};
use ft_infer::{FinishReason, Generation, GenerationOptions, MixedRows, Token};
use ft_peft::RowChoice;
use serde_json::json;

use crate::args::{DeviceArg, NamedAdapter};
use crate::failure::{Context, Failure};
use crate::model::Loaded;
use crate::weights::Weights;
use crate::{device, locate, output};

/// Continue prompts, or answer them
#[derive(clap::Args, Debug)]
pub struct Generate {
    /// Folder, run folder, or embedded:tiny
    #[arg(value_name = "MODEL")]
    model: String,
    /// The prompt
    #[arg(
        long,
        value_name = "TEXT",
        required_unless_present = "prompts",
        conflicts_with = "prompts"
    )]
    prompt: Option<String>,
    /// A prompt per line; or .jsonl, with the prompt in "prompt" (a text) or "messages" (a conversation), and, where it is not
    /// the first, its adapter in "adapter" (a name, or "off")
    #[arg(long, value_name = "FILE")]
    prompts: Option<PathBuf>,
    /// Adapter folder in PEFT layout (repeatable, with names); prompts that name none take the first
    #[arg(long, value_name = "[NAME=]DIR")]
    adapter: Vec<NamedAdapter>,
    /// Put prompts into the tokenizer's chat template, as messages of a user
    #[arg(long)]
    chat: bool,
    #[command(flatten)]
    sampling: Sampling,
    /// Prompts that are continued together
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    weights: Weights,
    #[command(flatten)]
    device: DeviceArg,
}

/// How tokens are chosen. What is left out keeps the checkpoint's own setting.
#[derive(clap::Args, Debug, Clone)]
pub struct Sampling {
    /// Most tokens to generate
    #[arg(long, value_name = "N")]
    max_new_tokens: Option<usize>,
    /// Divides the logits; 0 always takes the likeliest token
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    temperature: Option<f64>,
    /// Keep the K likeliest tokens; 0 keeps all
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Keep the likeliest tokens that together reach this probability
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    top_p: Option<f64>,
    /// Keep tokens at least this likely relative to the likeliest
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    min_p: Option<f64>,
    /// Above 1: what was said already becomes less likely
    #[arg(long, value_name = "R", allow_negative_numbers = true)]
    repetition_penalty: Option<f64>,
    /// Beams of a beam search
    #[arg(long, value_name = "B")]
    num_beams: Option<usize>,
    /// Seed of the random draws
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Go on after a stop token
    #[arg(long)]
    ignore_eos: bool,
}

impl Sampling {
    /// What was typed, for [`Loaded::generation`].
    pub fn options(&self) -> GenerationOptions {
        GenerationOptions {
            max_new_tokens: self.max_new_tokens,
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            num_beams: self.num_beams,
            seed: self.seed,
            ignore_eos: self.ignore_eos.then_some(true),
            ..GenerationOptions::default()
        }
    }
}

impl Generate {
    pub fn run(self) -> Result<(), Failure> {
        let prompts = self.read_prompts()?;
        let located = locate::locate(&self.model, self.adapter.first().map(|first| first.path.as_path()))?;
        let picked = device::pick(self.device.device)?;
        let mut loaded = Loaded::open_named(located, &self.adapter, self.weights, &picked)?;
        loaded.must_write("generate")?;
        let options = GenerationOptions {
            batch_size: self.batch,
            ..self.sampling.options()
        };
        let config = loaded.generation(&options)?;
        let ids = prompts
            .iter()
            .map(|asked| asked.prompt.encode(&loaded.tokenizer))
            .collect::<Result<Vec<_>, _>>()?;

        let mixed = mix(&mut loaded, &prompts)?;
        let streams = self.prompt.is_some() && !self.json && config.num_beams == 1;
        let mut stream = streams.then(|| Stream::new(&loaded.tokenizer));
        let mut on_token = |token| match &mut stream {
            Some(stream) => stream.push(token),
            None => ControlFlow::Continue(()),
        };
        let generations = match mixed {
            None => ft_infer::generate(&loaded.model, &ids, &config, &mut on_token)?,
            Some((rows, adapters)) => {
                let mixed = MixedRows {
                    rows: &rows,
                    adapters: &adapters,
                };
                ft_infer::generate_mixed(&loaded.model, &ids, mixed, &config, &mut on_token)?
            }
        };
        match stream {
            Some(stream) => stream.finish().map(|_| ()),
            None if self.json => output::json(&self.report(&loaded.tokenizer, &generations)),
            None => generations
                .iter()
                .try_for_each(|g| output::write(&format!("{}\n", text(&loaded.tokenizer, g)))),
        }
    }

    fn read_prompts(&self) -> Result<Vec<Asked>, Failure> {
        let prompts = match (&self.prompt, &self.prompts) {
            (Some(text), _) => vec![Asked::plain(Prompt::Text(text.clone()))],
            (None, Some(file)) => Prompt::read(file)?,
            (None, None) => return Err(Failure::wrong_use("--prompt or --prompts is needed")),
        };
        let as_message = |asked: Asked| match asked.prompt {
            Prompt::Text(text) => Asked {
                prompt: Prompt::Chat(Conversation::new().with("user", &text)),
                ..asked
            },
            Prompt::Chat(_) => asked,
        };
        Ok(if self.chat {
            prompts.into_iter().map(as_message).collect()
        } else {
            prompts
        })
    }

    /// One prompt gives the object itself; a file of prompts gives them as a list, with the speed of all together.
    fn report(&self, tokenizer: &Tokenizer, generations: &[Generation]) -> serde_json::Value {
        let object = |g: &Generation| {
            json!({
                "text": text(tokenizer, g),
                "tokens": g.tokens,
                "finish_reason": g.finish_reason,
                "tokens_per_s": g.tokens_per_s(),
            })
        };
        match generations {
            [one] if self.prompt.is_some() => object(one),
            all => json!({ "generations": all.iter().map(object).collect::<Vec<_>>() }),
        }
    }
}

fn text(tokenizer: &Tokenizer, generation: &Generation) -> String {
    tokenizer.decode(generation.content(), true)
}

/// Adapters beside each other, and the index of each prompt's among them.
type Mixed = (RowChoice, Vec<Option<usize>>);

/// The adapters of the prompts, where these do not all take the first: by index among those that were put beside each
/// other.
fn mix(loaded: &mut Loaded, prompts: &[Asked]) -> Result<Option<Mixed>, Failure> {
    if prompts.iter().all(|asked| asked.adapter == Wanted::First) {
        return Ok(None);
    }
    let first = loaded.adapters.active().map(str::to_string);
    let name = |asked: &Asked| match &asked.adapter {
        Wanted::First => first.clone(),
        Wanted::Off => None,
        Wanted::Named(name) => Some(name.clone()),
    };
    let wanted: Vec<Option<String>> = prompts.iter().map(name).collect();
    let mut names: Vec<&str> = wanted.iter().flatten().map(String::as_str).collect();
    names.sort_unstable();
    names.dedup();
    let rows = loaded.adapters.mix(&mut loaded.model, &names)?;
    let index = |name: &String| names.binary_search(&name.as_str()).ok();
    Ok(Some((
        rows,
        wanted.iter().map(|name| name.as_ref().and_then(index)).collect(),
    )))
}

/// A prompt and who is to answer it.
#[derive(Debug, PartialEq)]
struct Asked {
    prompt: Prompt,
    adapter: Wanted,
}

/// The adapter for a prompt.
#[derive(Debug, PartialEq)]
enum Wanted {
    First,
    Off,
    Named(String),
}

impl Asked {
    fn plain(prompt: Prompt) -> Self {
        Self {
            prompt,
            adapter: Wanted::First,
        }
    }

    fn parse(line: &str) -> Result<Self, Failure> {
        let record: serde_json::Value = serde_json::from_str(line)?;
        let adapter = match record.get("adapter") {
            None => Wanted::First,
            Some(serde_json::Value::Null) => Wanted::Off,
            Some(serde_json::Value::String(name)) if name == "off" => Wanted::Off,
            Some(serde_json::Value::String(name)) => Wanted::Named(name.clone()),
            Some(other) => return Err(Failure::new(format!("\"adapter\" is {other}, a name is expected"))),
        };
        Ok(Self {
            prompt: Prompt::parse(&record)?,
            adapter,
        })
    }
}

/// What is to be continued.
#[derive(Debug, PartialEq)]
enum Prompt {
    Text(String),
    Chat(Conversation),
}

impl Prompt {
    fn encode(&self, tokenizer: &Tokenizer) -> Result<Vec<u32>, Failure> {
        match self {
            Prompt::Text(text) => Ok(tokenizer.encode(text, true)?),
            Prompt::Chat(conversation) => Ok(tokenizer.encode_chat(conversation)?),
        }
    }

    fn read(file: &Path) -> Result<Vec<Asked>, Failure> {
        let text = std::fs::read_to_string(file).context(file.display())?;
        let is_json = file.extension().is_some_and(|e| e == "jsonl" || e == "ndjson");
        let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
        let parse = |(number, line): (usize, &str)| match is_json {
            true => Asked::parse(line).context(format!("{}:{number}", file.display())),
            false => Ok(Asked::plain(Self::Text(line.to_string()))),
        };
        let prompts = lines.map(parse).collect::<Result<Vec<_>, _>>()?;
        if prompts.is_empty() {
            Err(Failure::new(format!("{}: no prompt in it", file.display())))
        } else {
            Ok(prompts)
        }
    }

    fn parse(record: &serde_json::Value) -> Result<Self, Failure> {
        match (&record["prompt"], &record["messages"]) {
            (serde_json::Value::String(text), _) => Ok(Self::Text(text.clone())),
            (_, serde_json::Value::Array(messages)) => Ok(Self::Chat(Conversation {
                messages: messages.clone(),
                ..Conversation::new()
            })),
            _ => Err(Failure::new("expected \"prompt\" (a text) or \"messages\" (a list)")),
        }
    }
}

/// Writes an answer to stdout while it is made.
pub struct Stream<'a> {
    text: ft_data::TextStream<'a>,
    shown: String,
    broken: Option<Failure>,
}

impl<'a> Stream<'a> {
    /// Nothing shown yet.
    pub fn new(tokenizer: &'a Tokenizer) -> Self {
        Self {
            text: tokenizer.text_stream(true),
            shown: String::new(),
            broken: None,
        }
    }

    /// Shows what the token completes; breaks the generation off when nobody reads any more.
    pub fn push(&mut self, token: Token) -> ControlFlow<()> {
        if token.finish == Some(FinishReason::Stop) {
            return ControlFlow::Continue(());
        }
        let piece = self.text.push(token.id);
        self.shown.push_str(&piece);
        match output::write(&piece) {
            Ok(()) => ControlFlow::Continue(()),
            Err(failure) => {
                self.broken = Some(failure);
                ControlFlow::Break(())
            }
        }
    }

    /// Shows the rest and ends the line; the whole answer.
    pub fn finish(self) -> Result<String, Failure> {
        if let Some(failure) = self.broken {
            return Err(failure);
        }
        let rest = self.text.finish();
        output::write(&format!("{rest}\n"))?;
        Ok(self.shown + &rest)
    }
}
