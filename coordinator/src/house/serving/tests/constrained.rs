//! Constrained requests: every token waits for its mask, and whatever goes wrong with a mask ends that request alone.

use std::collections::HashMap;

use proto::SequenceId;
use proto::frame::MaskFrame;
use proto::mask::TokenMask;

use super::*;
use crate::text::{Begin, Form, Grammars};

impl World {
    fn constrained(&self, choices: u32) -> GenerateRequest {
        let texts = ["north", "north-east", "south"].map(str::to_owned);
        let grammars = Grammars::new(Arc::clone(self.gateway.model()));
        let form = Form::Choice(texts.to_vec());
        GenerateRequest {
            stop_ids: self.gateway.model().defaults.eos_ids.clone(),
            constraint: Some(grammars.compile(&form, Begin::AtOnce).unwrap()),
            ..request(choices, 40)
        }
    }

    /// Draws under the masks as the last stage does, until nothing more comes. `draw` picks a token.
    fn draw_all(&mut self, draw: impl Fn(&TokenMask) -> u32) {
        let mut waiting: Vec<Step> = Vec::new();
        let mut masks: HashMap<SequenceId, MaskFrame> = HashMap::new();
        loop {
            let ready = waiting.iter().position(|step| {
                let mut segments = step.segments.iter();
                segments.all(|s| s.logits != Logits::Masked || masks.contains_key(&s.sequence))
            });
            if let Some(at) = ready {
                let step = waiting.remove(at);
                let mut frame = answer(&step);
                for sampled in &mut frame.samples {
                    let mask = masks.remove(&sampled.sequence).and_then(|mask| mask.mask);
                    sampled.token = mask.map_or(100, |mask| draw(&mask));
                }
                self.serving.input(Duration::ZERO, Input::Done(frame));
                continue;
            }
            match self.serving.poll_effect() {
                None => break,
                Some(Effect::Frame(Frame::Step(step))) => waiting.push(step),
                Some(Effect::Frame(Frame::Mask(mask))) => {
                    assert!(masks.insert(mask.sequence, mask).is_none());
                }
                Some(Effect::Frame(Frame::Close(close))) => self.closed += close.sequences.len(),
                Some(Effect::Mask(job)) => self.serving.masked(Duration::ZERO, job.run()),
                Some(other) => panic!("{other:?}"),
            }
        }
        assert!(waiting.is_empty() && masks.is_empty(), "{waiting:?}");
    }

    /// The text of one choice, its end token left out.
    fn text(&self, events: &[Event], choice: u32) -> String {
        let ids = events.iter().filter_map(|event| match event {
            Event::Token {
                choice: of,
                sampled,
                finish: None,
            } if *of == choice => Some(sampled.token),
            _ => None,
        });
        let ids: Vec<u32> = ids.collect();
        let tokenizer = &self.gateway.model().tokenizer;
        tokenizer.decode(&ids, model::SpecialText::Keep)
    }
}

#[tokio::test]
async fn every_choice_follows_the_constraint() {
    let mut world = World::new();
    let mut stream = world.ask(world.constrained(2), Door::Open).await.unwrap();
    let mut free = world.ask(request(1, 6), Door::Open).await.unwrap();
    world.draw_all(|mask| mask.ids().last().unwrap());
    let events = all(&mut stream).await;
    for choice in 0..2 {
        let text = world.text(&events, choice);
        assert!(
            ["north", "north-east", "south"].contains(&text.as_str()),
            "{text}"
        );
    }
    let ended = |event: &&Event| {
        let stop = Some(gateway::FinishReason::Stop);
        matches!(event, Event::Token { finish, .. } if *finish == stop)
    };
    assert_eq!(events.iter().filter(ended).count(), 2);
    assert_eq!(all(&mut free).await.len(), 6, "the others go on beside");
    assert_eq!(world.closed, 3);
    assert!(world.serving.answers.is_empty());
}

#[tokio::test]
async fn a_token_outside_of_the_mask_fails_the_request() {
    let mut world = World::new();
    let mut stream = world.ask(world.constrained(1), Door::Open).await.unwrap();
    let mut other = world.ask(request(1, 6), Door::Open).await.unwrap();
    world.draw_all(|mask| (0..).find(|id| !mask.allows(*id)).unwrap());
    let events = all(&mut stream).await;
    let Some(Event::Failed(failure)) = events.last() else {
        panic!("{events:?}")
    };
    assert_eq!(
        (failure.code, failure.retry),
        ("constraint_failed", gateway::Retry::Never)
    );
    assert!(!failure.message.contains("north"), "{}", failure.message);
    assert_eq!(all(&mut other).await.len(), 6);
    assert_eq!(world.closed, 2);
    assert!(world.serving.answers.is_empty());
}

#[tokio::test]
async fn a_client_that_leaves_while_its_mask_is_computed_frees_its_cache() {
    let mut world = World::new();
    let stream = world.ask(world.constrained(1), Door::Open).await.unwrap();
    let step = match world.serving.poll_effect() {
        Some(Effect::Frame(Frame::Step(step))) => step,
        other => panic!("{other:?}"),
    };
    let first = match world.serving.poll_effect() {
        Some(Effect::Frame(Frame::Mask(mask))) => mask.mask.unwrap(),
        other => panic!("{other:?}"),
    };
    let mut frame = answer(&step);
    frame.samples[0].token = first.ids().next().unwrap();
    world.serving.input(Duration::ZERO, Input::Done(frame));
    let mut effects = Vec::new();
    while let Some(effect) = world.serving.poll_effect() {
        effects.push(effect);
    }
    let [Effect::Mask(_), Effect::Frame(Frame::Step(_))] = effects.as_slice() else {
        panic!("{effects:?}")
    };
    let (Some(Effect::Frame(Frame::Step(step))), Some(Effect::Mask(job))) =
        (effects.pop(), effects.pop())
    else {
        panic!("matched above")
    };
    drop(stream);
    world.commands(Door::Open);
    let released = world.serving.poll_effect();
    assert!(
        matches!(&released, Some(Effect::Frame(Frame::Mask(mask))) if mask.mask.is_none()),
        "{released:?}"
    );
    world.serving.masked(Duration::ZERO, job.run());
    assert!(world.serving.poll_effect().is_none());
    world
        .serving
        .input(Duration::ZERO, Input::Done(answer(&step)));
    world.run(10);
    assert_eq!(world.closed, 1);
    assert!(world.serving.session().is_idle() && world.serving.answers.is_empty());
}
