//! What a bench was asked for on its command line: words of the form `name=value`.

use std::collections::HashMap;
use std::path::PathBuf;

/// What was asked for on the command line.
#[derive(Debug, Clone, Default)]
pub struct Set(HashMap<String, String>);

impl Set {
    /// What this program was started with, and the model file among it; flags are cargo's.
    #[must_use]
    pub fn of_command_line() -> (Self, Option<PathBuf>) {
        let arguments: Vec<String> = std::env::args()
            .skip(1)
            .filter(|a| !a.starts_with("--"))
            .collect();
        let pairs = arguments.iter().filter_map(|a| a.split_once('='));
        let set = Self(pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect());
        let named = arguments.iter().find(|a| !a.contains('='));
        (set, named.map(PathBuf::from))
    }

    /// The value of a name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The value of a name, or another one.
    #[must_use]
    pub fn of(&self, name: &str, or: &str) -> String {
        self.get(name).unwrap_or(or).to_owned()
    }

    /// The number of a name, or another one.
    ///
    /// # Panics
    /// When the value is no number.
    #[must_use]
    pub fn number(&self, name: &str, or: u64) -> u64 {
        self.get(name).map_or(or, |v| v.parse().expect(name))
    }

    /// Gives a name a value if it has none.
    pub fn or(&mut self, name: &str, value: &str) {
        let entry = self.0.entry(name.to_owned());
        entry.or_insert_with(|| value.to_owned());
    }

    /// The same with one setting replaced.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.0.insert(name.to_owned(), value.to_owned());
        self
    }

    /// What the node with number `at` is given of `a,b,…`; the last stands for all that follow.
    #[must_use]
    pub fn each(&self, name: &str, at: usize, or: &str) -> String {
        let all = self.of(name, or);
        let mut values = all.split(',');
        let value = values.clone().nth(at).or_else(|| values.next_back());
        value.unwrap_or(or).to_owned()
    }
}
