//! What strangers and the owner ask of the running household.
//!
//! Whatever needs the record runs in a task and answers by itself or comes back as [`Done`].

use std::time::Duration;

use command::local::Call;
use proto::NodeId;
use transport::{PairingAnswer, PairingClaim, PairingRefusal, PairingRequest};

use super::{Actor, Done};
use crate::house::desk::{Ask, Shown};
use crate::house::facts::{ModelsFacts, NodesFacts, StatusFacts, Work};
use crate::house::knocks::{Knock, KnockFacts};
use crate::house::serving::Serving;
use crate::house::state::Event;
use crate::people;

impl Actor {
    pub(super) fn pair(&mut self, request: PairingRequest) {
        if self.ends.is_some() {
            let _gone = request
                .reply
                .send(PairingAnswer::Refuse(PairingRefusal::Ending));
            return;
        }
        let PairingRequest {
            node,
            remote,
            name,
            claim,
            reply,
        } = request;
        let secret = match claim {
            PairingClaim::Invite(secret) => secret,
            PairingClaim::Screen(words) => {
                let facts = KnockFacts::new(name, remote, words);
                return self.knocks.add(self.now(), Knock { facts, node, reply });
            }
        };
        let desk = self.parts.desk.clone();
        let shown = Shown {
            node,
            remote,
            name,
            secret,
            reply,
        };
        // As many at once as the transport lets in.
        self.tasks.spawn(async move {
            desk.pair(shown).await;
            Done::Nothing
        });
    }

    pub(super) fn owner(&mut self, now: Duration, call: Call) {
        if people::knows(&call.request) {
            return self.about_people(call);
        }
        let ask = match Ask::parse(&call.request) {
            Ok(ask) => ask,
            Err(text) => return call.refuse(text),
        };
        let household = &self.parts.household;
        let desk = self.parts.desk.clone();
        match ask {
            Ask::Status {} => {
                let work = work(now, &mut self.serving);
                call.answer(&StatusFacts::of(now, &self.parts.fixed, household, work));
            }
            Ask::Plan { next } => match household.run().filter(|_| !next) {
                Some(run) => call.answer(&*run.plan),
                None => self.preview(now, call),
            },
            Ask::Nodes {} => self.nodes(now, call),
            Ask::Models {} => self.models(call),
            Ask::Invite { ttl_s } => {
                self.tasks.spawn(async move {
                    match desk.invite_facts(ttl_s).await {
                        Ok(facts) => call.answer(&facts),
                        Err(error) => call.refuse(error.to_string()),
                    }
                    Done::Nothing
                });
            }
            Ask::Kick { node } => {
                let connected = household
                    .nodes()
                    .map(|node| (node.id.clone(), node.name.clone()));
                let connected: Vec<(NodeId, String)> = connected.collect();
                self.tasks.spawn(async move {
                    let result = desk.kick(&node, &connected).await;
                    Done::Kicked { call, result }
                });
            }
            Ask::Pending {} => call.answer(&desk.pending_facts(self.knocks.list(now))),
            Ask::Approve { device } => {
                if let Some((knock, call)) = self.knocking(now, &device, call) {
                    self.approve(knock, call);
                }
            }
            Ask::Deny { device } => {
                if let Some((knock, call)) = self.knocking(now, &device, call) {
                    call.answer(&knock.deny());
                }
            }
            Ask::Stop {} => {
                call.answer(&serde_json::json!({"stopping": true}));
                self.strings.stop_asked.send_replace(true);
            }
        }
    }

    /// Keys and usage are answered by whoever keeps them.
    fn about_people(&mut self, call: Call) {
        let people = self.parts.desk.people.clone();
        self.tasks.spawn(async move {
            match people.answer(&call.request).await {
                Ok(value) => call.answer(&value),
                Err(text) => call.refuse(text),
            }
            Done::Nothing
        });
    }

    fn nodes(&mut self, now: Duration, call: Call) {
        let facts = NodesFacts::of(now, &self.parts.household, &self.survey);
        let desk = self.parts.desk.clone();
        self.tasks.spawn(async move {
            match desk.store.members().await {
                Ok(members) => call.answer(&facts.with_members(members)),
                Err(error) => call.refuse(error.to_string()),
            }
            Done::Nothing
        });
    }

    fn models(&mut self, call: Call) {
        let (desk, fixed) = (self.parts.desk.clone(), self.parts.fixed.clone());
        self.tasks.spawn(async move {
            match desk.models().await {
                Ok(added) => call.answer(&ModelsFacts::of(&fixed, &added)),
                Err(text) => call.refuse(text),
            }
            Done::Nothing
        });
    }

    /// The device that the owner names; without one the call is answered.
    fn knocking(&mut self, now: Duration, device: &str, call: Call) -> Option<(Knock, Call)> {
        match self.knocks.take(now, device) {
            Ok(knock) => Some((knock, call)),
            Err(text) => {
                call.refuse(text);
                None
            }
        }
    }

    fn approve(&mut self, knock: Knock, call: Call) {
        let desk = self.parts.desk.clone();
        self.tasks.spawn(async move {
            match desk.approve(knock).await {
                Ok(facts) => call.answer(&facts),
                Err(text) => call.refuse(text),
            }
            Done::Nothing
        });
    }

    pub(super) fn done(&mut self, now: Duration, done: Done) {
        match done {
            Done::Nothing => {}
            Done::Masked(masked) => self.serving.masked(now, *masked),
            Done::Planned { ticket, result } => {
                self.parts
                    .household
                    .handle_input(now, Event::Planned { ticket, result });
            }
            Done::Tried { ticket, result } => self
                .parts
                .household
                .handle_input(now, Event::Tried { ticket, result }),
            Done::Catalogued(result) => self
                .parts
                .household
                .handle_input(now, Event::Catalogued(result)),
            Done::Probed { ticket, link } => {
                let own = self.parts.desk.endpoint.node_id().clone();
                self.survey.measured(now, &own, ticket, link);
            }
            Done::Kicked {
                call,
                result: Err(text),
            } => call.refuse(text),
            Done::Kicked {
                call,
                result: Ok(kicked),
            } => {
                tracing::info!(node = %kicked.node, name = kicked.name, "member removed");
                if self.links.has(&kicked.node) {
                    // Put out for good when its connection, on which it is told so, is over.
                    self.kicked.insert(kicked.node.clone());
                } else {
                    self.parts.desk.endpoint.members().expel(&kicked.node);
                }
                self.parts
                    .household
                    .handle_input(now, Event::Kicked(kicked.node.clone()));
                call.answer(&kicked);
            }
        }
    }
}

/// What the session is busy with.
fn work(now: Duration, serving: &mut Serving) -> Work {
    let tokens_per_s = serving.rate.per_second(now);
    let session = serving.session();
    Work {
        load: session.load(),
        counters: session.counters(),
        tokens_per_s,
    }
}
