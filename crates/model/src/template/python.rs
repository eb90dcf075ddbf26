//! Python's spelling of values, since templates are written for Python: `str`, `repr` and `json.dumps`.
//!
//! Every byte written is charged to the budget first, so that a value that refers to one long text many times
//! cannot fill the memory.

use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind};

use super::budget::{Budget, bytes};

/// Depth of a value that is written.
const DEPTH_MAX: u32 = 200;

/// `str(value)`.
pub(super) fn str(value: &Value, budget: &Budget) -> Result<String, Error> {
    let mut writer = Writer::new(budget);
    match value.as_str() {
        Some(text) => writer.push(text)?,
        None => writer.repr(value, 0)?,
    }
    Ok(writer.out)
}

/// How `json.dumps` lays out its text.
pub(super) struct JsonStyle {
    /// What one level of indentation is, if items have lines of their own.
    pub(super) indent: Option<String>,
    /// Between items, and between key and value.
    pub(super) separators: (String, String),
    pub(super) ascii: bool,
    pub(super) sorted: bool,
}

/// `json.dumps(value)`.
pub(super) fn json(value: &Value, style: &JsonStyle, budget: &Budget) -> Result<String, Error> {
    let mut writer = Writer::new(budget);
    writer.json(value, style, 0)?;
    Ok(writer.out)
}

struct Writer<'b> {
    out: String,
    budget: &'b Budget,
}

impl<'b> Writer<'b> {
    fn new(budget: &'b Budget) -> Self {
        Self {
            out: String::new(),
            budget,
        }
    }

    fn push(&mut self, text: &str) -> Result<(), Error> {
        self.budget.charge(bytes(text.len()))?;
        self.out.push_str(text);
        Ok(())
    }

    fn repr(&mut self, value: &Value, depth: u32) -> Result<(), Error> {
        check_depth(depth)?;
        match value.kind() {
            ValueKind::Undefined => Ok(()),
            ValueKind::None => self.push("None"),
            ValueKind::Bool => self.push(if value.is_true() { "True" } else { "False" }),
            ValueKind::Number => self.number(value),
            ValueKind::String => self.quoted(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let (open, close) = if value.is_tuple() {
                    ("(", ")")
                } else {
                    ("[", "]")
                };
                self.push(open)?;
                for (index, item) in value.try_iter()?.checked().enumerate() {
                    self.push(if index == 0 { "" } else { ", " })?;
                    self.repr(&item?, depth + 1)?;
                }
                self.push(if value.is_tuple() && value.len() == Some(1) {
                    ","
                } else {
                    ""
                })?;
                self.push(close)
            }
            ValueKind::Map => {
                self.push("{")?;
                for (index, key) in value.try_iter()?.checked().enumerate() {
                    let key = key?;
                    self.push(if index == 0 { "" } else { ", " })?;
                    self.repr(&key, depth + 1)?;
                    self.push(": ")?;
                    self.repr(&value.get_item(&key)?, depth + 1)?;
                }
                self.push("}")
            }
            _ => self.push(&value.to_string()),
        }
    }

    fn number(&mut self, value: &Value) -> Result<(), Error> {
        if value.is_integer() {
            return self.push(&value.to_string());
        }
        let number = f64::try_from(value.clone())?;
        self.push(&float(number))
    }

    /// A text as Python's `repr` writes it.
    fn quoted(&mut self, text: &str) -> Result<(), Error> {
        let quote = if text.contains('\'') && !text.contains('"') {
            '"'
        } else {
            '\''
        };
        let mut buffer = String::from(quote);
        for character in text.chars() {
            match character {
                '\\' => buffer.push_str("\\\\"),
                '\n' => buffer.push_str("\\n"),
                '\r' => buffer.push_str("\\r"),
                '\t' => buffer.push_str("\\t"),
                c if c == quote => buffer.extend(['\\', c]),
                c if u32::from(c) < 0x20 || u32::from(c) == 0x7f => {
                    buffer.push_str(&format!("\\x{:02x}", u32::from(c)));
                }
                c => buffer.push(c),
            }
            self.flush_if_long(&mut buffer)?;
        }
        buffer.push(quote);
        self.push(&buffer)
    }

    fn flush_if_long(&mut self, buffer: &mut String) -> Result<(), Error> {
        const LONG: usize = 4096;
        if buffer.len() >= LONG {
            self.push(buffer)?;
            buffer.clear();
        }
        Ok(())
    }

    fn json(&mut self, value: &Value, style: &JsonStyle, depth: u32) -> Result<(), Error> {
        check_depth(depth)?;
        match value.kind() {
            ValueKind::None => self.push("null"),
            ValueKind::Bool => self.push(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.json_number(value),
            ValueKind::String => self.json_text(value.as_str().unwrap_or_default(), style.ascii),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.checked().collect::<Result<_, _>>()?;
                self.push("[")?;
                for (index, item) in items.iter().enumerate() {
                    self.json_item(style, depth, index)?;
                    self.json(item, style, depth + 1)?;
                }
                self.json_end(style, depth, items.is_empty())?;
                self.push("]")
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.checked().collect::<Result<_, _>>()?;
                if style.sorted {
                    keys.sort();
                }
                self.push("{")?;
                for (index, key) in keys.iter().enumerate() {
                    self.json_item(style, depth, index)?;
                    self.json_key(key, style)?;
                    self.push(&style.separators.1)?;
                    self.json(&value.get_item(key)?, style, depth + 1)?;
                }
                self.json_end(style, depth, keys.is_empty())?;
                self.push("}")
            }
            other => Err(Error::new(
                ErrorKind::BadSerialization,
                format!("a value of type {other} cannot be written as JSON"),
            )),
        }
    }

    /// What stands before an item: a separator, a line of its own.
    fn json_item(&mut self, style: &JsonStyle, depth: u32, index: usize) -> Result<(), Error> {
        if index > 0 {
            self.push(&style.separators.0)?;
        }
        self.json_line(style, depth + 1)
    }

    fn json_end(&mut self, style: &JsonStyle, depth: u32, empty: bool) -> Result<(), Error> {
        if empty {
            return Ok(());
        }
        self.json_line(style, depth)
    }

    fn json_line(&mut self, style: &JsonStyle, depth: u32) -> Result<(), Error> {
        if let Some(indent) = &style.indent {
            self.push("\n")?;
            for _ in 0..depth {
                self.push(indent)?;
            }
        }
        Ok(())
    }

    fn json_key(&mut self, key: &Value, style: &JsonStyle) -> Result<(), Error> {
        match key.as_str() {
            Some(text) => self.json_text(text, style.ascii),
            None => {
                let mut inner = Writer::new(self.budget);
                inner.json(key, style, 0)?;
                self.json_text(&inner.out, style.ascii)
            }
        }
    }

    fn json_number(&mut self, value: &Value) -> Result<(), Error> {
        if value.is_integer() {
            return self.push(&value.to_string());
        }
        let number = f64::try_from(value.clone())?;
        let text = match number {
            n if n.is_nan() => "NaN".to_owned(),
            f64::INFINITY => "Infinity".to_owned(),
            f64::NEG_INFINITY => "-Infinity".to_owned(),
            n => float(n),
        };
        self.push(&text)
    }

    fn json_text(&mut self, text: &str, ascii: bool) -> Result<(), Error> {
        let mut buffer = String::from('"');
        for character in text.chars() {
            match character {
                '"' => buffer.push_str("\\\""),
                '\\' => buffer.push_str("\\\\"),
                '\n' => buffer.push_str("\\n"),
                '\r' => buffer.push_str("\\r"),
                '\t' => buffer.push_str("\\t"),
                '\u{8}' => buffer.push_str("\\b"),
                '\u{c}' => buffer.push_str("\\f"),
                c if u32::from(c) < 0x20 || (ascii && !matches!(c, ' '..='~')) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        buffer.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                c => buffer.push(c),
            }
            self.flush_if_long(&mut buffer)?;
        }
        buffer.push('"');
        self.push(&buffer)
    }
}

fn check_depth(depth: u32) -> Result<(), Error> {
    if depth > DEPTH_MAX {
        return Err(Error::new(
            ErrorKind::InvalidOperation,
            "a value is nested too deep to be written",
        )
        .with_source(super::error::Exhausted("depth")));
    }
    Ok(())
}

/// `repr` of a float: the shortest digits that give it back, with an exponent from 1e16 on and below 1e-4.
fn float(number: f64) -> String {
    if number.is_nan() {
        return "nan".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let magnitude = number.abs();
    if magnitude != 0.0 && !(1e-4..1e16).contains(&magnitude) {
        let text = format!("{number:e}");
        return match text.split_once('e') {
            Some((digits, exponent)) => {
                let (sign, exponent) = match exponent.strip_prefix('-') {
                    Some(exponent) => ('-', exponent),
                    None => ('+', exponent),
                };
                format!("{digits}e{sign}{exponent:0>2}")
            }
            None => text,
        };
    }
    let text = number.to_string();
    if text.contains('.') {
        text
    } else {
        text + ".0"
    }
}
