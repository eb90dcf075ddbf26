//! Functions and test-only blocks of masked source, by counting braces.

/// One function with a body.
pub(crate) struct Function {
    pub name: String,
    /// Where it starts, from 1.
    pub line: usize,
    /// From `fn` to its closing brace.
    pub lines: usize,
}

/// A stretch of lines, both ends included.
pub(crate) struct Block {
    first: usize,
    last: usize,
}

impl Block {
    pub(crate) fn lines(&self) -> usize {
        self.last - self.first + 1
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn line_at(code: &str, at: usize) -> usize {
    code[..at].matches('\n').count() + 1
}

/// From the offset of a signature or item: the offsets of its opening and its closing brace; `None` without a body.
fn body(code: &str, from: usize) -> Option<(usize, usize)> {
    let mut round = 0i32;
    let mut curly = 0i32;
    let mut open = None;
    for (at, c) in code[from..].char_indices() {
        match c {
            '(' | '[' => round += 1,
            ')' | ']' => round -= 1,
            ';' if round == 0 && curly == 0 => return None,
            '{' => {
                if round == 0 && curly == 0 {
                    open = Some(from + at);
                }
                curly += 1;
            }
            '}' => {
                curly -= 1;
                if curly == 0
                    && let Some(open) = open
                {
                    return Some((open, from + at));
                }
            }
            _ => {}
        }
    }
    None
}

/// Every function that has a body, nested ones too.
pub(crate) fn functions(code: &str) -> Vec<Function> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        if code[..at].chars().next_back().is_some_and(is_word) {
            continue;
        }
        let name: String = code[at + 3..].chars().take_while(|&c| is_word(c)).collect();
        if name.is_empty() {
            continue;
        }
        if let Some((_, close)) = body(code, at) {
            let line = line_at(code, at);
            found.push(Function {
                name,
                line,
                lines: line_at(code, close) - line + 1,
            });
        }
    }
    found
}

/// Items behind `#[cfg(test)]`.
pub(crate) fn test_blocks(code: &str) -> Vec<Block> {
    let mut found: Vec<Block> = Vec::new();
    for (at, mark) in code.match_indices("#[cfg(test)]") {
        let first = line_at(code, at);
        if found.last().is_some_and(|block| block.last >= first) {
            continue;
        }
        let end = body(code, at + mark.len()).map_or(at, |(_, close)| close);
        found.push(Block {
            first,
            last: line_at(code, end),
        });
    }
    found
}

#[test]
fn functions_are_found_with_their_lengths() {
    let code = "fn a() {\n x\n}\ntrait T { fn b(&self); fn c(&self) -> [u8; 2] { [0; 2] } }\nlet f: fn (u8);\n";
    let found: Vec<(String, usize)> = functions(code)
        .into_iter()
        .map(|f| (f.name, f.lines))
        .collect();
    assert_eq!(found, [("a".to_owned(), 3), ("c".to_owned(), 1)]);
}

#[test]
fn test_blocks_are_counted() {
    let code = "a\n#[cfg(test)]\nmod tests {\n x\n}\n#[cfg(test)]\nmod other;\nb\n";
    let lines: Vec<usize> = test_blocks(code).iter().map(Block::lines).collect();
    assert_eq!(lines, [4, 1]);
}
