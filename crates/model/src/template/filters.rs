//! Filters, functions, tests and methods of templates: those of Hugging Face's environment, within the budget.

use minijinja::value::{Kwargs, Rest, Value, ValueKind, ValueOrKwargs, from_args};
use minijinja::{Environment, Error, ErrorKind, State, filters};

use super::budget::{Budget, bytes, length, size};
use super::error::Raised;
use super::python::{self, JsonStyle};

/// Indentation and widths that a template may ask for, in characters.
const WIDTH_MAX: usize = 1000;

/// Fills an environment.
pub(super) fn install(env: &mut Environment<'_>, budget: &Budget) {
    charge_builtin_filters(env, budget);
    for unbounded in [
        "batch", "slice", "sum", "pprint", "format", "groupby", "chain", "zip",
    ] {
        env.remove_filter(unbounded);
    }
    env.remove_global("debug");
    let own = budget.clone();
    env.add_filter("tojson", move |value: Value, args: Rest<ValueOrKwargs>| {
        to_json(&value, args, &own)
    });
    let own = budget.clone();
    env.add_filter("string", move |value: Value| python::str(&value, &own));
    let own = budget.clone();
    env.add_filter("replace", move |text: String, old: String, new: String| {
        replace(&text, (&old, &new), None, &own)
    });
    let own = budget.clone();
    env.add_filter(
        "join",
        move |state: &mut State, list: Value, args: Rest<ValueOrKwargs>| {
            join_filter(state, list, args, &own)
        },
    );
    let own = budget.clone();
    env.add_filter(
        "indent",
        move |state: &mut State, text: Value, args: Rest<ValueOrKwargs>| {
            indent(state, text, args, &own)
        },
    );
    env.add_function(
        "raise_exception",
        |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, "refused").with_source(Raised(message)))
        },
    );
    // In Python a text is a sequence and a mapping can be iterated.
    let many = |value: &Value| {
        matches!(
            value.kind(),
            ValueKind::String | ValueKind::Seq | ValueKind::Map | ValueKind::Iterable
        )
    };
    env.add_test("iterable", move |value: Value| many(&value));
    env.add_test("sequence", move |value: Value| {
        many(&value) && value.kind() != ValueKind::Iterable
    });
    let own = budget.clone();
    env.set_unknown_method_callback(move |state, value, method, args| {
        call_method(state, value, (method, args), &own)
    });
}

/// Puts a charge for all arguments before the filters that copy them.
fn charge_builtin_filters(env: &mut Environment<'_>, budget: &Budget) {
    let table = [
        ("lower", Value::from_function(filters::lower)),
        ("upper", Value::from_function(filters::upper)),
        ("title", Value::from_function(filters::title)),
        ("capitalize", Value::from_function(filters::capitalize)),
        ("dictsort", Value::from_function(filters::dictsort)),
        ("items", Value::from_function(filters::items)),
        ("reverse", Value::from_function(filters::reverse)),
        ("trim", Value::from_function(filters::trim)),
        ("split", Value::from_function(filters::split)),
        ("lines", Value::from_function(filters::lines)),
        ("sort", Value::from_function(filters::sort)),
        ("list", Value::from_function(filters::list)),
        ("select", Value::from_function(filters::select)),
        ("reject", Value::from_function(filters::reject)),
        ("selectattr", Value::from_function(filters::selectattr)),
        ("rejectattr", Value::from_function(filters::rejectattr)),
        ("map", Value::from_function(filters::map)),
        ("unique", Value::from_function(filters::unique)),
        ("min", Value::from_function(filters::min)),
        ("max", Value::from_function(filters::max)),
        ("escape", Value::from_function(filters::escape)),
        ("e", Value::from_function(filters::escape)),
    ];
    for (name, filter) in table {
        let budget = budget.clone();
        env.add_filter(name, move |state: &mut State, args: Rest<ValueOrKwargs>| {
            let args = args.into_values();
            for arg in &args {
                budget.charge(copied(arg))?;
            }
            filter.call(state, &args)
        });
    }
}

/// Bytes that a copy of a value can take: letters may grow when their case changes, parts of a text become values.
fn copied(value: &Value) -> u64 {
    const GROWTH: u64 = 4;
    size(value).saturating_mul(GROWTH)
}

fn refuse(detail: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, detail.into())
}

/// `tojson` as Hugging Face defines it: `json.dumps` without escapes for the sake of HTML.
fn to_json(value: &Value, args: Rest<ValueOrKwargs>, budget: &Budget) -> Result<Value, Error> {
    let values = args.into_values();
    let (ascii, indent, kwargs): (Option<bool>, Option<Value>, Kwargs) = from_args(&values)?;
    let ascii = match ascii {
        Some(ascii) => Some(ascii),
        None => kwargs.get("ensure_ascii")?,
    };
    let indent = match indent {
        Some(indent) => Some(indent),
        None => kwargs.get::<Option<Value>>("indent")?,
    };
    let separators: Option<Vec<String>> = kwargs.get("separators")?;
    let sorted: Option<bool> = kwargs.get("sort_keys")?;
    kwargs.assert_all_used()?;
    let indent = indentation(indent)?;
    let between = if indent.is_some() { "," } else { ", " };
    let separators = match separators.as_deref() {
        None => (between.to_owned(), ": ".to_owned()),
        Some([items, keys]) => (items.clone(), keys.clone()),
        Some(_) => return Err(refuse("separators must be two texts")),
    };
    let style = JsonStyle {
        indent,
        separators,
        ascii: ascii.unwrap_or(false),
        sorted: sorted.unwrap_or(false),
    };
    python::json(value, &style, budget).map(Value::from)
}

/// One level of indentation: nothing, a number of spaces, or a text.
fn indentation(indent: Option<Value>) -> Result<Option<String>, Error> {
    let Some(indent) = indent.filter(|indent| !indent.is_none()) else {
        return Ok(None);
    };
    if let Some(text) = indent.as_str().filter(|text| text.len() <= WIDTH_MAX) {
        return Ok(Some(text.to_owned()));
    }
    match indent.as_usize() {
        Some(width) if width <= WIDTH_MAX => Ok(Some(" ".repeat(width))),
        _ => Err(refuse("indent must be a number of spaces, at most 1000")),
    }
}

/// `text.replace(old, new, count)`.
fn replace(
    text: &str,
    (old, new): (&str, &str),
    count: Option<usize>,
    budget: &Budget,
) -> Result<Value, Error> {
    let found = text.matches(old).count().min(count.unwrap_or(usize::MAX));
    let grown = bytes(found).saturating_mul(bytes(new.len()));
    budget.charge(bytes(text.len()).saturating_add(grown))?;
    Ok(Value::from(text.replacen(old, new, found)))
}

/// All items as texts with `between` between them.
fn join(items: &Value, between: &str, budget: &Budget) -> Result<Value, Error> {
    let mut text = String::new();
    for (index, item) in items.try_iter()?.checked().enumerate() {
        if index > 0 {
            budget.charge(bytes(between.len()))?;
            text.push_str(between);
        }
        text.push_str(&python::str(&item?, budget)?);
    }
    Ok(Value::from(text))
}

/// `list | join(between, attribute)`.
fn join_filter(
    state: &mut State,
    list: Value,
    args: Rest<ValueOrKwargs>,
    budget: &Budget,
) -> Result<Value, Error> {
    let values = args.into_values();
    let (between, kwargs): (Option<String>, Kwargs) = from_args(&values)?;
    let between = match between {
        Some(between) => between,
        None => kwargs.get::<Option<String>>("d")?.unwrap_or_default(),
    };
    let attribute: Option<Value> = kwargs.get("attribute")?;
    kwargs.assert_all_used()?;
    let Some(attribute) = attribute else {
        return join(&list, &between, budget);
    };
    let options: Kwargs = [("attribute", attribute)].into_iter().collect();
    let list = state.apply_filter("map", &[list, Value::from(options)])?;
    join(&list, &between, budget)
}

/// `text | indent(width, first, blank)`.
fn indent(
    state: &mut State,
    text: Value,
    args: Rest<ValueOrKwargs>,
    budget: &Budget,
) -> Result<Value, Error> {
    let mut values = args.into_values();
    let (width, kwargs): (Option<Value>, Kwargs) = from_args(values.get(..1).unwrap_or_default())?;
    let width = match width {
        Some(width) => Some(width),
        None => kwargs.get::<Option<Value>>("width")?,
    };
    let width = width.and_then(|width| width.as_usize()).unwrap_or(4);
    if width > WIDTH_MAX {
        return Err(refuse("indent must be at most 1000"));
    }
    let lines = text.as_str().unwrap_or_default().matches('\n').count() + 1;
    let added = bytes(lines).saturating_mul(bytes(width));
    budget.charge(size(&text).saturating_add(added))?;
    values.insert(0, text);
    Value::from_function(filters::indent).call(state, &values)
}

/// Python's methods of texts, mappings and lists.
fn call_method(
    state: &mut State,
    value: &Value,
    (method, args): (&str, &[Value]),
    budget: &Budget,
) -> Result<Value, Error> {
    budget.charge(copied(value))?;
    for arg in args {
        budget.charge(copied(arg))?;
    }
    let Some(text) = value.as_str() else {
        budget.charge(length(value))?;
        return minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args);
    };
    match method {
        "replace" => {
            let (old, new, count): (&str, &str, Option<i64>) = from_args(args)?;
            let count = count.and_then(|count| usize::try_from(count).ok());
            replace(text, (old, new), count, budget)
        }
        "join" => {
            let (items,): (&Value,) = from_args(args)?;
            join(items, text, budget)
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Ok(Value::from(text.strip_prefix(prefix).unwrap_or(text)))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Ok(Value::from(text.strip_suffix(suffix).unwrap_or(text)))
        }
        "format" => Err(Error::from(ErrorKind::UnknownMethod)),
        _ => minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args),
    }
}
