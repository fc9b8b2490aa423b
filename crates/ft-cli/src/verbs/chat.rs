//! `ft chat`: a conversation in the terminal, through the tokenizer's own chat template.

use std::io::{BufRead, IsTerminal, Write};

use ft_data::Conversation;
use ft_infer::GenerationConfig;

use crate::args::{DeviceArg, NamedAdapter};
use crate::failure::Failure;
use crate::model::Loaded;
use crate::verbs::generate::{Sampling, Stream};
use crate::weights::Weights;
use crate::{device, locate};

/// Talk with a model in the terminal
#[derive(clap::Args, Debug)]
pub struct Chat {
    /// Folder, run folder, or embedded:tiny
    #[arg(value_name = "MODEL")]
    model: String,
    /// Adapter folder in PEFT layout (repeatable, with names); the first answers until /adapter changes it
    #[arg(long, value_name = "[NAME=]DIR")]
    adapter: Vec<NamedAdapter>,
    /// Message of the system that opens the conversation
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    #[command(flatten)]
    sampling: Sampling,
    #[command(flatten)]
    weights: Weights,
    #[command(flatten)]
    device: DeviceArg,
}

impl Chat {
    pub fn run(self) -> Result<(), Failure> {
        let located = locate::locate(&self.model, self.adapter.first().map(|first| first.path.as_path()))?;
        let picked = device::pick(self.device.device)?;
        let mut loaded = Loaded::open_named(located, &self.adapter, self.weights, &picked)?;
        loaded.must_write("chat")?;
        if loaded.tokenizer.chat_template().is_none() {
            return Err(Failure::new(format!(
                "the tokenizer of `{}` has no chat template, so it knows no conversation; use `ft generate`",
                self.model
            )));
        }
        let config = loaded.generation(&self.sampling.options())?;
        hint("type a message; /new starts over, /adapter NAME or off changes who answers, /quit or Ctrl-D ends\n");
        let mut talk = self.opening();
        while let Some(line) = ask()? {
            match line.trim() {
                "" => {}
                "/quit" | "/exit" => break,
                "/new" => talk = self.opening(),
                command if command == "/adapter" || command.starts_with("/adapter ") => {
                    switch(&mut loaded, command.trim_start_matches("/adapter").trim());
                }
                message => talk = answer(&loaded, &config, talk.with("user", message))?,
            }
        }
        Ok(())
    }

    fn opening(&self) -> Conversation {
        let empty = Conversation::new();
        self.system
            .as_ref()
            .map_or(empty.clone(), |text| empty.with("system", text))
    }
}

/// Puts another adapter into the model, or none, and says so; a wrong name ends nothing.
fn switch(loaded: &mut Loaded, name: &str) {
    let wanted = (name != "off").then_some(name);
    let text = match loaded.adapters.activate(&mut loaded.model, wanted) {
        Ok(()) => format!("{} answers\n", wanted.unwrap_or("the base")),
        Err(e) => format!("{e}\n"),
    };
    // A closed stderr leaves nobody to tell.
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// The next line, `None` at the end of the input.
fn ask() -> Result<Option<String>, Failure> {
    hint("> ");
    let mut line = String::new();
    let read = std::io::stdin().lock().read_line(&mut line)?;
    Ok((read > 0).then_some(line))
}

/// The conversation with the model's answer, which was shown while it was made.
fn answer(loaded: &Loaded, config: &GenerationConfig, talk: Conversation) -> Result<Conversation, Failure> {
    let prompt = loaded.tokenizer.encode_chat(&talk)?;
    let mut stream = Stream::new(&loaded.tokenizer);
    ft_infer::generate(&loaded.model, &[prompt], config, &mut |token| stream.push(token))?;
    let text = stream.finish()?;
    Ok(talk.with("assistant", text.trim_end()))
}

/// For people only: says nothing when the input is no terminal.
fn hint(text: &str) {
    if std::io::stdin().is_terminal() {
        let mut err = std::io::stderr();
        // A closed stderr leaves nobody to tell.
        let _ = err.write_all(text.as_bytes()).and_then(|()| err.flush());
    }
}
