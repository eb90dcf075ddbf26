//! Sockets: one QUIC endpoint per process for control, activations and pairing.
//!
//! Owns keys, connections, who may speak on them, and how messages and frames travel. Must never decide what a
//! message means: it hands checked types to the daemon through bounded channels and knows no plan and no model.
//! The only crate that names QUIC, libp2p or gRPC types; none of them appears in a public function.
//!
//! The one idea: a key proves who somebody is, membership decides what they may say. An unknown key gets the
//! pairing protocol and nothing else; members get the control plane; the neighbours of the current plan get
//! the data plane; a node answers one probe of its link to a key that it was told to expect. Those whom the daemon
//! names may borrow weights, beside all of these.

mod bulk;
mod control;
mod dial;
mod discovery;
mod endpoint;
mod error;
mod identity;
mod invite;
mod members;
mod mesh;
mod pairing;
mod probe;
mod tls;
mod tuning;
mod words;

pub use bulk::{BulkAnswer, BulkLink, BulkTransferError, Lender};
pub use control::{ControlLink, ControlPeer, ControlReceiver, ControlSender};
pub use discovery::{Announcement, Browser, DiscoveryError};
pub use endpoint::{Endpoint, Role, Settings, Sockets, open};
pub use error::{ControlError, DialError, PairError, ProbeError, SendError, TransportError};
pub use identity::{Identity, IdentityError};
pub use invite::{Invite, InviteError, Secret};
pub use members::Members;
pub use mesh::{Mesh, MeshEvent};
pub use pairing::{
    Codes, FailedCode, Found, PairingAnswer, PairingClaim, PairingRefusal, PairingRequest,
    ShortCode, ShortCodeError,
};
pub use probe::LinkSpeed;
pub use proto::control::Peer;
pub use tuning::Timing;
pub use words::{CheckWords, CheckWordsError};
