//! The frame with which the coordinator tells the last stage what may be drawn.

use crate::ids::{Epoch, SequenceId};
use crate::mask::TokenMask;

/// For the token that a `Masked` segment draws. Exactly one comes for each such segment that was sent and not failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MaskFrame {
    /// The segment's epoch.
    pub epoch: Epoch,
    /// Whose token it is.
    pub sequence: SequenceId,
    /// The position that the token will have.
    pub position: u32,
    /// What may be drawn. `None` where the token is no longer wanted: any is drawn, so that the step ends.
    pub mask: Option<TokenMask>,
}
