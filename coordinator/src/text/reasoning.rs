//! Splits the reasoning of a model from its answer, while both are still arriving.
//!
//! Knows the tags `<think>` and `</think>` and nothing else. A tag may be spread over any number of pieces; text is
//! held back only as long as it could be part of a tag.

use super::stops::open_suffix;

const OPEN: &str = "<think>";
const CLOSE: &str = "</think>";

/// The tags, for vocabularies in which they are control tokens.
pub(super) const MARKERS: [&str; 2] = [OPEN, CLOSE];

/// How the reasoning of a request begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reasoning {
    /// The text is not split: plain completions.
    Off,
    /// Reasoning begins if the answer begins with the opening tag.
    Watch,
    /// The prompt ended with the opening tag: the answer begins inside.
    Inside,
}

impl Reasoning {
    /// How the answer to a rendered prompt begins.
    pub(super) fn after(prompt: &str) -> Self {
        if prompt.trim_end().ends_with(OPEN) {
            Self::Inside
        } else {
            Self::Watch
        }
    }
}

/// A piece of an answer, divided.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Split {
    /// Text between the tags.
    pub(super) reasoning: String,
    /// Text after them.
    pub(super) content: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing but white space or the beginning of a tag so far.
    Opening,
    /// Between the tags, at the very beginning: line breaks are dropped.
    InsideStart,
    /// Between the tags.
    Inside,
    /// After the closing tag: line breaks are dropped.
    ContentStart,
    /// The answer itself.
    Content,
}

/// Splits one answer.
#[derive(Debug, Clone)]
pub(super) struct Splitter {
    state: State,
    held: String,
}

impl Splitter {
    pub(super) fn new(reasoning: Reasoning) -> Self {
        Self {
            state: match reasoning {
                Reasoning::Off => State::Content,
                Reasoning::Watch => State::Opening,
                Reasoning::Inside => State::InsideStart,
            },
            held: String::new(),
        }
    }

    /// Whether the text that comes next is reasoning.
    pub(super) fn inside(&self) -> bool {
        matches!(self.state, State::Inside | State::InsideStart)
    }

    /// Takes the next piece.
    pub(super) fn push(&mut self, text: &str) -> Split {
        self.held.push_str(text);
        let mut split = Split::default();
        while self.advance(&mut split) {}
        split
    }

    /// What was held back, now that nothing follows.
    pub(super) fn finish(&mut self) -> Split {
        let rest = std::mem::take(&mut self.held);
        let mut split = Split::default();
        if self.inside() {
            split.reasoning = rest;
        } else {
            split.content = rest;
        }
        split
    }

    /// One state's worth of work; true if the next state has something to look at.
    fn advance(&mut self, split: &mut Split) -> bool {
        match self.state {
            State::Opening => self.opening(),
            State::InsideStart => self.skip_breaks(State::Inside),
            State::Inside => self.inside_text(split),
            State::ContentStart => self.skip_breaks(State::Content),
            State::Content => {
                split.content.push_str(&std::mem::take(&mut self.held));
                false
            }
        }
    }

    fn opening(&mut self) -> bool {
        let begun = self.held.trim_start();
        if let Some(rest) = begun.strip_prefix(OPEN) {
            self.held = rest.to_owned();
            self.state = State::InsideStart;
            return true;
        }
        if OPEN.starts_with(begun) {
            return false;
        }
        self.state = State::Content;
        true
    }

    fn skip_breaks(&mut self, next: State) -> bool {
        let kept = self.held.trim_start_matches(['\n', '\r']).len();
        self.held = self.held.split_off(self.held.len() - kept);
        if self.held.is_empty() {
            return false;
        }
        self.state = next;
        true
    }

    fn inside_text(&mut self, split: &mut Split) -> bool {
        if let Some((before, after)) = self.held.split_once(CLOSE) {
            split.reasoning.push_str(before);
            self.held = after.to_owned();
            self.state = State::ContentStart;
            return true;
        }
        let kept = open_suffix(&self.held, CLOSE);
        let rest = self.held.split_off(self.held.len() - kept);
        split
            .reasoning
            .push_str(&std::mem::replace(&mut self.held, rest));
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_split_does_not_depend_on_the_cuts() {
        use Reasoning::{Inside, Off, Watch};
        let cases = [
            (
                Watch,
                "<think>\nwhy\n</think>\n\nbecause",
                "why\n",
                "because",
            ),
            (Watch, " \n<think>a</think>b", "a", "b"),
            (
                Watch,
                "  plain <think>x</think>",
                "",
                "  plain <think>x</think>",
            ),
            (Watch, "<thin", "", "<thin"),
            (
                Watch,
                "<think>never closed </thin",
                "never closed </thin",
                "",
            ),
            (
                Inside,
                "\nwhy </b></think>\n\n\nanswer",
                "why </b>",
                "answer",
            ),
            (Inside, "</think>answer", "", "answer"),
            (Inside, "\n\n", "", ""),
            (Off, "<think>a</think>", "", "<think>a</think>"),
            (Watch, "\u{e9}t\u{e9}", "", "\u{e9}t\u{e9}"),
        ];
        for (start, text, reasoning, content) in cases {
            let chars: Vec<String> = text.chars().map(String::from).collect();
            for width in 1..=chars.len() {
                let mut splitter = Splitter::new(start);
                let mut got = Split::default();
                let mut add = |split: Split| {
                    got.reasoning.push_str(&split.reasoning);
                    got.content.push_str(&split.content);
                };
                for piece in chars.chunks(width) {
                    add(splitter.push(&piece.concat()));
                }
                add(splitter.finish());
                assert_eq!(got.reasoning, reasoning, "{text:?} by {width}");
                assert_eq!(got.content, content, "{text:?} by {width}");
            }
        }
    }

    #[test]
    fn the_prompt_decides_where_the_answer_begins() {
        assert_eq!(
            Reasoning::after("user\nassistant\n<think>\n"),
            Reasoning::Inside
        );
        assert_eq!(
            Reasoning::after("a <think> in a question\nassistant\n"),
            Reasoning::Watch
        );
        assert_eq!(
            Reasoning::after("<think>\n\n</think>\n\n"),
            Reasoning::Watch
        );
    }
}
