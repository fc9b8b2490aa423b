//! One file per verb: its arguments (whose doc comments are the help) and what it does. A new verb is a file here, its
//! `mod` line and its line in the list.

mod adapters;
mod advise;
mod chat;
mod config;
mod continual;
mod data;
mod distill;
mod embed;
mod eval;
mod export;
mod generate;
mod inspect;
mod merge;
mod plan;
mod quantize;
mod serve;
mod train;

use clap::Subcommand;

use crate::failure::Failure;

macro_rules! verbs {
    ($($name:ident => $args:ty),* $(,)?) => {
        #[derive(Subcommand, Debug)]
        pub enum Verb {
            $($name($args)),*
        }

        impl Verb {
            /// Does it.
            pub fn run(self) -> Result<(), Failure> {
                match self {
                    $(Verb::$name(args) => args.run()),*
                }
            }
        }
    };
}

// In the order of the help.
verbs! {
    Train => train::Train,
    Plan => plan::Plan,
    Advise => advise::Advise,
    Eval => eval::Eval,
    Generate => generate::Generate,
    Chat => chat::Chat,
    Embed => embed::Embed,
    Serve => serve::Serve,
    Merge => merge::Merge,
    Quantize => quantize::Quantize,
    Distill => distill::Distill,
    Export => export::Export,
    Adapters => adapters::Adapters,
    Inspect => inspect::Inspect,
    Data => data::Data,
    Config => config::Config,
    Continual => continual::Continual,
}
