//! Cutting text into words, the units that merges never cross.
//!
//! The families describe their words by a regular expression with a look-ahead. Each of the three expressions known
//! here is a variation of one pattern, so that a hand-written scanner serves them all in one pass: no backtracking,
//! no limit on runs of white space. An expression that is not exactly one of the three is not known, whatever it
//! resembles.

use regex_syntax::hir::{Class, HirKind};

use super::error::TokenizerError;

/// The three known patterns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SplitPattern {
    /// Qwen2 and Qwen3: every digit is a word.
    Qwen2,
    /// Qwen3.5: as Qwen2, and combining marks belong to the letters.
    Qwen35,
    /// Llama 3: up to three digits are a word.
    Llama3,
}

/// The pattern of Qwen2, as `tokenizer.json` writes it.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// The pattern of Qwen3.5.
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// The pattern of Llama 3.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

impl SplitPattern {
    /// The pattern that is written exactly so.
    pub(super) fn from_regex(regex: &str) -> Option<Self> {
        match regex {
            QWEN2 => Some(Self::Qwen2),
            QWEN35 => Some(Self::Qwen35),
            LLAMA3 => Some(Self::Llama3),
            _ => None,
        }
    }

    /// Digits in one word.
    fn digits_max(self) -> usize {
        match self {
            Self::Qwen2 | Self::Qwen35 => 1,
            Self::Llama3 => 3,
        }
    }
}

/// What a character counts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CharClass {
    Other,
    Letter,
    Number,
    Space,
}

/// Cuts texts by one pattern.
#[derive(Debug)]
pub(super) struct Splitter {
    digits_max: usize,
    /// Class of every code point.
    classes: Vec<CharClass>,
}

impl Splitter {
    pub(super) fn new(pattern: SplitPattern) -> Result<Self, TokenizerError> {
        let mut classes = vec![CharClass::Other; 0x11_0000];
        mark(&mut classes, r"\p{L}", CharClass::Letter)?;
        mark(&mut classes, r"\p{N}", CharClass::Number)?;
        mark(&mut classes, r"\s", CharClass::Space)?;
        if pattern == SplitPattern::Qwen35 {
            mark(&mut classes, r"\p{M}", CharClass::Letter)?;
        }
        Ok(Self {
            digits_max: pattern.digits_max(),
            classes,
        })
    }

    /// The words of `text`: in order, never empty, together the whole text.
    pub(super) fn words<'s, 't>(&'s self, text: &'t str) -> Words<'s, 't> {
        Words {
            splitter: self,
            rest: text,
        }
    }

    fn class(&self, character: char) -> CharClass {
        usize::try_from(u32::from(character))
            .ok()
            .and_then(|code| self.classes.get(code))
            .copied()
            .unwrap_or(CharClass::Other)
    }

    /// Bytes of the characters at the start of `text` that are of `class`.
    fn run(&self, text: &str, class: CharClass) -> usize {
        text.find(|c| self.class(c) != class).unwrap_or(text.len())
    }

    /// Bytes of the first word of `text`; 0 only for an empty text.
    fn first_word(&self, text: &str) -> usize {
        let Some(first) = text.chars().next() else {
            return 0;
        };
        if let Some(end) = contraction(text) {
            return end;
        }
        let after = text.get(first.len_utf8()..).unwrap_or_default();
        match self.class(first) {
            CharClass::Letter => self.run(text, CharClass::Letter),
            CharClass::Number => self.digits(text),
            // One character before letters belongs to them, unless it ends a line.
            _ if !is_line_end(first) && self.begins_with(after, CharClass::Letter) => {
                first.len_utf8() + self.run(after, CharClass::Letter)
            }
            CharClass::Other => self.symbols(text),
            CharClass::Space if first == ' ' && self.begins_with(after, CharClass::Other) => {
                1 + self.symbols(after)
            }
            CharClass::Space => self.spaces(text),
        }
    }

    fn begins_with(&self, text: &str, class: CharClass) -> bool {
        text.chars().next().is_some_and(|c| self.class(c) == class)
    }

    fn digits(&self, text: &str) -> usize {
        text.char_indices()
            .take(self.digits_max)
            .take_while(|&(_, c)| self.class(c) == CharClass::Number)
            .map(|(at, c)| at + c.len_utf8())
            .last()
            .unwrap_or(0)
    }

    /// A run of symbols, with the line ends behind it.
    fn symbols(&self, text: &str) -> usize {
        let end = self.run(text, CharClass::Other);
        let behind = text.get(end..).unwrap_or_default();
        end + behind.find(|c| !is_line_end(c)).unwrap_or(behind.len())
    }

    /// A run of white space: up to its last line end; else all of it if nothing follows; else all but the last
    /// character, which belongs to what follows; a single one stays.
    fn spaces(&self, text: &str) -> usize {
        let end = self.run(text, CharClass::Space);
        let run = text.get(..end).unwrap_or_default();
        if let Some(line_end) = run.rfind(is_line_end) {
            return line_end + 1;
        }
        if end == text.len() {
            return end;
        }
        match run.char_indices().next_back() {
            Some((last, _)) if last > 0 => last,
            _ => end,
        }
    }
}

/// Gives `class` to all code points of a regular-expression class.
fn mark(
    classes: &mut [CharClass],
    regex: &'static str,
    class: CharClass,
) -> Result<(), TokenizerError> {
    let refuse = || TokenizerError::Class { class: regex };
    let hir = regex_syntax::parse(regex).map_err(|_| refuse())?;
    let HirKind::Class(Class::Unicode(ranges)) = hir.kind() else {
        return Err(refuse());
    };
    for range in ranges.iter() {
        let (start, end) = (u32::from(range.start()), u32::from(range.end()));
        let (Ok(start), Ok(end)) = (usize::try_from(start), usize::try_from(end)) else {
            return Err(refuse());
        };
        classes.get_mut(start..=end).ok_or_else(refuse)?.fill(class);
    }
    Ok(())
}

fn is_line_end(character: char) -> bool {
    matches!(character, '\r' | '\n')
}

/// Bytes of `'s 't 're 've 'm 'll 'd` at the start of `text`, in any case. The long s is a case of s.
fn contraction(text: &str) -> Option<usize> {
    let tail = text.strip_prefix('\'')?;
    let mut letters = tail.chars();
    let first = letters.next()?;
    match first.to_ascii_lowercase() {
        's' | 't' | 'm' | 'd' | 'ſ' => return Some(1 + first.len_utf8()),
        'r' | 'v' | 'l' => {}
        _ => return None,
    }
    let second = letters.next()?;
    matches!(
        (first.to_ascii_lowercase(), second.to_ascii_lowercase()),
        ('r' | 'v', 'e') | ('l', 'l')
    )
    .then_some(3)
}

/// The words of one text.
pub(super) struct Words<'s, 't> {
    splitter: &'s Splitter,
    rest: &'t str,
}

impl<'t> Iterator for Words<'_, 't> {
    type Item = &'t str;

    fn next(&mut self) -> Option<&'t str> {
        let (word, rest) = self
            .rest
            .split_at_checked(self.splitter.first_word(self.rest))?;
        self.rest = rest;
        (!word.is_empty()).then_some(word)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;

    fn split(pattern: SplitPattern, text: &str) -> Vec<&str> {
        Splitter::new(pattern).unwrap().words(text).collect()
    }

    /// The scanners, each with a regular-expression engine for the same pattern.
    static PAIRS: LazyLock<Vec<(Splitter, fancy_regex::Regex)>> = LazyLock::new(|| {
        [
            (SplitPattern::Qwen2, QWEN2),
            (SplitPattern::Qwen35, QWEN35),
            (SplitPattern::Llama3, LLAMA3),
        ]
        .map(|(pattern, regex)| {
            (
                Splitter::new(pattern).unwrap(),
                fancy_regex::Regex::new(regex).unwrap(),
            )
        })
        .into()
    });

    #[test]
    fn digits_marks_and_white_space() {
        use SplitPattern::{Llama3, Qwen2, Qwen35};
        assert_eq!(split(Qwen2, "a 1234"), ["a", " ", "1", "2", "3", "4"]);
        assert_eq!(split(Llama3, "a 1234"), ["a", " ", "123", "4"]);
        assert_eq!(split(Qwen2, "x\u{94d}y"), ["x", "\u{94d}y"]);
        assert_eq!(split(Qwen35, "x\u{94d}y"), ["x\u{94d}y"]);
        assert_eq!(
            split(Qwen2, "a  \n b  c "),
            ["a", "  \n", " b", " ", " c", " "]
        );
        assert_eq!(
            split(Qwen2, "I'LL 'ſ don't"),
            ["I", "'LL", " '", "ſ", " don", "'t"]
        );
        assert_eq!(split(Qwen2, "é!?\r\n\nx"), ["é", "!?\r\n\n", "x"]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        #[test]
        fn agrees_with_a_regex_engine(
            text in r"([ \n\r\t\u{a0}\u{3000}]|['sStTrevmlLdſ]|[a-cäß世]|\u{301}|\u{94d}|[0-9½Ⅷ²]|[!<>🚀\u{200d}]|\PC){0,40}"
        ) {
            for (splitter, regex) in PAIRS.iter() {
                let ours: Vec<&str> = splitter.words(&text).collect();
                let theirs: Vec<&str> = regex.find_iter(&text).map(|m| m.unwrap().as_str()).collect();
                prop_assert_eq!(ours, theirs);
            }
        }
    }
}
