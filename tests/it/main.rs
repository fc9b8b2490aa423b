mod families;
mod lora;
mod support;
