//! The household at work: members come in, get their part of the model, and answer requests.
//!
//! Owns membership, plan and epochs, and drives the session over the mesh. Must never see a text or an HTTP type: what
//! it is asked comes as token ids through the [`gateway`](crate::gateway), what its owner wants through the local socket.
//!
//! The one idea: one task owns all of it and waits in one place. What to do is decided by two state machines without a
//! socket, a file or a clock (the household's in `state`, the requests' in the `session` crate).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use command::local::Listener;
use plan::{KvType, Plan};
use proto::{NodeId, control};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use transport::{Announcement, Endpoint, Identity, Invite, Role, Sockets};

mod actor;
mod addresses;
mod desk;
mod facts;
mod knocks;
mod library;
mod links;
mod masks;
mod planning;
mod post;
mod rate;
mod serving;
mod settings;
mod state;
mod survey;

pub use settings::{HouseError, HouseSettings, HouseTiming, PlanChoice};

use crate::gateway::GatewayHousehold;
use crate::models::Shelf;
use crate::people::People;
use crate::store::Store;
use actor::{Actor, Parts, Strings};
use desk::Desk;
use facts::Fixed;
use library::Library;
use planning::Wish;
use state::{Anew, Household, ModelPlace, Rules};

/// The coordinator's key in the data directory.
pub const KEY_FILE: &str = "coordinator.key";
/// Values that a q8 cache stores together.
const Q8_BLOCK: usize = 32;
/// Time for the last tasks to end once nothing runs any more.
const END_DEADLINE: Duration = Duration::from_secs(3);

/// A running household. Dropping it ends it at once; [`House::shutdown`] ends it well.
#[derive(Debug)]
pub struct House {
    /// Ends before the socket does.
    announcement: Option<Announcement>,
    endpoint: Endpoint,
    desk: Desk,
    plan: watch::Receiver<Option<Arc<Plan>>>,
    stop_asked: watch::Receiver<bool>,
    shutdown: watch::Sender<bool>,
    actor: JoinHandle<()>,
    drain: Duration,
}

/// Opens record, key and mesh socket, and starts the household. Must be called inside a tokio runtime.
///
/// # Errors
/// When one of the three cannot be opened, or nodes could not be told where the model is.
pub async fn start(
    settings: HouseSettings,
    gateway: GatewayHousehold,
    local: Listener,
) -> Result<House, HouseError> {
    refuse_broken_blocks(
        asked_kv(&settings),
        settings.model.arch().attention.head_dim,
    )?;
    let model = model_place(&settings)?;
    let (people, store) = open_record(&settings).await?;
    let (household, last_epoch) = (store.household().await?, store.last_epoch().await?);
    let sockets = open_mesh(&settings, &store).await?;
    let endpoint = sockets.endpoint.clone();
    let rules = Rules {
        expect: settings.expect,
        anew: Anew::from(&settings.plan),
        timing: settings.timing,
        coordinator: endpoint.node_id().clone(),
        household: household.clone(),
        model: model.clone(),
        neighbours: neighbours(endpoint.local_addr()),
    };
    let fixed = Fixed {
        coordinator: endpoint.node_id().to_string(),
        household,
        mesh: endpoint.local_addr().to_string(),
        model: settings.model.id().to_owned(),
        model_path: model.path,
        model_bytes: model.size_bytes,
    };
    let timing = settings.timing;
    let announcement = announce(&settings, endpoint.local_addr());
    let library = Arc::new(Library::new(
        Arc::clone(&settings.model),
        &settings.data_dir,
    ));
    endpoint.lend(Arc::clone(&library) as Arc<dyn transport::Lender>);
    let coordinator = endpoint.node_id().clone();
    let desk = Desk {
        store,
        people,
        endpoint,
        announced: announcement.is_some(),
        shelf: Shelf::of(&settings.data_dir),
    };
    let mut house = House::with(Parts {
        sockets,
        gateway,
        local,
        desk,
        household: Household::new(rules, last_epoch),
        library,
        session: settings.session,
        fixed,
        timing,
        wish: Arc::new(Wish {
            model: settings.model.facts(),
            choice: settings.plan,
            context: settings.context,
            kv: settings.kv,
            sequences: settings.sequences,
            coordinator,
        }),
    });
    house.announcement = announcement;
    Ok(house)
}

/// Keys and counts, and the record that they share with the household.
async fn open_record(settings: &HouseSettings) -> Result<(People, Store), HouseError> {
    let people = match &settings.people {
        Some(people) => people.clone(),
        None => People::open(&settings.data_dir, None).await?,
    };
    let store = match people.store() {
        Some(store) => store.clone(),
        None => Store::open(&settings.data_dir).await?,
    };
    Ok((people, store))
}

/// Tells the network where the household is. One that cannot be announced is found by its invites' addresses.
fn announce(settings: &HouseSettings, mesh: SocketAddr) -> Option<Announcement> {
    if !settings.discovery {
        return None;
    }
    Announcement::start(mesh).unwrap_or_else(|error| {
        tracing::warn!(%error, "machines have to be told where this household is");
        None
    })
}

/// Opens the socket with the members known from its first moment: a member that is turned away once stays away.
async fn open_mesh(settings: &HouseSettings, store: &Store) -> Result<Sockets, HouseError> {
    let identity = Identity::load_or_create(&settings.data_dir.join(KEY_FILE))?;
    let (members, removed) = (store.members().await?, store.removed().await?);
    let sockets = transport::open(
        &identity,
        transport::Settings {
            bind: settings.mesh,
            role: Role::Coordinator,
            timing: settings.timing.transport,
        },
    )?;
    let known = members.into_iter().map(|member| member.node);
    sockets.endpoint.members().replace(known, removed);
    Ok(sockets)
}

/// The cache type that somebody asked for, if anybody did.
fn asked_kv(settings: &HouseSettings) -> Option<KvType> {
    match &settings.plan {
        PlanChoice::File(plan) => Some(plan.kv),
        PlanChoice::Auto | PlanChoice::Layers | PlanChoice::Experts => settings.kv,
    }
}

/// A q8 cache keeps 32 values of a head together, so heads have to be made of whole 32s.
fn refuse_broken_blocks(kv: Option<KvType>, head_dim: usize) -> Result<(), HouseError> {
    if kv == Some(KvType::Q8) && !head_dim.is_multiple_of(Q8_BLOCK) {
        Err(HouseError::CacheType { head_dim })
    } else {
        Ok(())
    }
}

/// The model's path as nodes on this machine, or with the same files in the same place, can open it.
fn model_place(settings: &HouseSettings) -> Result<ModelPlace, HouseError> {
    let path = settings.model.path();
    let wrong = |why: String| HouseError::ModelPath {
        path: path.to_owned(),
        why,
    };
    // Links stay as they are: a download cache links names that tell what a file is to files without such names.
    let whole = std::path::absolute(path).map_err(|error| wrong(error.to_string()))?;
    let text = whole
        .to_str()
        .ok_or_else(|| wrong("it is not valid text".to_owned()))?;
    if text.len() > control::PATH_BYTES_MAX {
        return Err(wrong(format!("it is {} bytes long", text.len())));
    }
    let identity = settings.model.identity();
    Ok(ModelPlace {
        path: text.to_owned(),
        size_bytes: identity.size_bytes,
        blake3: identity.blake3,
        facts: settings.model.facts(),
    })
}

/// Addresses of this machine that lead to a node beside us; none where the mesh is on loopback.
fn neighbours(mesh: SocketAddr) -> Vec<IpAddr> {
    if !mesh.ip().is_unspecified() {
        return Vec::new();
    }
    let reachable = addresses::reachable(mesh, &addresses::interfaces());
    reachable
        .iter()
        .map(SocketAddr::ip)
        .filter(|ip| !ip.is_loopback())
        .collect()
}

impl House {
    fn with(parts: Parts) -> Self {
        let (plan_out, plan) = watch::channel(None);
        let (stop_out, stop_asked) = watch::channel(false);
        let (shutdown, told) = watch::channel(false);
        let strings = Strings {
            plan: plan_out,
            stop_asked: stop_out,
            shutdown: told,
        };
        let (desk, drain) = (parts.desk.clone(), parts.timing.drain);
        let endpoint = desk.endpoint.clone();
        tracing::info!(mesh = %endpoint.local_addr(), node = %endpoint.node_id(), "the household is open");
        Self {
            announcement: None,
            endpoint,
            desk,
            plan,
            stop_asked,
            shutdown,
            actor: tokio::spawn(Actor::new(parts, strings).run()),
            drain,
        }
    }

    /// The address that the mesh socket is bound to.
    #[must_use]
    pub fn mesh_addr(&self) -> SocketAddr {
        self.endpoint.local_addr()
    }

    /// The coordinator's key.
    #[must_use]
    pub fn node_id(&self) -> &NodeId {
        self.endpoint.node_id()
    }

    /// Keys and counts of the household.
    #[must_use]
    pub fn people(&self) -> &People {
        &self.desk.people
    }

    /// Opens an invite for one machine. Its text form is the URL.
    ///
    /// # Errors
    /// When its life is out of range, too many invites are open, or the record cannot be written.
    pub async fn invite(&self, ttl: Duration) -> Result<Invite, HouseError> {
        let (invite, _expires) = self.desk.invite(ttl).await?;
        Ok(invite)
    }

    /// The plan that machines load or serve; none while there is no such epoch.
    #[must_use]
    pub fn plan(&self) -> watch::Receiver<Option<Arc<Plan>>> {
        self.plan.clone()
    }

    /// Waits until the owner asks the service to stop over the local socket, or the household has ended by itself.
    /// Cancel-safe.
    pub async fn stopped(&mut self) {
        // An error says that the household's task is gone.
        let _ended = self.stop_asked.wait_for(|asked| *asked).await;
    }

    /// Lets running answers end within their deadline, tells the machines, and closes everything.
    pub async fn shutdown(mut self) {
        self.announcement = None;
        self.shutdown.send_replace(true);
        let deadline = self.drain.saturating_add(END_DEADLINE);
        match tokio::time::timeout(deadline, &mut self.actor).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the household broke off"),
            Err(_) => tracing::warn!("the household did not end in time"),
        }
        self.endpoint.close().await;
    }
}

impl Drop for House {
    fn drop(&mut self) {
        self.actor.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q8_is_taken_for_whole_blocks_alone() {
        assert!(refuse_broken_blocks(Some(KvType::Q8), 128).is_ok());
        assert!(refuse_broken_blocks(Some(KvType::F16), 80).is_ok());
        assert!(refuse_broken_blocks(None, 80).is_ok());
        let error = refuse_broken_blocks(Some(KvType::Q8), 80).unwrap_err();
        assert_eq!(error.code(), "kv_unsupported");
        let text = error.to_string();
        assert!(text.contains("80") && text.contains("--kv f16"), "{text}");
    }
}
