//! The bytes of text that each token stands for.

use std::sync::LazyLock;

use super::Tokenizer;

/// How the vocabulary spells text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spelling {
    /// Byte-level BPE: every byte is a character (GPT-2's table).
    Bytes,
    /// SentencePiece: spaces are `▁`, and `<0x0A>` is a byte.
    Pieces,
    /// WordPiece: `##` continues a word; other tokens begin one.
    WordPieces,
    /// Tokens are words, put together with spaces.
    Words,
}

impl Spelling {
    /// What the decoder undoes.
    pub fn of(inner: &tokenizers::Tokenizer) -> Spelling {
        let decoder = inner.get_decoder().map(serde_json::to_string);
        let Some(Ok(decoder)) = decoder else {
            return Spelling::Words;
        };
        let has = |step: &str| decoder.contains(&format!("\"type\":\"{step}\""));
        match () {
            () if has("ByteLevel") => Spelling::Bytes,
            () if has("WordPiece") => Spelling::WordPieces,
            () => Spelling::Pieces,
        }
    }

    fn bytes(self, token: &str) -> Vec<u8> {
        match self {
            Spelling::Bytes => {
                let bytes: Option<Vec<u8>> = token.chars().map(byte).collect();
                bytes.unwrap_or_else(|| token.into())
            }
            Spelling::Pieces => match hex(token) {
                Some(byte) => vec![byte],
                None => token.replace('▁', " ").into(),
            },
            Spelling::WordPieces => match token.strip_prefix("##") {
                Some(rest) => rest.into(),
                None => format!(" {token}").into(),
            },
            Spelling::Words => format!(" {token}").into(),
        }
    }
}

/// The byte that a character of byte-level BPE stands for: itself where it can be seen, else one of those from U+0100 on, in order.
fn byte(character: char) -> Option<u8> {
    let seen = |byte: &u8| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    match u8::try_from(u32::from(character)) {
        Ok(byte) => seen(&byte).then_some(byte),
        Err(_) => {
            let number = u32::from(character) - 256;
            (0..=255u8).filter(|byte| !seen(byte)).nth(number as usize)
        }
    }
}

/// The character that stands for a byte: the other way round.
pub(super) fn character(byte: u8) -> char {
    static CHARACTERS: LazyLock<[char; 256]> = LazyLock::new(|| {
        let mut characters = ['\0'; 256];
        for character in (0..0x200).filter_map(char::from_u32) {
            if let Some(byte) = self::byte(character) {
                characters[usize::from(byte)] = character;
            }
        }
        characters
    });
    CHARACTERS[usize::from(byte)]
}

/// `<0x0A>`.
fn hex(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    u8::from_str_radix(digits, 16).ok().filter(|_| digits.len() == 2)
}

impl Tokenizer {
    /// The bytes that a token adds to a text. One that begins a text may have a space too many. None for ids outside of the vocabulary.
    pub fn bytes_of(&self, id: u32) -> Vec<u8> {
        let parts = &self.parts;
        let added = parts.inner.get_added_vocabulary().get_added_tokens_decoder();
        match (added.get(&id), self.id_to_token(id)) {
            (Some(token), _) => token.content.clone().into(),
            (None, Some(token)) => parts.spelling.bytes(&token),
            (None, None) => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_a_character() {
        let characters = (0..0x200).filter_map(char::from_u32);
        let mut bytes: Vec<u8> = characters.filter_map(byte).collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
        assert!((0..=255).all(|b| byte(character(b)) == Some(b)));
        assert_eq!(
            (byte('Ġ'), byte('Ċ'), byte('a'), byte('Ń')),
            (Some(32), Some(10), Some(97), Some(173))
        );
        assert_eq!((byte(' '), byte('▁')), (None, None));
    }

    #[test]
    fn tokens_add_up_to_the_text() {
        let text = "Zürich's naïve cook — 1999 \u{1f35c}\n\n  soup";
        for name in ["chatml", "llama"] {
            let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/tokenizers/");
            let tokenizer = Tokenizer::from_dir(&std::path::Path::new(folder).join(name)).unwrap();
            let ids = tokenizer.encode(text, false).unwrap();
            let bytes: Vec<u8> = ids.iter().flat_map(|id| tokenizer.bytes_of(*id)).collect();
            let bytes = String::from_utf8(bytes).unwrap();
            assert_eq!(bytes.strip_prefix(' ').unwrap_or(&bytes), text, "{name}");
        }
        assert_eq!(Spelling::WordPieces.bytes("##ing"), b"ing");
        assert_eq!(Spelling::WordPieces.bytes("go"), b" go");
        assert_eq!(Spelling::Pieces.bytes("<0x0A>"), b"\n");
        assert_eq!(Spelling::Pieces.bytes("▁<0x"), b" <0x");
    }
}
