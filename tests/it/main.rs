mod evaluate;
mod families;
mod generate;
mod lora;
mod support;
