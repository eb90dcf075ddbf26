//! What readers of calls tell.

/// What a piece of an answer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::text) enum CallEvent {
    /// Text between calls.
    Text(String),
    /// A call begins.
    Begin {
        /// The tool's name.
        name: String,
    },
    /// More of the arguments' JSON text.
    Arguments(String),
    /// The call is complete.
    End,
}

/// How an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::text) enum Ending {
    /// The model ended it.
    Own,
    /// It was cut off.
    Cut,
}

/// Events of one piece of text; neighbours of one kind are merged.
pub(super) type Events = Vec<CallEvent>;

/// Adds text.
pub(super) fn text(events: &mut Events, text: &str) {
    if text.is_empty() {
        return;
    }
    match events.last_mut() {
        Some(CallEvent::Text(last)) => last.push_str(text),
        _ => events.push(CallEvent::Text(text.to_owned())),
    }
}

/// Adds arguments.
pub(super) fn arguments(events: &mut Events, json: &str) {
    if json.is_empty() {
        return;
    }
    match events.last_mut() {
        Some(CallEvent::Arguments(last)) => last.push_str(json),
        _ => events.push(CallEvent::Arguments(json.to_owned())),
    }
}

/// What became of a character inside a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Flow {
    /// More is expected.
    Going,
    /// The call is complete. The text behind it, if some was read already, is looked at anew.
    Done {
        /// What did not belong to the call.
        behind: String,
    },
    /// This is no call, or no longer one. The last character does not belong to it.
    Broken,
}
