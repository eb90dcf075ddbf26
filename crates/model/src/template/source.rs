//! What a template's source may look like.
//!
//! Compiling is not counted in steps, takes time that can grow with the square of a tag, and already computes
//! expressions of constants. So tags have a bounded length, and products inside a tag are kept small. No known
//! template comes near these bounds.

use minijinja::machinery::{Token, tokenize};
use minijinja::syntax::SyntaxConfig;

use super::error::TemplateError;

/// Words and signs in one tag, `{{ .. }}` or `{% .. %}`.
const TAG_TOKENS_MAX: usize = 4096;
/// Products and powers in one tag.
const TAG_PRODUCTS_MAX: usize = 1;
/// Largest number in a tag with a product.
const FACTOR_MAX: u128 = 1000;

/// Counts of one tag.
#[derive(Default)]
struct Tag {
    tokens: usize,
    products: usize,
    largest: u128,
}

impl Tag {
    fn check(&self) -> Result<(), TemplateError> {
        let table = [
            (self.tokens > TAG_TOKENS_MAX, "words in one tag"),
            (
                self.products > TAG_PRODUCTS_MAX,
                "products and powers in one tag",
            ),
            (
                self.products > 0 && self.largest > FACTOR_MAX,
                "elements in a product",
            ),
        ];
        match table.iter().find(|(over, _)| *over) {
            Some(&(_, resource)) => Err(TemplateError::RunAway { resource }),
            None => Ok(()),
        }
    }
}

/// Refuses sources that are costly to compile.
pub(super) fn inspect(source: &str, syntax: &SyntaxConfig) -> Result<(), TemplateError> {
    let mut tag = Tag::default();
    for token in tokenize(source, false, syntax.clone()) {
        let (token, _) = token.map_err(|error| TemplateError::from_engine(&error))?;
        tag.tokens += 1;
        match token {
            Token::VariableStart | Token::BlockStart => tag = Tag::default(),
            Token::Mul | Token::Pow => tag.products += 1,
            Token::Int(number) => tag.largest = tag.largest.max(number.into()),
            Token::Int128(number) => tag.largest = tag.largest.max(*number),
            _ => {}
        }
        tag.check()?;
    }
    Ok(())
}
