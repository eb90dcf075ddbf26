//! One JSON value that arrives character by character: checked as it comes, and written out again.
//!
//! What only misspells a string is mended (a bare line break, an escape that does not exist, half a surrogate pair),
//! so that the text that comes out is JSON whenever it is complete. Everything else is broken at its first character.

use proto::limits;

/// What became of a character.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// The value goes on.
    Going,
    /// The value ended with it.
    Done,
    /// The value, a number, ended before it.
    DoneBefore,
    /// It cannot stand here.
    Broken,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Container {
    Object,
    Array,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    Value,
    ValueOrEnd,
    Key,
    KeyOrEnd,
    Colon,
    CommaOrEnd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lex {
    Between,
    String(Escape),
    Number(Number),
    /// What is left of `true`, `false` or `null`.
    Word(&'static str),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Escape {
    None,
    Slash,
    Hex { digits: u32, code: u32 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Number {
    Minus,
    Zero,
    Whole,
    Point,
    Fraction,
    Exponent,
    ExponentSign,
    ExponentDigits,
}

impl Number {
    fn next(self, c: char) -> Option<Self> {
        use Number::{Exponent, ExponentDigits, ExponentSign, Fraction, Minus, Point, Whole, Zero};
        match (self, c) {
            (Minus, '0') => Some(Zero),
            (Minus, '1'..='9') | (Whole, '0'..='9') => Some(Whole),
            (Zero | Whole, '.') => Some(Point),
            (Point | Fraction, '0'..='9') => Some(Fraction),
            (Zero | Whole | Fraction, 'e' | 'E') => Some(Exponent),
            (Exponent, '+' | '-') => Some(ExponentSign),
            (Exponent | ExponentSign | ExponentDigits, '0'..='9') => Some(ExponentDigits),
            _ => None,
        }
    }

    fn may_end(self) -> bool {
        matches!(
            self,
            Self::Zero | Self::Whole | Self::Fraction | Self::ExponentDigits
        )
    }
}

/// Follows one value.
#[derive(Debug, Clone)]
pub(super) struct JsonScanner {
    stack: Vec<Container>,
    expect: Expect,
    lex: Lex,
    /// The first half of a surrogate pair, not written yet.
    high: Option<u32>,
}

impl JsonScanner {
    pub(super) fn new() -> Self {
        Self {
            stack: Vec::new(),
            expect: Expect::Value,
            lex: Lex::Between,
            high: None,
        }
    }

    /// Takes a character and adds what it means to `out`.
    pub(super) fn push(&mut self, c: char, out: &mut String) -> Step {
        match self.lex {
            Lex::Between => self.between(c, out),
            Lex::String(escape) => self.string(escape, c, out),
            Lex::Number(number) => self.number(number, c, out),
            Lex::Word(rest) => match rest.strip_prefix(c) {
                None => Step::Broken,
                Some(rest) => {
                    out.push(c);
                    if rest.is_empty() {
                        return self.ended();
                    }
                    self.lex = Lex::Word(rest);
                    Step::Going
                }
            },
        }
    }

    fn between(&mut self, c: char, out: &mut String) -> Step {
        use Expect::{Colon, CommaOrEnd, Key, KeyOrEnd, Value, ValueOrEnd};
        if matches!(c, ' ' | '\t' | '\n' | '\r') {
            out.push(c);
            return Step::Going;
        }
        let lex = match (self.expect, c) {
            (Value | ValueOrEnd, '{') => return self.open(Container::Object, c, out),
            (Value | ValueOrEnd, '[') => return self.open(Container::Array, c, out),
            (ValueOrEnd | CommaOrEnd, ']') => return self.close(Container::Array, c, out),
            (KeyOrEnd | CommaOrEnd, '}') => return self.close(Container::Object, c, out),
            (Value | ValueOrEnd | Key | KeyOrEnd, '"') => Lex::String(Escape::None),
            (Value | ValueOrEnd, '-') => Lex::Number(Number::Minus),
            (Value | ValueOrEnd, '0') => Lex::Number(Number::Zero),
            (Value | ValueOrEnd, '1'..='9') => Lex::Number(Number::Whole),
            (Value | ValueOrEnd, 't') => Lex::Word("rue"),
            (Value | ValueOrEnd, 'f') => Lex::Word("alse"),
            (Value | ValueOrEnd, 'n') => Lex::Word("ull"),
            (Colon, ':') => {
                self.expect = Value;
                Lex::Between
            }
            (CommaOrEnd, ',') => {
                self.expect = match self.stack.last() {
                    Some(Container::Object) => Key,
                    _ => Value,
                };
                Lex::Between
            }
            _ => return Step::Broken,
        };
        self.lex = lex;
        out.push(c);
        Step::Going
    }

    fn open(&mut self, container: Container, c: char, out: &mut String) -> Step {
        if self.stack.len() >= limits::JSON_DEPTH_MAX {
            return Step::Broken;
        }
        self.stack.push(container);
        self.expect = match container {
            Container::Object => Expect::KeyOrEnd,
            Container::Array => Expect::ValueOrEnd,
        };
        out.push(c);
        Step::Going
    }

    fn close(&mut self, container: Container, c: char, out: &mut String) -> Step {
        if self.stack.last() != Some(&container) {
            return Step::Broken;
        }
        self.stack.pop();
        out.push(c);
        self.ended()
    }

    /// A value inside, or the whole one, is complete.
    fn ended(&mut self) -> Step {
        self.lex = Lex::Between;
        self.expect = Expect::CommaOrEnd;
        if self.stack.is_empty() {
            Step::Done
        } else {
            Step::Going
        }
    }

    fn number(&mut self, number: Number, c: char, out: &mut String) -> Step {
        if let Some(next) = number.next(c) {
            self.lex = Lex::Number(next);
            out.push(c);
            return Step::Going;
        }
        if !number.may_end() {
            return Step::Broken;
        }
        match self.ended() {
            Step::Done => Step::DoneBefore,
            _ => self.between(c, out),
        }
    }

    fn string(&mut self, escape: Escape, c: char, out: &mut String) -> Step {
        match escape {
            Escape::None => return self.plain(c, out),
            Escape::Slash if c == 'u' => {
                self.lex = Lex::String(Escape::Hex { digits: 0, code: 0 });
            }
            Escape::Slash => {
                self.flush_high(out);
                self.lex = Lex::String(Escape::None);
                if matches!(c, '"' | '\\' | '/' | 'b' | 'f' | 'n' | 'r' | 't') {
                    out.push('\\');
                    out.push(c);
                } else {
                    // There is no such escape: the writer meant the backslash.
                    out.push_str("\\\\");
                    return self.plain(c, out);
                }
            }
            Escape::Hex { digits, code } => return self.hex(digits, code, c, out),
        }
        Step::Going
    }

    fn plain(&mut self, c: char, out: &mut String) -> Step {
        if c == '\\' {
            self.lex = Lex::String(Escape::Slash);
            return Step::Going;
        }
        self.flush_high(out);
        match c {
            '"' => {
                out.push(c);
                if matches!(self.expect, Expect::Key | Expect::KeyOrEnd) {
                    self.lex = Lex::Between;
                    self.expect = Expect::Colon;
                    return Step::Going;
                }
                return self.ended();
            }
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if u32::from(c) < 0x20 => out.push_str(&unicode(u32::from(c))),
            c => out.push(c),
        }
        Step::Going
    }

    fn hex(&mut self, digits: u32, code: u32, c: char, out: &mut String) -> Step {
        let Some(digit) = c.to_digit(16) else {
            // A path such as C:\users: the writer meant the backslash.
            self.flush_high(out);
            out.push_str("\\\\u");
            for place in (0..digits).rev() {
                let digit = (code >> (4 * place)) & 0xf;
                out.extend(char::from_digit(digit, 16));
            }
            self.lex = Lex::String(Escape::None);
            return self.plain(c, out);
        };
        let code = (code << 4) | digit;
        if digits < 3 {
            let digits = digits + 1;
            self.lex = Lex::String(Escape::Hex { digits, code });
            return Step::Going;
        }
        self.lex = Lex::String(Escape::None);
        match (self.high, code) {
            (Some(high), 0xdc00..=0xdfff) => {
                self.high = None;
                out.push_str(&unicode(high));
                out.push_str(&unicode(code));
            }
            (_, 0xd800..=0xdbff) => {
                self.flush_high(out);
                self.high = Some(code);
            }
            (_, code) => {
                self.flush_high(out);
                let lone = (0xdc00..=0xdfff).contains(&code);
                out.push_str(&unicode(if lone { REPLACEMENT } else { code }));
            }
        }
        Step::Going
    }

    /// Half a pair that stayed alone is no character.
    fn flush_high(&mut self, out: &mut String) {
        if self.high.take().is_some() {
            out.push_str(&unicode(REPLACEMENT));
        }
    }
}

const REPLACEMENT: u32 = 0xfffd;

fn unicode(code: u32) -> String {
    format!("\\u{code:04x}")
}

/// The inside of a JSON string.
pub(super) fn escaped(text: &str) -> String {
    let quoted = serde_json::Value::from(text).to_string();
    let inside = quoted.strip_prefix('"').and_then(|q| q.strip_suffix('"'));
    inside.unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes out, and what is left behind the value; `None` if it is broken or not complete.
    fn scan(text: &str) -> Option<(String, String)> {
        let mut scanner = JsonScanner::new();
        let mut out = String::new();
        for (place, c) in text.char_indices() {
            let behind = match scanner.push(c, &mut out) {
                Step::Going => continue,
                Step::Broken => return None,
                Step::Done => place + c.len_utf8(),
                Step::DoneBefore => place,
            };
            return Some((out, text[behind..].to_owned()));
        }
        None
    }

    #[test]
    fn values_pass_as_they_are() {
        for text in [
            r#"{}"#,
            r#"[]"#,
            r#"{"a": [1, -2.5e+3, 0, true, false, null, "x"], "b": {"c": []}}"#,
            "{\n \"a\"\t:\r 1 }",
            r#""\"\\\/\b\f\n\r\té😀""#,
            r#""\ud83d\ude00""#,
            "true",
        ] {
            let behind = ", tail".to_owned();
            assert_eq!(
                scan(&format!("{text}{behind}")),
                Some((text.to_owned(), behind)),
                "{text}"
            );
            serde_json::from_str::<serde_json::Value>(text).unwrap();
        }
        assert_eq!(scan("12]"), Some(("12".to_owned(), "]".to_owned())));
        assert_eq!(scan("-0.5}"), Some(("-0.5".to_owned(), "}".to_owned())));
    }

    #[test]
    fn misspelt_strings_are_mended() {
        for (text, mended) in [
            ("\"a\nb\tc\rd\u{1}\"", r#""a\nb\tc\rd\u0001""#),
            (r#""\d+ \ x""#, r#""\\d+ \\ x""#),
            (r#""C:\users\u12zz""#, r#""C:\\users\\u12zz""#),
            (r#""\ud83d!""#, r#""\ufffd!""#),
            (r#""\ud83d\n""#, r#""\ufffd\n""#),
            (r#""\ud83d\ud83d\ude00""#, r#""\ufffd\ud83d\ude00""#),
            (r#""\ude00""#, r#""\ufffd""#),
            (r#""\ud83d""#, r#""\ufffd""#),
            ("\"\\\n\"", r#""\\\n""#),
        ] {
            let (out, _) = scan(text).unwrap();
            assert_eq!(out, mended);
            serde_json::from_str::<serde_json::Value>(&out).unwrap();
        }
    }

    #[test]
    fn what_is_no_json_is_broken() {
        let deep = "[".repeat(limits::JSON_DEPTH_MAX + 1);
        for text in [
            "{,",
            "{1",
            "{'a'",
            "{\"a\" 1",
            "{\"a\":,",
            "{\"a\":1,}",
            "[1,]",
            "[1}",
            "{\"a\":1]",
            "]",
            "}",
            "[01]",
            "-,",
            "1.,",
            "1e,",
            "+1",
            "tru,",
            "nulL",
            "True",
            "[1 2",
            "x",
            ":",
            &deep,
        ] {
            assert_eq!(scan(text), None, "{text}");
        }
    }
}
