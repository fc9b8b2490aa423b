//! Tools: which a request declares, and the calls in an answer.
//!
//! Models write calls as they learned to. Understood are Hermes' form (`<tool_call>{"name": .., "arguments": ..}</tool_call>`, which
//! Qwen speaks too) and an answer that is nothing but such an object, with `parameters` in place of `arguments` in Llama 3's form, or a
//! list of them, as Mistral writes. What names no declared tool is text.

use serde_json::{Map, Value, json};

use crate::error::ApiError;
use crate::fields::Fields;

const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";

/// The tools of a request, and whether they may or must be called.
#[derive(Debug, Default)]
pub struct Tools {
    declared: Vec<Value>,
    /// Names of which one must be called; none where the model decides.
    forced: Vec<String>,
}

impl Tools {
    pub fn take(fields: &mut Fields) -> Result<Self, ApiError> {
        let choice = fields.take("tool_choice");
        let declared = match fields.take("tools") {
            Some(Value::Array(tools)) => tools,
            None => Vec::new(),
            Some(_) => return Err(ApiError::field("tools", "a list is expected")),
        };
        let wrong = |why: String| Err(ApiError::field("tool_choice", why));
        let mut tools = Self {
            declared,
            forced: Vec::new(),
        };
        match choice {
            None => {}
            Some(Value::String(choice)) => match choice.as_str() {
                "auto" => {}
                "none" => tools.declared.clear(),
                "required" if tools.names().is_empty() => {
                    return wrong("a call is required, and no tool is declared".into());
                }
                "required" => tools.forced = tools.names(),
                _ => return wrong(format!("\"{choice}\" is not one of auto, none and required")),
            },
            Some(named) => match named["function"]["name"].as_str() {
                Some(name) if tools.names().iter().any(|own| own == name) => tools.forced = vec![name.to_owned()],
                Some(name) => return wrong(format!("no tool \"{name}\" is declared")),
                None => return wrong("a text, or an object that names a function, is expected".into()),
            },
        }
        Ok(tools)
    }

    /// As the chat template sees them.
    pub fn for_template(&self) -> Option<Value> {
        (!self.declared.is_empty()).then(|| self.declared.clone().into())
    }

    fn names(&self) -> Vec<String> {
        let names = self
            .declared
            .iter()
            .filter_map(|tool| tool["function"]["name"].as_str());
        names.map(str::to_owned).collect()
    }

    /// The JSON schema of the answer where a call is required.
    pub fn schema(&self) -> Option<Value> {
        let call = |name: &String| {
            let mut tools = self.declared.iter().map(|tool| &tool["function"]);
            let parameters = tools
                .find(|tool| tool["name"] == **name)
                .map(|tool| &tool["parameters"]);
            let parameters = parameters.filter(|own| own.is_object()).cloned();
            json!({
                "type": "object",
                "properties": { "name": { "const": name }, "arguments": parameters.unwrap_or_else(|| json!({ "type": "object" })) },
                "required": ["name", "arguments"],
                "additionalProperties": false,
            })
        };
        let calls: Vec<Value> = self.forced.iter().map(call).collect();
        (!calls.is_empty()).then(|| json!({ "anyOf": calls }))
    }

    /// Looks for calls in an answer.
    pub fn reader(&self) -> Reader {
        Reader {
            names: self.names(),
            ..Reader::default()
        }
    }
}

#[derive(Debug, Default, PartialEq)]
enum Place {
    /// Nothing but white space came.
    #[default]
    Start,
    /// In text that is said.
    Text,
    /// In what may be calls: held back to the end.
    Calls,
}

/// Splits an answer into what is said and what is called, while it comes.
#[derive(Debug, Default)]
pub struct Reader {
    names: Vec<String>,
    held: String,
    place: Place,
}

impl Reader {
    /// Takes a piece of the answer; what of it is certainly text.
    pub fn push(&mut self, piece: &str) -> String {
        if self.names.is_empty() {
            return piece.to_owned();
        }
        self.held.push_str(piece);
        if self.place == Place::Start {
            self.place = match self.held.trim_start().chars().next() {
                None => Place::Start,
                Some('{' | '[') => Place::Calls,
                Some(_) => Place::Text,
            };
        }
        if self.place != Place::Text {
            return String::new();
        }
        let said = match self.held.find(OPEN) {
            Some(at) => {
                self.place = Place::Calls;
                at
            }
            None => self.held.len() - begun(&self.held),
        };
        self.held.drain(..said).collect()
    }

    /// The rest of the text, and the calls.
    pub fn finish(self) -> (String, Vec<Call>) {
        let calls = |text: &str| -> Option<Vec<Call>> {
            let values = match serde_json::from_str(text.trim()).ok()? {
                Value::Array(values) => values,
                value => vec![value],
            };
            let calls: Option<Vec<Call>> = values.into_iter().map(|value| Call::of(value, &self.names)).collect();
            calls.filter(|calls| !calls.is_empty())
        };
        if let Some(whole) = calls(&self.held) {
            return (String::new(), whole);
        }
        let (mut text, mut made, mut rest) = (String::new(), Vec::new(), self.held.as_str());
        while let Some((before, behind)) = rest.split_once(OPEN) {
            let (inner, after) = behind.split_once(CLOSE).unwrap_or((behind, ""));
            text.push_str(before);
            match calls(inner) {
                Some(calls) => made.extend(calls),
                None => text.push_str(&rest[before.len()..rest.len() - after.len()]),
            }
            rest = after;
        }
        text.push_str(rest);
        if !made.is_empty() && text.trim().is_empty() {
            text.clear();
        }
        (text, made)
    }
}

/// Bytes at the end of a text with which [`OPEN`] may begin.
fn begun(text: &str) -> usize {
    let most = OPEN.len().min(text.len());
    let ends = |length: &usize| text.ends_with(&OPEN[..*length]);
    (1..=most).rev().find(ends).unwrap_or(0)
}

/// A call of a tool.
#[derive(Debug, PartialEq)]
pub struct Call {
    name: String,
    /// A JSON object as text, as OpenAI has it.
    arguments: String,
}

impl Call {
    fn of(value: Value, names: &[String]) -> Option<Self> {
        let Value::Object(mut call) = value else { return None };
        let name = call.get("name")?.as_str()?.to_owned();
        let arguments = match call.remove("arguments").or_else(|| call.remove("parameters")) {
            None => Map::new(),
            Some(Value::Object(arguments)) => arguments,
            Some(Value::String(text)) => serde_json::from_str(&text).ok()?,
            Some(_) => return None,
        };
        let arguments = Value::Object(arguments).to_string();
        names.contains(&name).then_some(Self { name, arguments })
    }

    /// In the form of OpenAI's answers.
    pub fn object(&self, id: String) -> Value {
        json!({ "id": id, "type": "function", "function": { "name": self.name, "arguments": self.arguments } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tools(choice: Value) -> Result<Tools, ApiError> {
        let parameters = json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]});
        let body = json!({"tool_choice": choice, "tools": [
            {"type": "function", "function": {"name": "weather", "parameters": parameters}},
            {"type": "function", "function": {"name": "now"}},
        ]});
        let mut fields = Fields::parse(body.to_string().as_bytes()).unwrap();
        Tools::take(&mut fields).and_then(|tools| fields.end().map(|()| tools))
    }

    /// What is said and called, whatever the pieces.
    fn read(answer: &str) -> (String, Vec<(String, String)>) {
        let tools = tools("auto".into()).unwrap();
        let parts = |pieces: &[String]| {
            let mut reader = tools.reader();
            let said: String = pieces.iter().map(|piece| reader.push(piece)).collect();
            let (rest, calls) = reader.finish();
            (said + &rest, calls)
        };
        let letters: Vec<String> = answer.chars().map(String::from).collect();
        let whole = parts(&[answer.to_owned()]);
        assert_eq!(whole, parts(&letters), "{answer}");
        let calls = whole.1.into_iter().map(|call| (call.name, call.arguments)).collect();
        (whole.0, calls)
    }

    #[test]
    fn the_forms_in_which_models_call() {
        let call = |arguments: &str| vec![("weather".to_owned(), arguments.to_owned())];
        let oslo = r#"{"city":"Oslo"}"#;
        let hermes = "I look.\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Oslo\"}}\n</tool_call>";
        assert_eq!(read(hermes), ("I look.\n".into(), call(oslo)));
        assert_eq!(
            read(r#"{"name": "weather", "parameters": {"city": "Oslo"}}"#),
            (String::new(), call(oslo))
        );
        assert_eq!(
            read(r#" [{"name": "weather", "arguments": "{\"city\":\"Oslo\"}"}]"#).1,
            call(oslo)
        );
        let two = "<tool_call>{\"name\": \"weather\"}</tool_call>\n<tool_call>{\"name\": \"now\"}";
        assert_eq!(
            read(two),
            (
                String::new(),
                vec![("weather".into(), "{}".into()), ("now".into(), "{}".into())]
            )
        );
    }

    #[test]
    fn everything_else_is_text() {
        for text in [
            "Hello <tool",
            "a < b",
            "<tool_call>not JSON</tool_call> yes",
            "{\"name\": \"unknown\"}",
            "{\"name\": \"now\", \"arguments\": 5}",
            "[]",
            "[1, 2]",
            "{",
            "  ",
            "",
            "<tool_call>",
        ] {
            assert_eq!(read(text), (text.to_owned(), Vec::new()));
        }
    }

    #[test]
    fn without_tools_nothing_is_held_back() {
        let mut reader = Tools::default().reader();
        assert_eq!(reader.push("{"), "{");
        assert_eq!(reader.push("<tool_call>"), "<tool_call>");
        assert_eq!(reader.finish(), (String::new(), Vec::new()));
    }

    #[test]
    fn what_must_be_called_is_a_schema() {
        assert!(tools("auto".into()).unwrap().schema().is_none());
        assert!(tools("none".into()).unwrap().for_template().is_none());
        let all = tools("required".into()).unwrap().schema().unwrap();
        assert_eq!(all["anyOf"].as_array().unwrap().len(), 2);
        let one = tools(json!({"type": "function", "function": {"name": "weather"}}))
            .unwrap()
            .schema()
            .unwrap();
        assert_eq!(one["anyOf"][0]["properties"]["arguments"]["required"][0], "city");
        for wrong in [
            json!("any"),
            json!({"type": "function", "function": {"name": "x"}}),
            json!({}),
            json!(1),
        ] {
            assert_eq!(tools(wrong).unwrap_err().body()["error"]["param"], "tool_choice");
        }
    }
}
