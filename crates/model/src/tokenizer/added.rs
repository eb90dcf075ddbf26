//! Finding added tokens in a text: leftmost first, the longest of those that begin at the same place.

use aho_corasick::{AhoCorasick, FindIter, MatchKind};

use super::error::{TokenizerError, shown};

/// Added tokens of one tokenizer.
pub(super) const ADDED_TOKENS_MAX: usize = 16_384;
/// Bytes of one added token.
const ADDED_TOKEN_BYTES_MAX: usize = 512;

/// A part of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece<'t> {
    /// Text between added tokens, never empty.
    Text(&'t str),
    /// An added token.
    Token(u32),
}

/// Finds a fixed set of added tokens. Searching takes time proportional to the text, whatever the set.
#[derive(Debug)]
pub(super) struct AddedMatcher {
    search: Option<AhoCorasick>,
    ids: Vec<u32>,
}

impl AddedMatcher {
    /// A matcher for `tokens`, texts with their ids.
    pub(super) fn new(tokens: &[(String, u32)]) -> Result<Self, TokenizerError> {
        if tokens.len() > ADDED_TOKENS_MAX {
            return Err(TokenizerError::TooLarge {
                what: "list of added tokens",
                got: tokens.len(),
                max: ADDED_TOKENS_MAX,
            });
        }
        for (text, id) in tokens {
            if text.is_empty() || text.len() > ADDED_TOKEN_BYTES_MAX {
                return Err(TokenizerError::Id {
                    token: shown(text),
                    id: *id,
                    reason: "an added token must have 1 to 512 bytes",
                });
            }
        }
        let search = match tokens {
            [] => None,
            _ => Some(
                AhoCorasick::builder()
                    .match_kind(MatchKind::LeftmostLongest)
                    .build(tokens.iter().map(|(text, _)| text.as_bytes()))
                    .map_err(|source| TokenizerError::Search { source })?,
            ),
        };
        Ok(Self {
            search,
            ids: tokens.iter().map(|&(_, id)| id).collect(),
        })
    }

    /// The parts of `text`, in order and without gaps.
    pub(super) fn cut<'m, 't>(&'m self, text: &'t str) -> Cut<'m, 't> {
        Cut {
            matches: self.search.as_ref().map(|search| search.find_iter(text)),
            ids: &self.ids,
            text,
            at: 0,
            waiting: None,
        }
    }
}

/// The parts of one text.
pub(super) struct Cut<'m, 't> {
    matches: Option<FindIter<'m, 't>>,
    ids: &'m [u32],
    text: &'t str,
    /// Bytes already given out.
    at: usize,
    /// A token whose preceding text has just been given out.
    waiting: Option<u32>,
}

impl<'t> Iterator for Cut<'_, 't> {
    type Item = Piece<'t>;

    fn next(&mut self) -> Option<Piece<'t>> {
        if let Some(id) = self.waiting.take() {
            return Some(Piece::Token(id));
        }
        let from = self.at;
        let Some(found) = self.matches.as_mut().and_then(Iterator::next) else {
            self.at = self.text.len();
            let rest = self.text.get(from..)?;
            return (!rest.is_empty()).then_some(Piece::Text(rest));
        };
        self.at = found.end();
        let id = *self.ids.get(found.pattern().as_usize())?;
        let before = self.text.get(from..found.start())?;
        if before.is_empty() {
            return Some(Piece::Token(id));
        }
        self.waiting = Some(id);
        Some(Piece::Text(before))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn cut(tokens: &[&str], text: &str) -> Vec<String> {
        let tokens: Vec<_> = (0..).zip(tokens).map(|(i, t)| (t.to_string(), i)).collect();
        let matcher = AddedMatcher::new(&tokens).unwrap();
        matcher.cut(text).map(|p| format!("{p:?}")).collect()
    }

    #[test]
    fn leftmost_then_longest() {
        assert_eq!(
            cut(&["<a>", "<a><b>", "b>c"], "x<a><b>c<a>"),
            ["Text(\"x\")", "Token(1)", "Text(\"c\")", "Token(0)"]
        );
        assert_eq!(cut(&["<a>"], ""), [""; 0]);
        assert_eq!(cut(&[], "text"), ["Text(\"text\")"]);
        assert_eq!(cut(&["é"], "éé"), ["Token(0)", "Token(0)"]);
    }

    #[test]
    fn empty_and_endless_tokens_are_refused() {
        for text in [String::new(), "x".repeat(513)] {
            assert!(AddedMatcher::new(&[(text, 7)]).is_err());
        }
        let many: Vec<_> = (0..20_000).map(|i| (format!("<{i}>"), i)).collect();
        assert!(AddedMatcher::new(&many).is_err());
    }
}
