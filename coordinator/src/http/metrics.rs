//! What `/metrics` tells: counts and times, never text.

use std::sync::OnceLock;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

const REQUESTS: &str = "hearth_http_requests_total";
const TOKENS: &str = "hearth_tokens_generated_total";
const FIRST_TOKEN: &str = "hearth_time_to_first_token_seconds";
const INTER_TOKEN: &str = "hearth_inter_token_seconds";
const READY: &str = "hearth_ready";

const FIRST_TOKEN_BUCKETS_S: [f64; 10] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0];
const INTER_TOKEN_BUCKETS_S: [f64; 10] = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 10.0];

/// The process's recorder; installed at the first call. `None` if the process has another one already, or the
/// recorder could not be built.
pub(super) fn recorder() -> Option<&'static PrometheusHandle> {
    static RECORDER: OnceLock<Option<PrometheusHandle>> = OnceLock::new();
    RECORDER.get_or_init(install).as_ref()
}

fn install() -> Option<PrometheusHandle> {
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(
            Matcher::Full(FIRST_TOKEN.to_owned()),
            &FIRST_TOKEN_BUCKETS_S,
        )
        .and_then(|builder| {
            builder.set_buckets_for_metric(
                Matcher::Full(INTER_TOKEN.to_owned()),
                &INTER_TOKEN_BUCKETS_S,
            )
        })
        .ok()?
        .build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).ok()?;
    metrics::describe_counter!(REQUESTS, "Requests answered, by route and status");
    metrics::describe_counter!(TOKENS, "Tokens generated for clients");
    metrics::describe_histogram!(
        FIRST_TOKEN,
        "Seconds from an accepted request to its first token"
    );
    metrics::describe_histogram!(INTER_TOKEN, "Seconds between two tokens of one choice");
    metrics::describe_gauge!(READY, "1 if a request sent now is answered");
    Some(handle)
}

/// A request was answered. `route` is one of a fixed set of names.
pub(super) fn answered(route: &'static str, status: u16) {
    metrics::counter!(REQUESTS, "route" => route, "status" => status.to_string()).increment(1);
}

/// A token went out.
pub(super) fn token() {
    metrics::counter!(TOKENS).increment(1);
}

/// The first token of a request came after this many seconds.
pub(super) fn first_token(seconds: f64) {
    metrics::histogram!(FIRST_TOKEN).record(seconds);
}

/// The next token of a choice came after this many seconds.
pub(super) fn inter_token(seconds: f64) {
    metrics::histogram!(INTER_TOKEN).record(seconds);
}

/// The text of `/metrics`.
pub(super) fn render(ready: bool) -> Option<String> {
    metrics::gauge!(READY).set(f64::from(u8::from(ready)));
    recorder().map(PrometheusHandle::render)
}

/// Must run now and then, or the histograms grow.
pub(super) fn upkeep() {
    if let Some(recorder) = recorder() {
        recorder.run_upkeep();
    }
}
