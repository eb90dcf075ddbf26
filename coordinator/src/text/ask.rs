//! The internal request: what every dialect of the API translates to.
//!
//! Holds prompts in token ids and the checks that need the service's state: an [`Ask`] that started fits into the
//! context and was taken on by the household.

use std::sync::Arc;

use proto::step::Sampling;
use session::Person;
use thiserror::Error;

use crate::gateway::{Constraint, Gateway, GenerateRequest, Phase, Refusal};

use super::answer::Answer;
use super::choice::Reading;

/// One or more prompts to be answered alike.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    /// Prompts in ids; each is a request of its own.
    pub(crate) prompts: Vec<Vec<u32>>,
    /// Answers per prompt.
    pub(crate) choices: u32,
    /// Most tokens per answer, as far as the client said.
    pub(crate) max_tokens: Option<u32>,
    /// What holds if the client said nothing; lowered to what fits. `None` means up to the context.
    pub(crate) default_max_tokens: Option<u32>,
    /// Tokens before which no end id is drawn.
    pub(crate) min_tokens: u32,
    /// Ids that end an answer.
    pub(crate) stop_ids: Vec<u32>,
    /// Texts that end an answer.
    pub(crate) stops: Vec<String>,
    /// How tokens are drawn.
    pub(crate) sampling: Sampling,
    /// How the text is read.
    pub(crate) reading: Reading,
    /// What the answers have to follow, if anything.
    pub(crate) constraint: Option<Constraint>,
}

/// Why an ask could not start.
#[derive(Debug, Clone, PartialEq, Error)]
pub(crate) enum AskError {
    /// A prompt has no token.
    #[error("the prompt is empty; expected at least one token")]
    EmptyPrompt,
    /// The household's word, or ours in its place.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

impl Ask {
    /// Hands the prompts to the household for a person, all or none.
    ///
    /// # Errors
    /// A prompt is empty or does not fit, the service is not ready, or the household refuses.
    pub(crate) async fn start(self, gateway: &Gateway, person: Person) -> Result<Answer, AskError> {
        let status = gateway.status();
        if status.phase != Phase::Ready {
            return Err(Refusal::NotReady.into());
        }
        let mut requests = Vec::with_capacity(self.prompts.len());
        for prompt in &self.prompts {
            requests.push(self.request(prompt, status.context, person)?);
        }
        let prompt_tokens = self.prompts.iter().map(|prompt| count(prompt)).sum();
        let mut streams = Vec::with_capacity(requests.len());
        for request in requests {
            // A refusal drops, and so cancels, the streams before it.
            streams.push(gateway.generate(request).await?);
        }
        let model = Arc::clone(gateway.model());
        Ok(Answer::new(&model.tokenizer, &self, prompt_tokens, streams))
    }

    fn request(
        &self,
        prompt: &[u32],
        context: u32,
        person: Person,
    ) -> Result<GenerateRequest, AskError> {
        let length = u32::try_from(prompt.len()).unwrap_or(u32::MAX);
        if length == 0 {
            return Err(AskError::EmptyPrompt);
        }
        let room = context.saturating_sub(length);
        let wanted = self.max_tokens.unwrap_or(1);
        if wanted > room {
            return Err(AskError::Refused(Refusal::Context {
                prompt: length,
                wanted,
                context,
            }));
        }
        Ok(GenerateRequest {
            prompt: prompt.to_vec(),
            pooling: None,
            choices: self.choices,
            max_tokens: self
                .max_tokens
                .or(self.default_max_tokens.map(|tokens| tokens.min(room))),
            min_tokens: self.min_tokens,
            stop_ids: self.stop_ids.clone(),
            sampling: self.sampling.clone(),
            person,
            constraint: self.constraint.clone(),
        })
    }
}

fn count(ids: &[u32]) -> u64 {
    u64::try_from(ids.len()).unwrap_or(u64::MAX)
}
