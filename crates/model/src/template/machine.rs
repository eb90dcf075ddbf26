//! Running a template: compile, put the budget under its operators, evaluate.
//!
//! The operators of the template engine know no budget. So the compiled program is rewritten before it runs: each
//! instruction that makes a text or a list becomes a call of a function with a name that no template can write,
//! such as `+`. Compiling recurses over the source, therefore it has a thread with a stack to match the longest
//! source accepted.

use std::collections::BTreeMap;

use minijinja::machinery::{
    CompiledTemplate, Instruction, Instructions, TemplateConfig, eval, make_string_output,
};
use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, Error, UndefinedBehavior, Value};

use super::budget::Budget;
use super::error::TemplateError;
use super::input::Variables;
use super::operators::{self, Bounds};
use super::{filters, python, source};

/// Steps that a rendering may take whatever its input.
const STEPS_BASE: u64 = 1_000_000;
/// Steps more for each value of the input.
const STEPS_PER_VALUE: u64 = 500;
/// Bytes of template text that a rendering may give out. Together with the steps it bounds each such text.
const RAW_BYTES: u64 = 1 << 30;
/// Depth of calls, loops and blocks.
const DEPTH_MAX: usize = 400;
/// Stack of the thread that compiles: a kilobyte for each byte of the longest source.
const COMPILE_STACK_BYTES: usize = super::TEMPLATE_BYTES_MAX << 10;

const NAME: &str = "chat_template";

/// Whether `source` is a template at all.
pub(super) fn check(source: &str) -> Result<(), TemplateError> {
    compile(source).map(|_| ())
}

/// Renders `source`.
pub(super) fn render(source: &str, variables: Variables) -> Result<String, TemplateError> {
    let program = compile(source)?;
    let budget = Budget::for_input(variables.bytes);
    let mut env = environment(&budget);
    let steps = STEPS_BASE.saturating_add(variables.values.saturating_mul(STEPS_PER_VALUE));
    env.set_fuel(Some(steps.min(RAW_BYTES / program.longest_raw)));
    let mut out = String::new();
    eval(
        &env,
        &program.instructions,
        variables.root,
        &program.blocks,
        &mut make_string_output(&mut out),
        AutoEscape::None,
    )
    .map_err(|error| TemplateError::from_engine(&error))?;
    Ok(out)
}

/// A compiled template with the budget under its operators.
struct Program<'s> {
    instructions: Instructions<'s>,
    blocks: BTreeMap<&'s str, Instructions<'s>>,
    /// Bytes of the longest text between two tags, at least 1.
    longest_raw: u64,
}

fn compile(source: &str) -> Result<Program<'_>, TemplateError> {
    let failed = |error: Error| TemplateError::from_engine(&error);
    let config = TemplateConfig {
        syntax_config: SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .keep_trailing_newline(false)
            .build()
            .map_err(failed)?,
        default_auto_escape: std::sync::Arc::new(|_| AutoEscape::None),
    };
    let stopped = || TemplateError::Failed {
        line: 0,
        reason: "it cannot be compiled".to_owned(),
    };
    let compiled = std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("template".to_owned())
            .stack_size(COMPILE_STACK_BYTES)
            .spawn_scoped(scope, || {
                source::inspect(source, &config.syntax_config)?;
                CompiledTemplate::new(NAME, source, &config).map_err(failed)
            })
            .map_err(|_| stopped())?
            .join()
            .map_err(|_| stopped())?
    })?;
    let CompiledTemplate {
        mut instructions,
        mut blocks,
        ..
    } = compiled;
    let mut longest_raw = guard(&mut instructions);
    for block in blocks.values_mut() {
        longest_raw = longest_raw.max(guard(block));
    }
    Ok(Program {
        instructions,
        blocks,
        longest_raw,
    })
}

/// Rewrites the growing instructions; returns the longest raw text.
fn guard(instructions: &mut Instructions<'_>) -> u64 {
    let mut longest_raw = 1;
    for index in 0.. {
        let Some(instruction) = instructions.get_mut(index) else {
            break;
        };
        let call = match instruction {
            Instruction::EmitRaw(text) => {
                longest_raw = longest_raw.max(super::budget::bytes(text.len()));
                continue;
            }
            Instruction::Add => Instruction::CallFunction("+", Some(2)),
            Instruction::StringConcat => Instruction::CallFunction("~", Some(2)),
            Instruction::Mul => Instruction::CallFunction("*", Some(2)),
            Instruction::In => Instruction::CallFunction("in", Some(2)),
            Instruction::Slice => Instruction::CallFunction("[:]", Some(4)),
            _ => continue,
        };
        *instruction = call;
    }
    longest_raw
}

/// The environment of one rendering.
fn environment(budget: &Budget) -> Environment<'static> {
    let mut env = Environment::new();
    env.set_debug(false);
    env.set_recursion_limit(DEPTH_MAX);
    env.set_undefined_behavior(UndefinedBehavior::Lenient);
    filters::install(&mut env, budget);
    type Operator = fn(&Value, &Value, &Budget) -> Result<Value, Error>;
    let table: [(&str, Operator); 4] = [
        ("+", operators::add),
        ("~", operators::concat),
        ("*", operators::multiply),
        ("in", operators::contains),
    ];
    for (name, operator) in table {
        let budget = budget.clone();
        env.add_function(name, move |left: Value, right: Value| {
            operator(&left, &right, &budget)
        });
    }
    let own = budget.clone();
    env.add_function(
        "[:]",
        move |value: Value, start: Value, stop: Value, step: Value| {
            operators::slice(&value, &Bounds { start, stop, step }, &own)
        },
    );
    let own = budget.clone();
    env.set_formatter(move |out, _state, value| {
        match value.as_str() {
            Some(text) => {
                own.charge_value(value)?;
                out.write_str(text)
            }
            None => out.write_str(&python::str(value, &own)?),
        }
        .map_err(Error::from)
    });
    env
}
