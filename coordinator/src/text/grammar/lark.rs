//! Parts and lists of texts, written as a Lark grammar in the dialect of llguidance.

use std::fmt::Write as _;

use model::{Specials, Tokenizer};

use super::form::{Element, REGEX_BYTES_MAX};
use super::{GrammarError, schema};

/// Brackets inside each other, in a grammar from outside. The compiler recurses for each.
const NESTING_MAX: usize = 100;

/// Refuses a grammar that is nested too deeply. Brackets in texts and expressions are counted as well, closed or not,
/// and signs of negation, which nest without brackets.
///
/// # Errors
/// More than [`NESTING_MAX`] are open at once.
pub(super) fn check_nesting(text: &str) -> Result<(), GrammarError> {
    let (mut open, mut most, mut negations) = (0usize, 0usize, 0usize);
    for sign in text.chars() {
        negations = if sign == '~' { negations + 1 } else { 0 };
        match sign {
            '(' | '[' | '{' => open += 1,
            ')' | ']' | '}' => open = open.saturating_sub(1),
            _ => {}
        }
        most = most.max(open).max(negations);
    }
    if most > NESTING_MAX {
        let text = format!("the grammar is nested too deeply, at most {NESTING_MAX} are accepted");
        return Err(GrammarError::Form(text));
    }
    Ok(())
}

/// A text as a literal.
fn literal(text: &str) -> String {
    // A JSON string is a literal of the dialect.
    serde_json::Value::from(text).to_string()
}

/// A grammar of any of these texts.
pub(super) fn choice(texts: &[String]) -> String {
    let texts: Vec<String> = texts.iter().map(|text| literal(text)).collect();
    format!("start: ANY\nANY: {}\n", texts.join(" | "))
}

/// A grammar of a part.
///
/// # Errors
/// A schema in it cannot be honoured.
pub(super) fn parts(tokenizer: &Tokenizer, part: &Element) -> Result<String, GrammarError> {
    let mut writer = Writer {
        tokenizer,
        rules: String::new(),
        count: 0,
    };
    let body = writer.part(part)?;
    Ok(format!("start: {body}\n{}", writer.rules))
}

struct Writer<'t> {
    tokenizer: &'t Tokenizer,
    /// Rules that parts refer to.
    rules: String,
    count: u32,
}

impl Writer<'_> {
    /// The part as it stands in a rule.
    fn part(&mut self, part: &Element) -> Result<String, GrammarError> {
        Ok(match part {
            Element::Text(text) => self.text(text),
            Element::Json {
                schema,
                strictness,
                path,
            } => {
                let schema = schema::checked(schema, *strictness, path)?;
                self.rule("", &format!("%json {schema}"))
            }
            Element::Regex(regex) if regex.len() > REGEX_BYTES_MAX => {
                let text = format!("an expression has more than {REGEX_BYTES_MAX} bytes");
                return Err(GrammarError::Form(text));
            }
            Element::Regex(regex) => {
                let regex = llguidance::regex_to_lark(regex, "");
                self.rule("", &format!("/{regex}/"))
            }
            Element::Free => self.rule("", "/(?s:.+)/?"),
            Element::Words { like, unlike, end } => self.words(like, unlike, end)?,
            Element::Until(end) => self.until(end),
            Element::Sequence(parts) => self.list(parts, " ")?,
            Element::OneOf(parts) => self.list(parts, " | ")?,
            Element::Optional(part) => format!("({})?", self.part(part)?),
            Element::Several { part, between } => {
                let part = self.part(part)?;
                let part = self.rule("", &part);
                let between = self.text(between);
                format!("({part} ({between} {part})*)")
            }
        })
    }

    fn list(&mut self, parts: &[Element], between: &str) -> Result<String, GrammarError> {
        let parts: Result<Vec<String>, _> = parts.iter().map(|part| self.part(part)).collect();
        let parts = parts?;
        Ok(if parts.is_empty() {
            literal("")
        } else {
            format!("({})", parts.join(between))
        })
    }

    /// A rule with attributes in its brackets; its name.
    fn rule(&mut self, attributes: &str, body: &str) -> String {
        self.count += 1;
        let name = format!("part_{}", self.count);
        // Writing to a text cannot fail.
        let _always = writeln!(self.rules, "{name}{attributes}: {body}");
        name
    }

    /// One terminal: what its expressions say could not be said of several.
    fn words(
        &mut self,
        like: &[String],
        unlike: &[String],
        end: &str,
    ) -> Result<String, GrammarError> {
        let bytes: usize = like.iter().chain(unlike).map(String::len).sum();
        if bytes > REGEX_BYTES_MAX {
            let text = format!("its texts and expressions have more than {REGEX_BYTES_MAX} bytes");
            return Err(GrammarError::Form(text));
        }
        let ids = self.tokenizer.encode(end, Specials::Parse);
        let added = |id: &u32| self.tokenizer.is_added(*id);
        if ids.is_ok_and(|ids| ids.iter().any(added)) {
            let text = "the model's vocabulary has a token of its own for the end of a value";
            return Err(GrammarError::Form(text.to_owned()));
        }
        // Digits and letters as JSON schemas have them.
        let written = |regex: &String| format!("/{}/", llguidance::regex_to_lark(regex, "dw"));
        let like = like.iter().map(written);
        let unlike = unlike.iter().map(|regex| format!("~{}", written(regex)));
        let all: Vec<String> = like.chain(unlike).collect();
        self.count += 1;
        let name = format!("WORDS_{}", self.count);
        let end = if end.is_empty() {
            String::new()
        } else {
            format!(" {}", literal(end))
        };
        // Writing to a text cannot fail.
        let _always = writeln!(self.rules, "{name}: ({}){end}", all.join(" & "));
        Ok(name)
    }

    /// Added tokens by their ids, and what is between them as it is written.
    fn text(&self, text: &str) -> String {
        let mut items = Vec::new();
        let mut plain = Vec::new();
        // What cannot be encoded is longer than any text that a part is made of.
        let ids = self
            .tokenizer
            .encode(text, Specials::Parse)
            .unwrap_or_default();
        let flush = |plain: &mut Vec<u8>, items: &mut Vec<String>| {
            if !plain.is_empty() {
                items.push(literal(&String::from_utf8_lossy(&std::mem::take(plain))));
            }
        };
        for id in ids {
            if self.tokenizer.is_added(id) {
                flush(&mut plain, &mut items);
                items.push(format!("<[{id}]>"));
            } else {
                plain.extend_from_slice(self.tokenizer.token_bytes(id).unwrap_or_default());
            }
        }
        flush(&mut plain, &mut items);
        if items.is_empty() {
            literal("")
        } else {
            items.join(" ")
        }
    }

    /// Text up to an end. Where the end begins with an added token, no text can run over it.
    fn until(&mut self, end: &str) -> String {
        let ids = self
            .tokenizer
            .encode(end, Specials::Parse)
            .unwrap_or_default();
        if ids.first().is_some_and(|id| self.tokenizer.is_added(*id)) {
            let free = self.rule("", "/(?s:.+)/?");
            return format!("{free} {}", self.text(end));
        }
        self.rule(&format!("[suffix={}]", literal(end)), "/(?s:.*)/")
    }
}
