//! `coordinator key`: who may ask, and how much.

use clap::{Args, Subcommand};
use command::Outcome;
use plan::table::{Align, columns};
use serde_json::{Value, json};

use super::ask::{Running, count, text};
use super::screen;

#[derive(Debug, Args)]
#[command(
    after_help = "While no key was made, programs on this machine are answered without one, and the API cannot be opened to the
network. Once a key works, every request needs one, those of this machine too. Clients bring it as
`Authorization: Bearer KEY` or `x-api-key: KEY`. It works at once; no restart is needed, and no running service either.

Examples:
  coordinator key create --name ada
  coordinator key create --name ben --tokens-per-day 200000 --requests-at-once 2 --priority low
  coordinator key list
  coordinator key revoke ada"
)]
pub(crate) struct Flags {
    #[command(subcommand)]
    act: Act,
}

#[derive(Debug, Subcommand)]
enum Act {
    /// Make a key for somebody; it is shown once
    Create(Create),
    /// List keys, without the keys themselves
    List(List),
    /// End a key for good
    Revoke(Revoke),
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  coordinator key create --name ada
  coordinator key create --name ben --tokens-per-day 200000 --priority low")]
struct Create {
    /// Whose key it is: letters, digits, '.', '_', '-' and '@'
    #[arg(long)]
    name: String,
    /// Tokens of prompts and answers in a day, which ends at midnight UTC [default: no limit]
    #[arg(long, value_name = "N")]
    tokens_per_day: Option<u32>,
    /// Requests that may be under way at once [default: no limit]
    #[arg(long, value_name = "N")]
    requests_at_once: Option<u32>,
    /// How large a turn is while others wait: each step is twice the one before
    #[arg(long, default_value = "normal", value_parser = ["low", "normal", "high"])]
    priority: String,
    #[command(flatten)]
    running: Running,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  coordinator key list
  coordinator key list --json")]
struct List {
    #[command(flatten)]
    running: Running,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Answers under way are finished; the next request is refused.

Examples:
  coordinator key revoke ada
  coordinator key revoke 3"
)]
struct Revoke {
    /// The person's name or the key's number, as `coordinator key list` shows them
    #[arg(value_name = "NAME|ID")]
    key: String,
    #[command(flatten)]
    running: Running,
}

/// Makes, lists or ends keys.
pub(crate) async fn run(flags: Flags) -> Outcome {
    let (running, answer, shown): (_, _, fn(&Value) -> String) = match &flags.act {
        Act::Create(create) => {
            let request = json!({
                "do": "key_create", "name": create.name, "tokens_per_day": create.tokens_per_day,
                "requests_at_once": create.requests_at_once, "priority": create.priority,
            });
            let answer = create.running.ask_or_open_anew(&request).await?;
            (&create.running, answer, created)
        }
        Act::List(list) => {
            let answer = list.running.ask_or_open(&json!({"do": "key_list"})).await?;
            (&list.running, answer, listed)
        }
        Act::Revoke(revoke) => {
            let request = json!({"do": "key_revoke", "key": revoke.key});
            let answer = revoke.running.ask_or_open(&request).await?;
            (&revoke.running, answer, revoked)
        }
    };
    if running.json {
        return command::answer::print_json(&answer);
    }
    screen::show(&shown(&answer))
}

fn is(answer: &Value, field: &str) -> bool {
    answer.get(field).and_then(Value::as_bool) == Some(true)
}

fn created(answer: &Value) -> String {
    let first = match is(answer, "first") {
        true => {
            "It is the first: from now on every request needs a key, those of this machine too.\n"
        }
        false => "",
    };
    format!(
        "{}\n\nThis is {}'s key. It is shown once: only its hash is kept. Clients bring it as `Authorization: Bearer KEY` or
`x-api-key: KEY`.\n{first}",
        text(answer, "key"),
        text(answer, "name"),
    )
}

fn revoked(answer: &Value) -> String {
    let last = match is(answer, "last") {
        true => {
            "No key works any more: programs on this machine are answered without one, all others refused.\n"
        }
        false => "",
    };
    format!(
        "{}'s key (number {}) is void from the next request on\n{last}",
        text(answer, "name"),
        count(answer, "id")
    )
}

/// A limit, or a word for none.
fn limit(key: &Value, field: &str) -> String {
    let limit = key.get(field).and_then(Value::as_u64);
    limit.map_or_else(|| "-".to_owned(), |limit| limit.to_string())
}

fn listed(answer: &Value) -> String {
    let keys = answer.get("keys").and_then(Value::as_array);
    let rows: Vec<Vec<String>> = keys
        .into_iter()
        .flatten()
        .map(|key| {
            let revoked = key.get("revoked_unix_s").is_some_and(Value::is_number);
            vec![
                count(key, "id").to_string(),
                text(key, "name").to_owned(),
                if revoked { "revoked" } else { "works" }.to_owned(),
                text(key, "priority").to_owned(),
                count(key, "tokens_today").to_string(),
                limit(key, "tokens_per_day"),
                limit(key, "requests_at_once"),
            ]
        })
        .collect();
    if rows.is_empty() {
        return "no key was made: programs on this machine are answered without one; `coordinator key create` makes one\n"
            .to_owned();
    }
    let header = [
        ("id", Align::Right),
        ("name", Align::Left),
        ("state", Align::Left),
        ("priority", Align::Left),
        ("tokens today", Align::Right),
        ("of", Align::Right),
        ("requests at once", Align::Right),
    ];
    columns(&header, &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_sees_a_key_once_and_what_it_changes() {
        let mut answer = json!({"key": "hearth-0123", "name": "ada", "first": true});
        let text = created(&answer);
        assert!(text.starts_with("hearth-0123\n"), "{text}");
        assert!(text.contains("ada's key") && text.contains("every request needs a key"));
        answer["first"] = json!(false);
        assert!(!created(&answer).contains("the first"));
        let text = revoked(&json!({"name": "ada", "id": 3, "last": true}));
        assert!(
            text.contains("number 3") && text.contains("No key works"),
            "{text}"
        );
    }

    #[test]
    fn keys_are_listed_with_their_limits() {
        let answer = json!({"keys": [
            {"id": 1, "name": "ada", "priority": "high", "tokens_today": 12, "tokens_per_day": 500,
             "requests_at_once": null, "revoked_unix_s": null},
            {"id": 2, "name": "ben", "priority": "low", "tokens_today": 0, "tokens_per_day": null,
             "requests_at_once": 2, "revoked_unix_s": 5},
        ]});
        let table = listed(&answer);
        let has = |words: &[&str]| table.lines().any(|l| words.iter().all(|w| l.contains(w)));
        assert!(
            has(&["1", "ada", "works", "high", "12", "500", "-"]),
            "{table}"
        );
        assert!(has(&["2", "ben", "revoked", "low", "-", "2"]), "{table}");
        assert!(listed(&json!({"keys": []})).contains("key create"));
    }
}
