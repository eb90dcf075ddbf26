//! What a constraint costs per token at a vocabulary of 248,320: the mask is computed while the forward pass runs.
//!
//! `cargo bench -p coordinator --bench mask [-- TOKENIZER.json]`. Without a file the vocabulary is made up: bytes, words with
//! and without a blank, capitals, numbers, signs of programs, runs of blanks, and pieces of scripts of two and three bytes.
#![allow(
    clippy::cast_possible_truncation,
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    missing_docs,
    reason = "a bench"
)]

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use coordinator::constraints::{Begin, Form, Grammars, Strictness};
use coordinator::gateway::{Card, ServedModel};
use model::Tokenizer;
use serde_json::{Value, json};

/// The model in the repository.
const BUNDLED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/hearth-tiny.gguf");
const VOCAB: usize = 248_320;
/// Walks through each answer.
const ROUNDS: usize = 5;
/// Longest token that a text is cut into.
const TOKEN_BYTES: usize = 24;

/// Byte-level vocabularies write bytes that are no printable sign as others.
fn signs() -> Vec<char> {
    let printable = |b: u32| (33..=126).contains(&b) || (161..=172).contains(&b) || b >= 174;
    let mut spare = 256;
    let mut sign = |b| {
        let code = if printable(b) {
            b
        } else {
            spare += 1;
            spare - 1
        };
        char::from_u32(code).unwrap()
    };
    (0..256).map(&mut sign).collect()
}

const HEADS: [&str; 16] = [
    "", "b", "c", "d", "f", "g", "st", "l", "m", "n", "p", "r", "s", "t", "tr", "w",
];
const CORES: [&str; 8] = ["a", "e", "i", "o", "u", "ea", "ou", "ai"];
const TAILS: [&str; 10] = ["", "n", "r", "s", "t", "l", "d", "ng", "st", "ck"];

fn syllables() -> impl Iterator<Item = String> {
    let tails = |start: String| TAILS.iter().map(move |tail| format!("{start}{tail}"));
    let starts = HEADS.iter();
    let starts = starts.flat_map(|head| CORES.iter().map(move |core| format!("{head}{core}")));
    starts.flat_map(tails)
}

/// Words, the common ones first, until there are enough.
fn words() -> impl Iterator<Item = String> {
    let two = |first: String| syllables().map(move |second| format!("{first}{second}"));
    syllables().chain(syllables().flat_map(two))
}

/// Pieces of a script whose letters lie from `first` on.
fn script(first: u32, letters: u32) -> impl Iterator<Item = String> {
    let letter = move |at: u32| char::from_u32(first + at % letters).unwrap();
    let one = (0..letters).map(move |at| letter(at).to_string());
    let two =
        (0..letters * 6).map(move |at| [letter(at * 7), letter(at * 13 + 5)].iter().collect());
    one.chain(two)
}

fn made_up() -> Tokenizer {
    let mut texts: Vec<String> = vec![];
    let marks: Vec<char> = (33..127)
        .map(|b| char::from(b as u8))
        .filter(|c| !c.is_alphanumeric())
        .collect();
    texts.extend(
        marks
            .iter()
            .flat_map(|a| marks.iter().map(move |b| format!("{a}{b}"))),
    );
    texts.extend(
        [
            "\",", "\":", "\": \"", "\", \"", "},", "}]", "{\"", "[{\"", "():", " = ",
        ]
        .map(str::to_owned),
    );
    texts.extend((2..80).map(|n| " ".repeat(n)));
    texts.extend((1..40).flat_map(|n| ["\n", "\t"].map(|c| c.repeat(n))));
    texts.extend((10..1000).map(|n| n.to_string()));
    texts.extend(script(0x4e00, 16_000).take(70_000));
    texts.extend(
        script(0x0430, 64)
            .chain(script(0x0620, 60))
            .chain(script(0x0905, 50)),
    );
    for word in words() {
        let mut capital: String = word[..1].to_uppercase();
        capital.push_str(&word[1..]);
        texts.extend([
            format!(" {word}"),
            word.clone(),
            format!(" {capital}"),
            capital,
            format!("_{word}"),
        ]);
        if texts.len() > 2 * VOCAB {
            break;
        }
    }
    let signs = signs();
    let mut vocab = serde_json::Map::new();
    for sign in &signs {
        vocab.insert(sign.to_string(), json!(vocab.len()));
    }
    for text in texts {
        if vocab.len() == VOCAB - 1 {
            break;
        }
        let written: String = text.bytes().map(|b| signs[usize::from(b)]).collect();
        let id = vocab.len();
        vocab.entry(written).or_insert(json!(id));
    }
    let end = vocab.len();
    let like = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/data/qwen3_5_moe/tokenizer.json"
    );
    let mut file: Value = serde_json::from_slice(&std::fs::read(like).unwrap()).unwrap();
    file["added_tokens"] = json!([{
        "id": end, "content": "<|end|>", "special": true, "normalized": false,
        "lstrip": false, "rstrip": false, "single_word": false,
    }]);
    file["model"]["vocab"] = Value::Object(vocab);
    file["model"]["merges"] = json!([]);
    Tokenizer::from_json(&serde_json::to_vec(&file).unwrap(), None).unwrap()
}

/// A schema and an answer that follows it.
struct Task {
    name: &'static str,
    form: Form,
    answer: String,
}

fn json_task(name: &'static str, schema: Value, answer: &Value) -> Task {
    Task {
        name,
        form: Form::Json {
            schema,
            strictness: Strictness::Strict,
        },
        answer: serde_json::to_string_pretty(answer).unwrap(),
    }
}

fn tasks() -> Vec<Task> {
    let prose = "the rain came down over the town and nobody said a word until it was over, ";
    let person = json!({
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "email": {"type": "string", "format": "email"},
            "born": {"type": "string", "format": "date"},
            "tags": {"type": "array", "items": {"type": "string", "maxLength": 40}, "maxItems": 8},
        },
        "required": ["name", "email", "born", "tags"],
        "additionalProperties": false,
    });
    let anna = json!({"name": "Anna Maria", "email": "anna@home.org", "born": "1999-12-31", "tags": ["one", "two words"]});
    let names: Vec<String> = words()
        .step_by(37)
        .take(400)
        .map(|word| format!("{word}-item"))
        .collect();
    vec![
        json_task(
            "call of a tool",
            json!({"type": "object", "properties": {
                "path": {"type": "string"}, "line": {"type": "integer", "minimum": 1},
                "mode": {"enum": ["read", "write", "append"]}}, "required": ["path", "line", "mode"],
                "additionalProperties": false}),
            &json!({"path": "src/house/actor.rs", "line": 417, "mode": "append"}),
        ),
        json_task(
            "list of people",
            json!({"type": "array", "items": {"$ref": "#/$defs/person"}, "$defs": {"person": person}}),
            &json!([anna, anna, anna, anna]),
        ),
        json_task(
            "one of 400 names",
            json!({"enum": names}),
            &json!(names[399]),
        ),
        json_task(
            "optional fields",
            json!({"type": "object", "properties": names.iter().take(60).map(|name| {
                (name.clone(), json!({"anyOf": [{"type": "number"}, {"type": "string"}, {"type": "null"}]}))
            }).collect::<serde_json::Map<_, _>>()}),
            &names
                .iter()
                .take(60)
                .step_by(2)
                .map(|name| (name.clone(), json!(3.25)))
                .collect(),
        ),
        json_task(
            "long text",
            json!({"type": "object", "properties": {"text": {"type": "string"}}}),
            &json!({"text": prose.repeat(20)}),
        ),
        json_task(
            "any object",
            json!({"type": "object"}),
            &json!({"a": [1, {"b": prose}], "c": anna}),
        ),
        Task {
            name: "regular expression",
            form: Form::Regex("([a-z]+ ){3,12}[0-9]{2,4}-[A-F]{2}".to_owned()),
            answer: "the rain came down over town 1234-AB".to_owned(),
        },
    ]
}

/// Cuts a text into the longest tokens that a constraint allows, and takes the time of every mask.
fn walk(
    grammars: &Grammars,
    ids: &HashMap<Vec<u8>, u32>,
    task: &Task,
) -> (Duration, Vec<Duration>) {
    let mut compiled = Duration::ZERO;
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        // Compiled anew, since a constraint remembers what it has seen.
        let started = Instant::now();
        let constraint = grammars.compile(&task.form, Begin::AtOnce);
        let constraint = constraint.unwrap_or_else(|error| panic!("{}: {error}", task.name));
        compiled = started.elapsed();
        let (mut walk, mut mask) = constraint.begin();
        let mut rest = task.answer.as_bytes();
        while !rest.is_empty() {
            let longest = (1..=rest.len().min(TOKEN_BYTES)).rev();
            let token = longest.map(|len| &rest[..len]).find_map(|bytes| {
                let id = ids.get(bytes)?;
                mask.allows(*id).then_some((*id, bytes.len()))
            });
            let (id, len) = token
                .unwrap_or_else(|| panic!("{}: {:?}", task.name, String::from_utf8_lossy(rest)));
            rest = &rest[len..];
            let started = Instant::now();
            mask = walk.next(id).unwrap();
            times.push(started.elapsed());
        }
    }
    (compiled, times)
}

fn main() {
    let file = std::env::args()
        .skip(1)
        .find(|word| !word.starts_with("--"));
    let tokenizer = match &file {
        Some(path) => Tokenizer::from_json(&std::fs::read(path).unwrap(), None).unwrap(),
        None => made_up(),
    };
    let size = u32::try_from(tokenizer.vocab_size()).unwrap();
    let mut ids = HashMap::new();
    for id in (0..size).rev() {
        if let Some(bytes) = tokenizer
            .token_bytes(id)
            .filter(|_| !tokenizer.is_added(id))
        {
            ids.insert(bytes.to_vec(), id);
        }
    }
    let end = (0..size)
        .rev()
        .find(|id| tokenizer.is_special(*id))
        .expect("a control token");
    let grammars = Grammars::new(Arc::new(ServedModel {
        id: "m".to_owned(),
        tokenizer,
        template: None,
        defaults: model::GenerationDefaults {
            eos_ids: vec![end],
            ..model::GenerationDefaults::default()
        },
        vocab: size.max(VOCAB as u32),
        created_unix_s: 0,
        // Nothing here asks for it; any model's will do.
        card: Card::of(&model::Checkpoint::open(Path::new(BUNDLED)).expect("the bundled model")),
    }));
    let started = Instant::now();
    let any = Form::Choice(vec!["a".to_owned()]);
    drop(grammars.compile(&any, Begin::AtOnce).unwrap());
    println!(
        "tree of {size} tokens, once per model: {:.0} ms",
        started.elapsed().as_secs_f64() * 1e3
    );
    println!(
        "{:<20} {:>10} {:>8} {:>9} {:>9} {:>9}",
        "", "compile ms", "tokens", "p50 us", "p99 us", "max us"
    );
    let mut all = Vec::new();
    for task in tasks() {
        let (compiled, times) = walk(&grammars, &ids, &task);
        line(task.name, compiled, times.clone());
        all.extend(times);
    }
    line("all", Duration::ZERO, all);
}

fn line(name: &str, compiled: Duration, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |share: f64| {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a rank"
        )]
        let rank = ((times.len() - 1) as f64 * share) as usize;
        times[rank].as_secs_f64() * 1e6
    };
    println!(
        "{name:<20} {:>10.1} {:>8} {:>9.0} {:>9.0} {:>9.0}",
        compiled.as_secs_f64() * 1e3,
        times.len() / ROUNDS,
        at(0.5),
        at(0.99),
        at(1.0)
    );
}
