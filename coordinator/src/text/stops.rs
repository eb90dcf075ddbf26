//! Finds stop texts in a text that arrives in pieces.
//!
//! Holds text back only as long as it could be the beginning of a stop text. The one idea: the first stop text to
//! be *complete* wins, so that the result does not depend on how the text was cut into pieces.

/// What became of a piece of text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Scan {
    /// This much is final; nothing was found.
    Going(String),
    /// A stop text was found.
    Stopped {
        /// The last text before it.
        before: String,
        /// Its number among those that are watched for.
        stop: usize,
    },
}

/// Watches one text for some stop texts.
#[derive(Debug, Clone)]
pub(super) struct StopMatcher {
    /// With their numbers.
    stops: Vec<(usize, String)>,
    held: String,
}

impl StopMatcher {
    /// Watches for these; empty ones are never found.
    pub(super) fn new(stops: &[String]) -> Self {
        Self {
            stops: stops
                .iter()
                .cloned()
                .enumerate()
                .filter(|(_, stop)| !stop.is_empty())
                .collect(),
            held: String::new(),
        }
    }

    /// Takes the next piece.
    pub(super) fn push(&mut self, text: &str) -> Scan {
        self.held.push_str(text);
        if let Some((start, stop)) = self.find() {
            self.held.truncate(start);
            let before = std::mem::take(&mut self.held);
            return Scan::Stopped { before, stop };
        }
        let kept = self
            .stops
            .iter()
            .map(|(_, stop)| open_suffix(&self.held, stop))
            .max()
            .unwrap_or(0);
        let rest = self.held.split_off(self.held.len().saturating_sub(kept));
        Scan::Going(std::mem::replace(&mut self.held, rest))
    }

    /// What was held back, now that nothing follows.
    pub(super) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Where the stop text that is complete first begins, and its number; of several that end together, the longest.
    fn find(&self) -> Option<(usize, usize)> {
        self.stops
            .iter()
            .filter_map(|(number, stop)| {
                let start = self.held.find(stop.as_str())?;
                Some((start.saturating_add(stop.len()), start, *number))
            })
            .min()
            .map(|(_, start, number)| (start, number))
    }
}

/// Bytes of the longest end of `text` that is a beginning of `needle`, but not all of it.
pub(super) fn open_suffix(text: &str, needle: &str) -> usize {
    let (text, needle) = (text.as_bytes(), needle.as_bytes());
    let longest = text.len().min(needle.len().saturating_sub(1));
    (1..=longest)
        .rev()
        .find(|&length| text.ends_with(needle.get(..length).unwrap_or_default()))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (String, bool) {
        let stops: Vec<String> = stops.iter().map(|&s| s.to_owned()).collect();
        let mut matcher = StopMatcher::new(&stops);
        let mut out = String::new();
        for piece in pieces {
            match matcher.push(piece) {
                Scan::Going(text) => out.push_str(&text),
                Scan::Stopped { before, .. } => return (out + &before, true),
            }
        }
        (out + &matcher.finish(), false)
    }

    #[test]
    fn the_result_does_not_depend_on_the_cuts() {
        let cases: [(&[&str], &str, &str, bool); 8] = [
            (&["END"], "a text END more", "a text ", true),
            (&["END"], "a text EN", "a text EN", false),
            (&["abc", "b"], "xabcx", "xa", true),
            (&["aab"], "aaab", "a", true),
            (&["ab", "cab"], "xcab", "x", true),
            (&["é!"], "caf\u{e9}\u{e9}!", "caf\u{e9}", true),
            (&[""], "anything", "anything", false),
            (&["\n\n"], "one\ntwo\n\nthree", "one\ntwo", true),
        ];
        for (stops, text, expected, stopped) in cases {
            let chars: Vec<String> = text.chars().map(String::from).collect();
            for width in 1..=chars.len() {
                let pieces: Vec<String> = chars.chunks(width).map(|c| c.concat()).collect();
                let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
                let got = run(stops, &pieces);
                assert_eq!(got, (expected.to_owned(), stopped), "{text:?} by {width}");
            }
        }
    }

    #[test]
    fn text_is_held_only_while_it_could_be_a_stop() {
        let mut matcher = StopMatcher::new(&["<end>".to_owned()]);
        assert_eq!(matcher.push("a<e"), Scan::Going("a".to_owned()));
        assert_eq!(matcher.push("x"), Scan::Going("<ex".to_owned()));
        assert_eq!(matcher.push("<end"), Scan::Going(String::new()));
        let stopped = Scan::Stopped {
            before: String::new(),
            stop: 0,
        };
        assert_eq!(matcher.push(">b"), stopped);
    }

    #[test]
    fn the_stop_text_that_was_found_is_named() {
        let stops = ["", "never", "b", "ab"].map(str::to_owned);
        let mut matcher = StopMatcher::new(&stops);
        let stopped = Scan::Stopped {
            before: "x".to_owned(),
            stop: 3,
        };
        assert_eq!(matcher.push("xabc"), stopped);
    }
}
