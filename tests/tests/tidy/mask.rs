//! Source with comments and literals blanked, so that only code is left to look at.

/// The same lines, with every character of a comment, text or character literal replaced by a blank.
pub(crate) fn mask(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = skipped(&chars, at);
        if end == at {
            out.push(chars[at]);
            at += 1;
        } else {
            out.extend(
                chars[at..end]
                    .iter()
                    .map(|&c| if c == '\n' { '\n' } else { ' ' }),
            );
            at = end;
        }
    }
    out
}

/// The end of the comment or literal that starts at `at`; `at` itself if none does.
fn skipped(chars: &[char], at: usize) -> usize {
    let rest = &chars[at..];
    let after_word = at > 0 && is_word(chars[at - 1]);
    match rest {
        ['/', '/', ..] => at + rest.iter().position(|&c| c == '\n').unwrap_or(rest.len()),
        ['/', '*', ..] => at + block_comment(rest),
        ['"', ..] => at + quoted(rest, '"'),
        ['b' | 'c', '"', ..] if !after_word => at + 1 + quoted(&rest[1..], '"'),
        ['r', '"' | '#', ..] if !after_word => at + raw(&rest[1..]).map_or(0, |n| n + 1),
        ['b' | 'c', 'r', '"' | '#', ..] if !after_word => at + raw(&rest[2..]).map_or(0, |n| n + 2),
        ['\'', '\\', ..] | ['\'', _, '\'', ..] => at + quoted(rest, '\''),
        _ => at,
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn block_comment(rest: &[char]) -> usize {
    let mut depth = 0usize;
    let mut at = 0;
    while at < rest.len() {
        match rest[at..] {
            ['/', '*', ..] => (depth, at) = (depth + 1, at + 2),
            ['*', '/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

/// Length of a literal that starts and ends with `mark`.
fn quoted(rest: &[char], mark: char) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != mark {
        at += if rest[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

/// Length of a raw text from its first `#` or quote; `None` for a raw identifier.
fn raw(rest: &[char]) -> Option<usize> {
    let hashes = rest.iter().take_while(|&&c| c == '#').count();
    if rest.get(hashes) != Some(&'"') {
        return None;
    }
    let mut end = vec!['"'];
    end.extend(std::iter::repeat_n('#', hashes));
    let body = &rest[hashes + 1..];
    let at = body
        .windows(end.len())
        .position(|window| window == end)
        .unwrap_or(body.len());
    Some(hashes + 1 + at + end.len())
}

/// The first line, from 1, on which `word` stands as a word of its own.
pub(crate) fn line_of_word(code: &str, word: &str) -> Option<usize> {
    let found = |line: &str| {
        line.match_indices(word).any(|(at, _)| {
            let before = line[..at].chars().next_back().is_some_and(is_word);
            let after = line[at + word.len()..].chars().next().is_some_and(is_word);
            !before && !after
        })
    };
    code.lines().position(found).map(|line| line + 1)
}

#[test]
fn only_code_is_left() {
    let cases = [
        ("a // b\nc", "a     \nc"),
        ("a /* b /* c */ \n */ d", "a              \n    d"),
        ("f(\"x } \\\" y\") {", "f(          ) {"),
        ("r#\"a \" b\"# + 1", "           + 1"),
        ("'{' + 'a", "    + 'a"),
        ("'\\'' + b'x'", "     + b   "),
        ("b\"{\" r#type", "     r#type"),
    ];
    for (text, code) in cases {
        assert_eq!(mask(text), code, "{text}");
    }
    assert_eq!(line_of_word("not_unsafe\nx unsafe {", "unsafe"), Some(2));
}
