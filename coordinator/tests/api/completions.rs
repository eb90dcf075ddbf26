//! `/v1/completions`: prompts of all forms, stop texts, listed tokens.

use coordinator::gateway::FinishReason;
use proto::RequestId;
use serde_json::{Value, json};

use crate::client::{Reply, post_json};
use crate::household::{END, Say, Seen, Served, sampled};

async fn send(served: &Served, mut body: Value) -> Reply {
    body["model"] = json!("hearth-test");
    post_json(served.address, "/v1/completions", &body).await
}

fn events(reply: &Reply) -> Vec<Value> {
    assert_eq!(
        reply.status(),
        200,
        "{:?}",
        String::from_utf8_lossy(&reply.body)
    );
    let mut events = reply.events();
    assert_eq!(events.pop().as_deref(), Some("[DONE]"));
    events
        .iter()
        .map(|event| serde_json::from_str(event).unwrap())
        .collect()
}

#[tokio::test]
async fn prompts_come_in_four_forms() {
    let served = Served::start().await;
    let ids = served.ids("Once upon");
    for prompt in [
        json!("Once upon"),
        json!(["Once upon"]),
        json!(ids),
        json!([ids]),
    ] {
        let reply = send(&served, json!({"prompt": prompt})).await;
        assert_eq!(reply.status(), 200, "{:?}", reply.json());
        let request = served.request().await;
        assert_eq!(request.prompt, ids);
        assert_eq!(request.max_tokens, Some(16));
        assert_eq!(reply.json()["object"], "text_completion");
    }
}

#[tokio::test]
async fn ids_are_used_as_given() {
    let served = Served::start().await;
    // Ids that no text would give, and one that has no token at all.
    let ids = vec![END, 0, 575, 5, 5];
    send(&served, json!({"prompt": ids})).await;
    assert_eq!(served.request().await.prompt, ids);
}

#[tokio::test]
async fn several_prompts_give_choices_in_their_order() {
    let served = Served::start().await;
    let (a, b) = (served.ids("A")[0], served.ids("B")[0]);
    served.script(move |request| {
        let id = request.prompt[0];
        Ok(vec![
            Say::Last(1, id, FinishReason::Length),
            Say::Token(0, id),
            Say::Last(0, END, FinishReason::Stop),
        ])
    });

    let reply = send(&served, json!({"prompt": ["A", [b]], "n": 2, "echo": true})).await;

    let answer = reply.json();
    let choices = answer["choices"].as_array().unwrap();
    let texts: Vec<_> = choices
        .iter()
        .map(|c| c["text"].as_str().unwrap())
        .collect();
    assert_eq!(texts, ["AA", "AA", "BB", "BB"]);
    let indices: Vec<_> = choices
        .iter()
        .map(|c| c["index"].as_u64().unwrap())
        .collect();
    assert_eq!(indices, [0, 1, 2, 3]);
    assert_eq!(answer["usage"]["prompt_tokens"], 2);
    assert_eq!(answer["usage"]["completion_tokens"], 6);
    assert_eq!(served.request().await.prompt, [a]);
    assert_eq!(served.request().await.prompt, [b]);
}

#[tokio::test]
async fn a_stop_text_is_found_over_token_borders() {
    let served = Served::start().await;
    let text = "one two three four";
    served.say(served.speak(text));

    let whole = send(
        &served,
        json!({"prompt": "x", "stop": ["o three", "never"]}),
    )
    .await;

    let answer = whole.json();
    assert_eq!(answer["choices"][0]["text"], "one tw");
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    let first = served.seen().await;
    assert!(matches!(first, Seen::Generate(_)));
    assert_eq!(served.seen().await, Seen::Stop(RequestId(1), 0));
    // The answer is complete for us, not for the household: the rest is cancelled.
    assert_eq!(served.seen().await, Seen::Cancel(RequestId(1)));
    let made = answer["usage"]["completion_tokens"].as_u64().unwrap() as usize;
    assert!(
        made < served.ids(text).len(),
        "tokens after the stop do not count"
    );

    let streamed = events(
        &send(
            &served,
            json!({"prompt": "x", "stop": "o three", "stream": true}),
        )
        .await,
    );
    let text: String = streamed
        .iter()
        .map(|event| event["choices"][0]["text"].as_str().unwrap())
        .collect();
    assert_eq!(text, "one tw");
    assert_eq!(streamed.len(), made, "one event per token");
    assert_eq!(streamed[made - 1]["choices"][0]["finish_reason"], "stop");
}

#[tokio::test]
async fn text_held_for_a_stop_comes_out_at_the_end() {
    let served = Served::start().await;
    served.say(served.speak("abc EN"));
    let answer = send(&served, json!({"prompt": "x", "stop": "END"}))
        .await
        .json();
    assert_eq!(answer["choices"][0]["text"], "abc EN");
}

#[tokio::test]
async fn one_stopped_choice_leaves_the_other_running() {
    let served = Served::start().await;
    let (a, b, stop) = (served.ids("A")[0], served.ids("B")[0], served.ids("!")[0]);
    served.say(vec![
        Say::Token(0, a),
        Say::Token(0, stop),
        Say::Token(0, a),
        Say::Token(1, b),
        Say::Finished(0, FinishReason::Cancelled),
        Say::Last(1, b, FinishReason::Length),
    ]);

    let answer = send(&served, json!({"prompt": "x", "n": 2, "stop": "!"}))
        .await
        .json();

    assert_eq!(answer["choices"][0]["text"], "A");
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    assert_eq!(answer["choices"][1]["text"], "BB");
    assert_eq!(answer["choices"][1]["finish_reason"], "length");
    assert_eq!(answer["usage"]["completion_tokens"], 4);
}

#[tokio::test]
async fn listed_tokens_line_up() {
    let served = Served::start().await;
    let ids = served.ids("caf\u{e9}!");
    let mut script: Vec<Say> = Vec::new();
    for (place, &id) in ids.iter().enumerate() {
        let logprob = -0.1 - place as f32;
        // The chosen token is not always among the largest.
        let top = if place == 0 {
            vec![(1, -0.05), (2, -0.07)]
        } else {
            vec![(id, logprob), (2, -9.0)]
        };
        script.push(Say::Sampled(0, sampled(id, logprob, &top)));
    }
    script.push(Say::Finished(0, FinishReason::Length));
    served.say(script);

    let answer = send(&served, json!({"prompt": "x", "logprobs": 2}))
        .await
        .json();

    assert_eq!(served.request().await.sampling.logprobs, Some(2));
    let choice = &answer["choices"][0];
    assert_eq!(choice["text"], "caf\u{e9}!");
    let lists = &choice["logprobs"];
    for name in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        assert_eq!(lists[name].as_array().unwrap().len(), ids.len(), "{name}");
    }
    assert_eq!(lists["top_logprobs"][0].as_object().unwrap().len(), 3);
    assert_eq!(lists["top_logprobs"][1].as_object().unwrap().len(), 2);
    let value = lists["token_logprobs"][1].as_f64().unwrap() as f32;
    assert_eq!(value.to_bits(), (-1.1_f32).to_bits());
    // The exclamation mark is the fifth character, however many tokens came before.
    assert_eq!(lists["text_offset"][ids.len() - 1], 4);
    assert_eq!(lists["text_offset"][0], 0);

    let body =
        json!({"prompt": "x", "logprobs": 1, "stream": true, "return_tokens_as_token_ids": true});
    let streamed = events(&send(&served, body).await);
    let tokens: Vec<_> = streamed
        .iter()
        .map(|event| event["choices"][0]["logprobs"]["tokens"][0].clone())
        .collect();
    let expected: Vec<_> = ids
        .iter()
        .map(|id| json!(format!("token_id:{id}")))
        .collect();
    assert_eq!(tokens, expected);
}

#[tokio::test]
async fn end_ids_have_no_text_and_are_disregarded_when_asked() {
    let served = Served::start().await;
    let a = served.ids("A")[0];
    served.say(vec![
        Say::Token(0, END),
        Say::Token(0, a),
        Say::Last(0, END, FinishReason::Length),
    ]);
    let answer = send(&served, json!({"prompt": "x", "ignore_eos": true}))
        .await
        .json();
    assert_eq!(served.request().await.stop_ids, [] as [u32; 0]);
    assert_eq!(answer["choices"][0]["text"], "A");
    assert_eq!(answer["usage"]["completion_tokens"], 3);
    // A stop id that is an ordinary token is not shown either.
    served.say(vec![Say::Token(0, a), Say::Last(0, a, FinishReason::Stop)]);
    let answer = send(&served, json!({"prompt": "x", "stop_token_ids": [a]}))
        .await
        .json();
    assert_eq!(answer["choices"][0]["text"], "A");
}

#[tokio::test]
async fn the_default_length_is_lowered_to_what_fits() {
    let served = Served::start().await;
    let prompt = vec![5_u32; 510];
    send(&served, json!({"prompt": prompt})).await;
    assert_eq!(served.request().await.max_tokens, Some(2));
    let reply = send(&served, json!({"prompt": prompt, "max_tokens": 3})).await;
    assert_eq!(reply.status(), 400);
    assert_eq!(reply.json()["error"]["code"], "context_length_exceeded");
    let reply = send(&served, json!({"prompt": vec![5_u32; 512]})).await;
    assert_eq!(reply.json()["error"]["code"], "context_length_exceeded");
    served.assert_nothing_seen().await;
}
