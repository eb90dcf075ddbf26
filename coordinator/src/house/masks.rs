//! The walks of constrained answers through their constraints, and the computing of their masks.
//!
//! The one idea: a walk is either here, waiting for its token, or in a job that computes the mask of the next. A token cannot
//! be drawn before its mask was told, so a walk is always back before it is needed again.

use proto::RequestId;
use proto::mask::TokenMask;
use proto::step::Sampled;
use session::{Input, MaskedToken};

use crate::gateway::{Constraint, Walk, WalkError};

/// The walks of one request, by choice. None for a request without a constraint.
#[derive(Debug, Default)]
pub(super) struct Walks(Vec<Option<Walk>>);

impl Walks {
    /// Before the first token of every choice, with the masks of these tokens.
    pub fn begin(constraint: Option<&Constraint>, choices: u32) -> (Self, Vec<TokenMask>) {
        let begun = constraint.into_iter().flat_map(|constraint| {
            let choices = 0..choices;
            choices.map(|_| constraint.begin())
        });
        let (walks, masks) = begun.map(|(walk, mask)| (Some(walk), mask)).unzip();
        (Self(walks), masks)
    }

    /// What has to be computed once a token was drawn that is not the last of its choice.
    pub fn follow(
        &mut self,
        request: RequestId,
        choice: u32,
        sampled: &Sampled,
    ) -> Option<MaskJob> {
        let walk = self.0.get_mut(choice as usize)?.take()?;
        Some(MaskJob {
            token: MaskedToken {
                request,
                choice,
                position: sampled.position.saturating_add(1),
            },
            walk,
            drawn: sampled.token,
        })
    }

    fn back(&mut self, choice: u32, walk: Walk) {
        if let Some(place) = self.0.get_mut(choice as usize) {
            *place = Some(walk);
        }
    }
}

/// The computing of one mask.
#[derive(Debug)]
pub(super) struct MaskJob {
    token: MaskedToken,
    walk: Walk,
    /// The token before it.
    drawn: u32,
}

impl MaskJob {
    /// Computes it. Not for async threads.
    pub fn run(mut self) -> Masked {
        let mask = self.walk.next(self.drawn);
        Masked {
            token: self.token,
            walk: self.walk,
            mask,
        }
    }
}

/// What came of a job.
#[derive(Debug)]
pub(super) struct Masked {
    /// The token that the mask is for.
    pub token: MaskedToken,
    walk: Walk,
    mask: Result<TokenMask, WalkError>,
}

impl Masked {
    /// What the session is told; the walk goes back to those of its request, if that is still answered.
    pub fn into_input(self, walks: Option<&mut Walks>) -> Input {
        let Self { token, walk, mask } = self;
        if let Some(walks) = walks {
            walks.back(token.choice, walk);
        }
        match mask {
            Ok(mask) => Input::Mask { token, mask },
            Err(error) => Input::Unmaskable {
                request: token.request,
                text: error.to_string(),
            },
        }
    }
}
