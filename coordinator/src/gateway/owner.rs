//! The owner's requests through the API: those of the local socket, answered by the same code.
//!
//! Owns the way there and back. Must never ask who it is that asks: whoever calls has made sure of that.

use command::local::Call;
use serde_json::Value;

use super::Gateway;

/// The owner's requests that may wait for the household. Senders wait when it is full.
pub const OWNER_CALLS_MAX: usize = 16;

impl Gateway {
    /// Hands a request of the owner to the household and waits for its answer.
    ///
    /// # Errors
    /// The household's refusal, as a sentence for the owner.
    pub async fn owner(&self, request: Value) -> Result<Value, String> {
        let (call, answering) = Call::new(request);
        // A call that nobody takes is dropped, and its answer is that the service stops.
        drop(self.owner.send(call).await);
        answering.wait().await
    }
}
