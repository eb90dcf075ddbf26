//! What several clients do to each other: `fair=8` streams at once against one, and one beside a long prompt.

use tests::set::Set;

use crate::home::{Answer, Household, together};
use crate::show;

/// Prints throughput and fairness of some streams, and the pauses of one alone and beside a prompt of `long=N`.
pub async fn fair(household: &Household, set: &Set) {
    let (streams, tokens) = (set.number("fair", 8), set.number("tokens", 64));
    let (rounds, prompt) = (set.number("rounds", 5), set.number("prompt", 32));
    let (mut one, mut all, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=rounds {
        let salt = round * 1000;
        one.push(together(&[household.complete(salt, prompt, tokens).await]));
        let answers = household.chats(salt + 1, (streams, prompt, tokens)).await;
        all.push(together(&answers));
        let speeds = answers.iter().map(Answer::whole_tokens_per_s);
        let (slowest, fastest) = speeds.fold((f64::MAX, 0.0_f64), |(low, high), speed| {
            (low.min(speed), high.max(speed))
        });
        ratios.push(fastest / slowest);
    }
    show("one stream", "tokens/s", one);
    show(&format!("{streams} streams together"), "tokens/s", all);
    show("fastest over slowest stream", "times", ratios);
    pauses(household, set).await;
}

async fn pauses(household: &Household, set: &Set) {
    let (rounds, long) = (set.number("rounds", 5), set.number("long", 1500));
    let tokens = set.number("beside", 300);
    let (mut alone, mut beside, mut ratios, mut first) = (vec![], vec![], vec![], vec![]);
    for round in 1..=rounds {
        let salt = round * 1000 + 500;
        let quiet = household.complete(salt, 8, tokens).await;
        let (stream, prompt) = futures::join!(
            household.complete(salt + 1, 8, tokens),
            household.complete(salt + 2, long, 1)
        );
        let (quiet, met) = (quiet.p99_s(None), stream.p99_s(Some(&prompt)));
        alone.push(1e3 * quiet);
        beside.push(1e3 * met);
        ratios.push(met / quiet);
        first.push(prompt.first_s());
    }
    show("pause between tokens alone, 99 of 100", "ms", alone);
    show(&format!("the same beside a prompt of {long}"), "ms", beside);
    show("beside over alone", "times", ratios);
    show("first token of that prompt", "s", first);
}
