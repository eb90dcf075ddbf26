//! From a form to a constraint.
//!
//! Everything here is bounded: forms by their size before anything looks into them, schemas by a walk of our own, the
//! compiler by the fuel that it is given. It works on a thread with a stack of its own, since it recurses as deeply as
//! grammars do.

use std::sync::{Arc, Mutex};

use llguidance::api::TopLevelGrammar;
use llguidance::{Matcher, regex_to_lark};

use super::form::{Begin, Form, REGEX_BYTES_MAX, TEXT_BYTES_MAX, TEXTS_MAX};
use super::vocabulary::Vocabulary;
use super::walk::mask_of;
use super::{Compiled, Constraint, GrammarError, lark, schema, shortened};

/// The stack of a compilation; pages that are not touched cost nothing.
const STACK_BYTES: usize = 256 << 20;

/// Compiles a form on a thread of its own, and waits for it.
pub(super) fn compile(
    vocabulary: &Arc<Vocabulary>,
    form: &Form,
    begin: Begin,
) -> Result<Constraint, GrammarError> {
    let broke = |what: &str| GrammarError::Form(format!("the compiler of constraints {what}"));
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("grammar".to_owned())
            .stack_size(STACK_BYTES)
            .spawn_scoped(scope, || made(vocabulary, form, begin));
        let thread = thread.map_err(|_| broke("could not be started; try again"))?;
        thread.join().map_err(|_| broke("broke off"))?
    })
}

fn made(
    vocabulary: &Arc<Vocabulary>,
    form: &Form,
    begin: Begin,
) -> Result<Constraint, GrammarError> {
    let grammar = grammar(vocabulary, form)?;
    let parser = vocabulary.factory.create_parser(grammar);
    let parser = parser.map_err(|error| named(vocabulary, form, &error.to_string()))?;
    let mut fresh = Matcher::new(Ok(parser));
    let first = mask_of(vocabulary, &mut fresh)?;
    Ok(Constraint(Arc::new(Compiled {
        vocabulary: Arc::clone(vocabulary),
        fresh: Mutex::new(fresh),
        first,
        begin,
    })))
}

fn grammar(vocabulary: &Vocabulary, form: &Form) -> Result<TopLevelGrammar, GrammarError> {
    Ok(match form {
        Form::Json { schema, strictness } => {
            let checked = schema::checked(schema, *strictness, "")?;
            TopLevelGrammar::from_json_schema(checked)
        }
        Form::Regex(regex) => {
            fits("the expression", regex.len(), REGEX_BYTES_MAX)?;
            TopLevelGrammar::from_lark(format!("start: /{}/", regex_to_lark(regex, "")))
        }
        Form::Lark(text) => {
            fits("the grammar", text.len(), TEXT_BYTES_MAX)?;
            lark::check_nesting(text)?;
            TopLevelGrammar::from_lark(text.clone())
        }
        Form::Choice(texts) => {
            if texts.is_empty() || texts.len() > TEXTS_MAX {
                let text = format!("{} texts came, 1 to {TEXTS_MAX} were expected", texts.len());
                return Err(GrammarError::Form(text));
            }
            let bytes = texts.iter().map(String::len).sum();
            fits("the list of texts", bytes, TEXT_BYTES_MAX)?;
            TopLevelGrammar::from_lark(lark::choice(texts))
        }
        Form::Parts(part) => TopLevelGrammar::from_lark(lark::parts(&vocabulary.tokenizer, part)?),
    })
}

fn fits(what: &str, got: usize, max: usize) -> Result<(), GrammarError> {
    if got > max {
        let text = format!("{what} has {got} bytes, at most {max} are accepted");
        return Err(GrammarError::Form(text));
    }
    Ok(())
}

/// The compiler's error, with the place in a schema where that can be found.
fn named(vocabulary: &Vocabulary, form: &Form, error: &str) -> GrammarError {
    let reason = shortened(error);
    match form {
        Form::Json { schema, strictness } => {
            let (path, reason) = schema::locate(vocabulary, schema, *strictness, reason);
            GrammarError::Schema { path, reason }
        }
        Form::Parts(part) => {
            let mut schemas = Vec::new();
            part.schemas(&mut schemas);
            let mut refused = schemas
                .into_iter()
                .filter_map(|(schema, strictness, base)| {
                    schema::refused_at(vocabulary, schema, strictness, base)
                });
            match refused.next() {
                Some((path, reason)) => GrammarError::Schema { path, reason },
                None => GrammarError::Form(reason),
            }
        }
        Form::Regex(_) | Form::Lark(_) | Form::Choice(_) => GrammarError::Form(reason),
    }
}
