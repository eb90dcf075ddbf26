//! Who asks to be let in, and what the owner asks for.
//!
//! Owns pairing and the parsing of local requests. Must never change who runs what: a kicked machine is reported to the
//! actor, which draws the consequences.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proto::NodeId;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::oneshot;
use transport::{CheckWords, Endpoint, Invite, PairingAnswer, PairingRefusal, Secret};

use super::addresses::{interfaces, reachable};
use super::knocks::{Knock, KnockFacts};
use super::settings::HouseError;
use crate::models::{Added, Shelf};
use crate::people::People;
use crate::store::{Bearer, Redeemed, Store};

/// Life of an invite when nobody says.
const INVITE_S: u64 = 600;
/// Longest life of an invite.
const INVITE_S_MAX: u64 = 7 * 24 * 3600;

/// Makes invites and admits members. Clones share everything.
#[derive(Debug, Clone)]
pub(super) struct Desk {
    pub store: Store,
    pub people: People,
    pub endpoint: Endpoint,
    /// Whether machines of the network are told where the household is.
    pub announced: bool,
    /// The models that the owner added.
    pub shelf: Shelf,
}

/// A device that has shown an invite.
#[derive(Debug)]
pub(super) struct Shown {
    pub node: NodeId,
    pub remote: SocketAddr,
    pub name: String,
    pub secret: Secret,
    pub reply: oneshot::Sender<PairingAnswer>,
}

/// What the owner asks for over the local socket.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Ask {
    Invite {
        #[serde(default = "invite_s")]
        ttl_s: u64,
    },
    Status {},
    Nodes {},
    /// What is served, and what was added on disk.
    Models {},
    Plan {
        /// Not the plan that runs, but what would be planned now.
        #[serde(default)]
        next: bool,
    },
    Kick {
        node: String,
    },
    /// Who waits on the screen to be let in.
    Pending {},
    /// Lets one of these in, by its number or its words.
    Approve {
        device: String,
    },
    Deny {
        device: String,
    },
    Stop {},
}

fn invite_s() -> u64 {
    INVITE_S
}

impl Ask {
    /// Reads a request.
    ///
    /// # Errors
    /// A sentence for the command that sent it.
    pub fn parse(request: &Value) -> Result<Self, String> {
        Self::deserialize(request).map_err(|error| {
            format!("the service does not understand the request ({error}); it knows invite, status, nodes, models, plan, kick, pending, approve, deny, stop, key_create, key_list, key_revoke and usage. Are both of the same version?")
        })
    }
}

/// What `invite` answers.
#[derive(Debug, Serialize)]
pub(super) struct InviteFacts {
    /// The short code to type.
    code: String,
    url: String,
    expires_unix_s: i64,
    /// The words that machines show for this household.
    words: String,
    /// Where to find it when machines cannot find each other by themselves.
    coordinator: String,
    /// Whether machines of the network can find it by themselves.
    announced: bool,
    /// The wrong attempt that has spent the code before this one.
    failed: Option<FailedFacts>,
}

/// Somebody tried a code and was wrong.
#[derive(Debug, Clone, Serialize)]
pub(super) struct FailedFacts {
    address: String,
    seconds_ago: u64,
}

/// What `pending` answers.
#[derive(Debug, Serialize)]
pub(super) struct PendingFacts {
    pub pending: Vec<KnockFacts>,
    /// Whether a short code is open.
    pub code_open: bool,
    pub failed: Option<FailedFacts>,
}

/// A member that was removed.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Kicked {
    pub node: NodeId,
    pub name: String,
}

impl Desk {
    /// Opens an invite that lives for `ttl`.
    ///
    /// # Errors
    /// When its life is out of range, too many are open, or the record cannot be written.
    pub async fn invite(&self, ttl: Duration) -> Result<(Invite, i64), HouseError> {
        let ttl_s = ttl.as_secs();
        if !(1..=INVITE_S_MAX).contains(&ttl_s) {
            return Err(HouseError::InviteLife {
                got_s: ttl_s,
                max_s: INVITE_S_MAX,
            });
        }
        let addresses = reachable(self.endpoint.local_addr(), &interfaces());
        let invite = Invite::new(
            Secret::generate(),
            self.endpoint.node_id().clone(),
            addresses,
        )?;
        let now = unix_s();
        let expires = now.saturating_add(i64::try_from(ttl_s).unwrap_or(i64::MAX));
        self.store
            .issue(invite.secret.fingerprint(), now, expires)
            .await?;
        Ok((invite, expires))
    }

    /// The same for the local socket.
    pub async fn invite_facts(&self, ttl_s: u64) -> Result<InviteFacts, HouseError> {
        let ttl = Duration::from_secs(ttl_s);
        let (invite, expires_unix_s) = self.invite(ttl).await?;
        let failed = self.failed();
        let code = self.endpoint.codes().open(invite.secret.clone(), ttl);
        let first = invite.addresses.first();
        Ok(InviteFacts {
            code: code.reveal(),
            url: invite.to_string(),
            expires_unix_s,
            words: CheckWords::of_key(self.endpoint.node_id()).to_string(),
            coordinator: first.map(ToString::to_string).unwrap_or_default(),
            announced: self.announced,
            failed,
        })
    }

    /// The wrong attempt that has spent the last short code.
    fn failed(&self) -> Option<FailedFacts> {
        let failed = self.endpoint.codes().failed()?;
        Some(FailedFacts {
            address: failed.remote.to_string(),
            seconds_ago: failed.at.elapsed().as_secs(),
        })
    }

    /// The models that were added, off the async threads.
    ///
    /// # Errors
    /// A sentence for the owner: the folder cannot be read.
    pub async fn models(&self) -> Result<Vec<Added>, String> {
        let shelf = self.shelf.clone();
        match tokio::task::spawn_blocking(move || shelf.list()).await {
            Ok(listed) => listed.map_err(|error| error.to_string()),
            Err(error) => Err(format!("the list of models broke off ({error})")),
        }
    }

    /// Who waits on the screen, and what became of the last short code.
    pub fn pending_facts(&self, pending: Vec<KnockFacts>) -> PendingFacts {
        PendingFacts {
            pending,
            code_open: self.endpoint.codes().is_open(),
            failed: self.failed(),
        }
    }

    /// Lets in a device that the owner has approved.
    ///
    /// # Errors
    /// A sentence for the owner: there is no room, or the record cannot be written.
    pub async fn approve(&self, knock: Knock) -> Result<KnockFacts, String> {
        let Knock { facts, node, reply } = knock;
        let admitted = self.store.admit(node.clone(), facts.name.clone(), unix_s());
        let answer = match admitted.await.map_err(|error| error.to_string())? {
            true => {
                tracing::info!(%node, name = facts.name, "a new member was approved");
                self.endpoint.members().admit(node);
                PairingAnswer::Accept
            }
            false => PairingAnswer::Refuse(PairingRefusal::HouseholdFull),
        };
        // The device may have given up; it is a member all the same, and hears so when it asks again.
        let _gone = reply.send(answer);
        match answer {
            PairingAnswer::Accept => Ok(facts),
            PairingAnswer::Refuse(refusal) => Err(refusal.text().to_owned()),
        }
    }

    /// Answers a device that shows an invite.
    pub async fn pair(self, shown: Shown) {
        let Shown {
            node,
            remote,
            name,
            secret,
            reply,
        } = shown;
        let bearer = Bearer {
            fingerprint: secret.fingerprint(),
            node: node.clone(),
            name,
        };
        let answer = match self.store.redeem(bearer, unix_s()).await {
            Ok(Redeemed::Admitted) => {
                tracing::info!(%node, %remote, "a new member was admitted");
                self.endpoint.members().admit(node);
                // Code and URL are one right: whichever is used, the other is spent.
                self.endpoint.codes().close_for(&secret);
                PairingAnswer::Accept
            }
            Ok(Redeemed::Unknown) => PairingAnswer::Refuse(PairingRefusal::InviteUnknown),
            Ok(Redeemed::Used) => PairingAnswer::Refuse(PairingRefusal::InviteUsed),
            Ok(Redeemed::Expired) => PairingAnswer::Refuse(PairingRefusal::InviteExpired),
            Ok(Redeemed::Full) => PairingAnswer::Refuse(PairingRefusal::HouseholdFull),
            Err(error) => {
                // Dropping the reply tells the device to try again.
                tracing::error!(%error, "a device could not be paired");
                return;
            }
        };
        if let PairingAnswer::Refuse(refusal) = answer {
            tracing::warn!(%remote, code = refusal.code(), "a device was refused");
        }
        // The device may have given up.
        let _gone = reply.send(answer);
    }

    /// Ends the membership of the machine with this id or, where just one has it, this name. `connected` are the names
    /// shown now.
    ///
    /// # Errors
    /// A sentence for the owner: nobody or several have the name, or the record cannot be written.
    pub async fn kick(
        &self,
        wanted: &str,
        connected: &[(NodeId, String)],
    ) -> Result<Kicked, String> {
        let members = self
            .store
            .members()
            .await
            .map_err(|error| error.to_string())?;
        let shown = |id: &NodeId| {
            connected
                .iter()
                .find(|(node, _)| node == id)
                .map(|(_, name)| name.as_str())
        };
        let name_of =
            |member: &crate::store::Member| shown(&member.node).unwrap_or(&member.name).to_owned();
        let by_id = members.iter().find(|member| member.node.as_str() == wanted);
        let found = match by_id {
            Some(member) => member,
            None => {
                let mut named = members.iter().filter(|member| name_of(member) == wanted);
                let first = named.next().ok_or_else(|| {
                    let known: Vec<String> = members.iter().map(name_of).collect();
                    format!(
                        "no member is called '{wanted}'; members are: {}",
                        known.join(", ")
                    )
                })?;
                if named.next().is_some() {
                    return Err(format!(
                        "several members are called '{wanted}'; name one by its id, as `coordinator nodes` shows it"
                    ));
                }
                first
            }
        };
        let kicked = Kicked {
            node: found.node.clone(),
            name: name_of(found),
        };
        let removed = self.store.remove(kicked.node.clone(), unix_s()).await;
        match removed.map_err(|error| error.to_string())? {
            true => {
                self.endpoint.codes().close();
                Ok(kicked)
            }
            false => Err(format!("'{wanted}' is no member any more")),
        }
    }
}

/// Seconds since 1970 by this machine's clock.
pub(super) fn unix_s() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_owners_requests_are_read_strictly() {
        let cases = [
            (json!({"do": "invite"}), Some(Ask::Invite { ttl_s: 600 })),
            (
                json!({"do": "invite", "ttl_s": 5}),
                Some(Ask::Invite { ttl_s: 5 }),
            ),
            (json!({"do": "status"}), Some(Ask::Status {})),
            (json!({"do": "models"}), Some(Ask::Models {})),
            (json!({"do": "models", "name": "x"}), None),
            (
                json!({"do": "kick", "node": "den"}),
                Some(Ask::Kick {
                    node: "den".to_owned(),
                }),
            ),
            (json!({"do": "pending"}), Some(Ask::Pending {})),
            (
                json!({"do": "approve", "device": "1"}),
                Some(Ask::Approve {
                    device: "1".to_owned(),
                }),
            ),
            (json!({"do": "deny"}), None),
            (json!({"do": "stop"}), Some(Ask::Stop {})),
            (json!({"do": "plan"}), Some(Ask::Plan { next: false })),
            (
                json!({"do": "plan", "next": true}),
                Some(Ask::Plan { next: true }),
            ),
            (json!({"do": "kick"}), None),
            (json!({"do": "invite", "ttl_s": -1}), None),
            (json!({"do": "dance"}), None),
            (json!({}), None),
            (json!([1]), None),
            (json!("status"), None),
        ];
        for (request, expected) in cases {
            let got = Ask::parse(&request);
            assert_eq!(got.as_ref().ok(), expected.as_ref(), "{request}");
            if let Err(text) = got {
                assert!(text.contains("invite, status, nodes"), "{text}");
            }
        }
    }
}
