//! The operators that make texts and lists: `+`, `~`, `*`, slices, `in`. As Python has them, within the budget.

use minijinja::value::{Tuple, Value, ValueKind};
use minijinja::{Error, ErrorKind};

use super::budget::{Budget, bytes, length, size};
use super::python;

fn impossible(operator: &str, left: &Value, right: &Value) -> Error {
    Error::new(
        ErrorKind::InvalidOperation,
        format!(
            "{operator} does not work on {} and {}",
            left.kind(),
            right.kind()
        ),
    )
}

fn is_list(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable)
}

/// All elements of a list. Lists are charged by length before they are collected.
fn elements(value: &Value) -> Result<Vec<Value>, Error> {
    value.try_iter()?.checked().collect()
}

/// A list of the same kind as `like`.
fn list_like(like: &Value, items: Vec<Value>) -> Value {
    if like.is_tuple() {
        Value::from(Tuple::from(items))
    } else {
        Value::from(items)
    }
}

/// Both as integers, if both are integers or booleans.
fn integers(left: &Value, right: &Value) -> Option<(i128, i128)> {
    let integer = |value: &Value| match value.kind() {
        ValueKind::Bool => Some(i128::from(value.is_true())),
        ValueKind::Number if value.is_integer() => i128::try_from(value.clone()).ok(),
        _ => None,
    };
    Some((integer(left)?, integer(right)?))
}

/// Both as floats, if both are numbers.
fn floats(left: &Value, right: &Value) -> Option<(f64, f64)> {
    let float = |value: &Value| match value.kind() {
        ValueKind::Number | ValueKind::Bool => f64::try_from(value.clone()).ok(),
        _ => None,
    };
    Some((float(left)?, float(right)?))
}

fn integer_value(number: i128) -> Value {
    match i64::try_from(number) {
        Ok(number) => Value::from(number),
        Err(_) => Value::from(number),
    }
}

/// `left + right`.
pub(super) fn add(left: &Value, right: &Value, budget: &Budget) -> Result<Value, Error> {
    let overflow = || Error::new(ErrorKind::InvalidOperation, "a sum is too large");
    if let (Some(a), Some(b)) = (left.as_str(), right.as_str()) {
        budget.charge(bytes(a.len()).saturating_add(bytes(b.len())))?;
        return Ok(Value::from([a, b].concat()));
    }
    if let Some((a, b)) = integers(left, right) {
        return a.checked_add(b).map(integer_value).ok_or_else(overflow);
    }
    if let Some((a, b)) = floats(left, right) {
        return Ok(Value::from(a + b));
    }
    if is_list(left) && is_list(right) && left.is_tuple() == right.is_tuple() {
        budget.charge(size(left).saturating_add(size(right)))?;
        let mut items = elements(left)?;
        items.extend(elements(right)?);
        return Ok(list_like(left, items));
    }
    Err(impossible("+", left, right))
}

/// `left ~ right`: both as texts, one after the other.
pub(super) fn concat(left: &Value, right: &Value, budget: &Budget) -> Result<Value, Error> {
    let mut text = python::str(left, budget)?;
    text.push_str(&python::str(right, budget)?);
    Ok(Value::from(text))
}

/// `left * right`.
pub(super) fn multiply(left: &Value, right: &Value, budget: &Budget) -> Result<Value, Error> {
    let overflow = || Error::new(ErrorKind::InvalidOperation, "a product is too large");
    if let Some((a, b)) = integers(left, right) {
        return a.checked_mul(b).map(integer_value).ok_or_else(overflow);
    }
    if let Some((a, b)) = floats(left, right) {
        return Ok(Value::from(a * b));
    }
    let (many, times) = match (left.kind(), right.kind()) {
        (ValueKind::Number, _) => (right, left),
        _ => (left, right),
    };
    let Some(times) = times.as_i64() else {
        return Err(impossible("*", left, right));
    };
    let times = usize::try_from(times.max(0)).map_err(|_| overflow())?;
    budget.charge(size(many).saturating_mul(bytes(times)))?;
    if let Some(text) = many.as_str() {
        return Ok(Value::from(text.repeat(times)));
    }
    if !is_list(many) {
        return Err(impossible("*", left, right));
    }
    let items = elements(many)?;
    // The loop below turns once for each copy, even if there is nothing to copy.
    budget.charge(bytes(times))?;
    let mut all = Vec::new();
    for _ in 0..times {
        all.extend_from_slice(&items);
    }
    Ok(list_like(many, all))
}

/// The three numbers of a slice; `None` where nothing stands.
pub(super) struct Bounds {
    pub(super) start: Value,
    pub(super) stop: Value,
    pub(super) step: Value,
}

/// `value[start:stop:step]`.
pub(super) fn slice(value: &Value, bounds: &Bounds, budget: &Budget) -> Result<Value, Error> {
    if value.is_undefined() || value.is_none() {
        return Ok(Value::from(Vec::<Value>::new()));
    }
    budget.charge(size(value).saturating_mul(4))?;
    if let Some(text) = value.as_str() {
        let characters: Vec<char> = text.chars().collect();
        let picked = positions(bounds, characters.len())?;
        let text: String = picked
            .filter_map(|at| characters.get(at).copied())
            .collect();
        return Ok(Value::from(text));
    }
    if !is_list(value) {
        return Err(Error::new(
            ErrorKind::InvalidOperation,
            format!("a value of type {} cannot be sliced", value.kind()),
        ));
    }
    let items = elements(value)?;
    let picked = positions(bounds, items.len())?;
    let items = picked.filter_map(|at| items.get(at).cloned()).collect();
    Ok(list_like(value, items))
}

/// The places that a slice of something of `length` picks, in its order.
fn positions(bounds: &Bounds, length: usize) -> Result<impl Iterator<Item = usize>, Error> {
    let number = |value: &Value| -> Result<Option<i64>, Error> {
        if value.is_none() || value.is_undefined() {
            return Ok(None);
        }
        i64::try_from(value.clone()).map(Some)
    };
    let step = number(&bounds.step)?.unwrap_or(1);
    if step == 0 {
        return Err(Error::new(
            ErrorKind::InvalidOperation,
            "a slice cannot have a step of 0",
        ));
    }
    let length = i64::try_from(length).unwrap_or(i64::MAX);
    // A bound counts from the end if negative, and is moved to the nearest place that the direction allows.
    let (lowest, highest) = if step > 0 {
        (0, length)
    } else {
        (-1, length - 1)
    };
    let place = |bound: Option<i64>, otherwise: i64| match bound {
        Some(bound) if bound < 0 => bound.saturating_add(length).clamp(lowest, highest),
        Some(bound) => bound.clamp(lowest, highest),
        None => otherwise,
    };
    let (first, last) = if step > 0 {
        (0, length)
    } else {
        (length - 1, -1)
    };
    let start = place(number(&bounds.start)?, first);
    let stop = place(number(&bounds.stop)?, last);
    let mut at = start;
    Ok(std::iter::from_fn(move || {
        let inside = if step > 0 { at < stop } else { at > stop };
        let found = usize::try_from(at).ok().filter(|_| inside)?;
        at = at.saturating_add(step);
        Some(found)
    }))
}

/// `needle in haystack`.
pub(super) fn contains(needle: &Value, haystack: &Value, budget: &Budget) -> Result<Value, Error> {
    budget.charge(length(haystack) / 64)?;
    let found = match haystack.kind() {
        ValueKind::Undefined => false,
        ValueKind::String => {
            let text = haystack.as_str().unwrap_or_default();
            budget.charge(bytes(text.len()) / 64)?;
            match needle.as_str() {
                Some(part) => text.contains(part),
                None => return Err(impossible("in", needle, haystack)),
            }
        }
        ValueKind::Map => haystack
            .as_object()
            .is_some_and(|map| map.get_value(needle).is_some()),
        ValueKind::Seq | ValueKind::Iterable => {
            let mut found = false;
            for item in haystack.try_iter()?.checked() {
                found |= item? == *needle;
            }
            found
        }
        _ => return Err(impossible("in", needle, haystack)),
    };
    Ok(Value::from(found))
}
