//! Which step is made next. A pure function of a few counts: no sequence, page or time is known here.
//!
//! The one idea: every running sequence sits in one of at most as many micro-batches as there are stages, so each
//! stage can work on another one; a decode step goes before any prompt chunk, and while a decode step is on its way
//! only as many chunks may start as there are stages. So neither kind starves the other. How long a chunk is, is decided
//! elsewhere (`pace`).

use proto::limits;

/// What the decision depends on. Steps that are overdue are not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct View {
    /// Stages of the pipeline.
    pub stages: u32,
    /// Sequences past their prompt.
    pub decoding: u32,
    /// Those of them whose newest token is not under way.
    pub ready: u32,
    /// Sequences with prompt rows to send.
    pub prefilling: u32,
    /// Decode steps under way.
    pub decode_in_flight: u32,
    /// Prefill steps under way.
    pub prefill_in_flight: u32,
    /// Prefill steps sent since the oldest decode step under way was sent.
    pub prefill_since_decode: u32,
    /// Whether the next decode step has to go without prompts, so that its time can be measured.
    pub wants_quiet: bool,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// One row for each of this many ready sequences.
    Decode(u32),
    /// A chunk of prompts.
    Prefill,
    /// Nothing until an answer or a request comes.
    Wait,
}

/// Decides the next step.
pub(crate) fn next(view: &View) -> Next {
    if view.ready > 0 && view.decode_in_flight < view.stages {
        return Next::Decode(view.ready.min(group_rows(view.decoding, view.stages)));
    }
    if view.prefilling > 0 && may_prefill(view) {
        return Next::Prefill;
    }
    Next::Wait
}

/// Sequences of one micro-batch.
fn group_rows(decoding: u32, stages: u32) -> u32 {
    decoding
        .div_ceil(stages.max(1))
        .clamp(1, limits::STEP_SEGMENTS_MAX)
}

/// Alone, prompts keep one chunk more under way than there are stages, so that the first stage never waits for the
/// coordinator. Beside decode steps they keep one less, and take turns with them.
fn may_prefill(view: &View) -> bool {
    if view.decoding == 0 {
        view.prefill_in_flight <= view.stages
    } else {
        !view.wants_quiet
            && view.prefill_in_flight < view.stages
            && view.prefill_since_decode < view.stages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_step_is_a_function_of_counts() {
        let idle = View {
            stages: 3,
            ..View::default()
        };
        let prompts = View {
            prefilling: 1,
            ..idle
        };
        let answers = View {
            decoding: 7,
            ready: 7,
            ..prompts
        };
        let cases = [
            ("nothing to do", idle, Next::Wait),
            ("a prompt", prompts, Next::Prefill),
            (
                "one chunk more than stages",
                View {
                    prefill_in_flight: 3,
                    ..prompts
                },
                Next::Prefill,
            ),
            (
                "but no more",
                View {
                    prefill_in_flight: 4,
                    ..prompts
                },
                Next::Wait,
            ),
            ("decode first, in thirds", answers, Next::Decode(3)),
            (
                "what is ready, if fewer",
                View {
                    ready: 2,
                    ..answers
                },
                Next::Decode(2),
            ),
            (
                "as many decode steps as stages, then prompts",
                View {
                    decode_in_flight: 3,
                    ..answers
                },
                Next::Prefill,
            ),
            (
                "prompts keep one chunk per stage beside decode",
                View {
                    ready: 0,
                    prefill_in_flight: 3,
                    ..answers
                },
                Next::Wait,
            ),
            (
                "and take turns with it",
                View {
                    ready: 0,
                    decode_in_flight: 1,
                    prefill_since_decode: 3,
                    ..answers
                },
                Next::Wait,
            ),
            (
                "prompts wait while a token is timed",
                View {
                    ready: 0,
                    decode_in_flight: 1,
                    wants_quiet: true,
                    ..answers
                },
                Next::Wait,
            ),
            (
                "but not for nobody",
                View {
                    wants_quiet: true,
                    ..prompts
                },
                Next::Prefill,
            ),
            (
                "a step is never wider than a frame",
                View {
                    decoding: 9999,
                    ready: 9999,
                    ..answers
                },
                Next::Decode(limits::STEP_SEGMENTS_MAX),
            ),
        ];
        for (name, view, expected) in cases {
            assert_eq!(next(&view), expected, "{name}");
        }
    }
}
