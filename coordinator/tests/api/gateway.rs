//! The gateway by itself: the life of a request at its edges.

use std::sync::Arc;

use coordinator::gateway::{
    Command, EVENTS_MAX, Event, FinishReason, Gateway, GatewayHousehold, GenerateRequest, Refusal,
    Reply, SinkError,
};
use proto::RequestId;
use proto::step::Sampling;

use crate::household::{sampled, served_model, within};

fn request() -> GenerateRequest {
    GenerateRequest {
        prompt: vec![1],
        pooling: None,
        choices: 2,
        max_tokens: None,
        min_tokens: 0,
        stop_ids: Vec::new(),
        sampling: Sampling::default(),
        person: session::Person::default(),
        constraint: None,
    }
}

async fn next_reply(household: &mut GatewayHousehold) -> Reply {
    match within(household.commands.recv()).await {
        Some(Command::Generate { reply, .. }) => reply,
        other => panic!("{other:?}"),
    }
}

async fn next_cancel(household: &mut GatewayHousehold) -> RequestId {
    match within(household.commands.recv()).await {
        Some(Command::Cancel { request }) => request,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_end_of_a_choice_travels_with_its_last_token() {
    let (gateway, mut household) = Gateway::new(Arc::new(served_model()));
    let asking = tokio::spawn(async move {
        let stream = gateway.generate(request()).await.unwrap();
        (gateway, stream)
    });
    let mut sink = next_reply(&mut household).await.accept(RequestId(3));
    let (_gateway, mut stream) = asking.await.unwrap();
    assert_eq!(stream.request(), RequestId(3));

    sink.token(0, sampled(7, 0.0, &[])).unwrap();
    sink.token(1, sampled(8, 0.0, &[])).unwrap();
    sink.finished(0, FinishReason::Stop).unwrap();
    sink.token(1, sampled(9, 0.0, &[])).unwrap();
    sink.finished(1, FinishReason::Length).unwrap();

    let token = |choice, id, finish| Event::Token {
        choice,
        sampled: sampled(id, 0.0, &[]),
        finish,
    };
    let expected = [
        token(0, 7, None),
        token(1, 8, None),
        Event::Finished {
            choice: 0,
            reason: FinishReason::Stop,
        },
        token(1, 9, Some(FinishReason::Length)),
    ];
    for event in expected {
        assert_eq!(within(stream.next()).await, Some(event));
    }
    // Both choices are complete: nothing is left to cancel.
    drop(stream);
    assert!(household.commands.try_recv().is_err());
    assert_eq!(sink.token(0, sampled(1, 0.0, &[])), Ok(()));
    assert_eq!(sink.flush(), Err(SinkError::Gone));
}

#[tokio::test]
async fn a_client_that_left_before_the_answer_cancels_it() {
    let (gateway, mut household) = Gateway::new(Arc::new(served_model()));
    let asking = tokio::spawn({
        let gateway = gateway.clone();
        async move { gateway.generate(request()).await.map(drop) }
    });
    let reply = next_reply(&mut household).await;
    asking.abort();
    assert!(asking.await.unwrap_err().is_cancelled());

    let mut sink = reply.accept(RequestId(4));

    assert_eq!(next_cancel(&mut household).await, RequestId(4));
    sink.token(0, sampled(1, 0.0, &[])).unwrap();
    assert_eq!(sink.flush(), Err(SinkError::Gone));
}

#[tokio::test]
async fn a_client_that_does_not_read_is_noticed() {
    let (gateway, mut household) = Gateway::new(Arc::new(served_model()));
    let asking = tokio::spawn({
        let gateway = gateway.clone();
        async move { gateway.generate(request()).await }
    });
    let mut sink = next_reply(&mut household).await.accept(RequestId(5));
    let stream = asking.await.unwrap().unwrap();
    for _ in 0..=EVENTS_MAX {
        sink.token(0, sampled(1, 0.0, &[])).unwrap();
    }
    assert_eq!(sink.flush(), Err(SinkError::Slow));
    drop(stream);
    assert_eq!(next_cancel(&mut household).await, RequestId(5));
}

#[tokio::test]
async fn a_household_that_says_nothing_is_not_ready() {
    let (gateway, mut household) = Gateway::new(Arc::new(served_model()));
    let asking = tokio::spawn({
        let gateway = gateway.clone();
        async move { gateway.generate(request()).await.map(drop) }
    });
    drop(next_reply(&mut household).await);
    assert_eq!(asking.await.unwrap(), Err(Refusal::NotReady));
    drop(household);
    let refused = gateway.generate(request()).await.map(drop);
    assert_eq!(refused, Err(Refusal::NotReady));
}
