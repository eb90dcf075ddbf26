//! What every route needs: the gateway, the settings, and the steps that all requests share.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Semaphore;

use crate::gateway::{Gateway, Phase, ServedModel};
use crate::text::{Ask, ChatRequest, Grammars, Rendered, render_chat};

use super::config::HttpConfig;
use super::error::ApiError;
use super::fields::Fields;
use super::format::Binding;
use super::guard;
use super::observe::Observed;
use super::responses::Store;
use super::sampling::Draw;

/// The state behind all routes.
#[derive(Debug)]
pub(super) struct Api {
    pub(super) gateway: Gateway,
    pub(super) config: HttpConfig,
    /// Responses that are kept for those who asked for them.
    pub(super) responses: Arc<Store>,
    /// Makes constraints.
    pub(super) grammars: Grammars,
    /// Places for those who compile one.
    pub(super) compilations: Semaphore,
}

/// Constraints compiled at once: it takes little time as a rule, and what takes long must not take every core.
const COMPILATIONS_MAX: usize = 2;

/// A chat, and how its answers are drawn.
#[derive(Debug)]
pub(super) struct ChatAsk {
    /// What was said.
    pub(super) chat: ChatRequest,
    /// How answers are drawn.
    pub(super) draw: Draw,
    /// Alternatives that are reported for each token, if log-probabilities are wanted.
    pub(super) logprobs: Option<u32>,
    /// The field of the request that errors about the messages name.
    pub(super) place: &'static str,
}

impl Api {
    /// Behind this gateway.
    pub(super) fn new(gateway: Gateway, config: HttpConfig) -> Self {
        Self {
            grammars: Grammars::new(Arc::clone(gateway.model())),
            compilations: Semaphore::new(COMPILATIONS_MAX),
            responses: Arc::default(),
            gateway,
            config,
        }
    }

    /// Refuses while the service cannot answer.
    ///
    /// # Errors
    /// 503.
    pub(super) fn ready(&self) -> Result<(), ApiError> {
        let status = self.gateway.status();
        if status.phase == Phase::Ready {
            Ok(())
        } else {
            Err(ApiError::not_ready(&status))
        }
    }

    /// Runs plain computation outside the async threads.
    ///
    /// # Errors
    /// 500 if it panicked.
    pub(super) async fn compute<T, F>(self: &Arc<Self>, work: F) -> Result<T, ApiError>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|_| ApiError::internal("the prompt could not be prepared"))
    }

    /// Renders a chat, outside the async threads.
    ///
    /// # Errors
    /// 400 naming `place` if the template refuses the chat.
    pub(super) async fn render(
        self: &Arc<Self>,
        chat: ChatRequest,
        place: &'static str,
    ) -> Result<Rendered, ApiError> {
        let model = Arc::clone(self.gateway.model());
        self.compute(move || render_chat(&model, &chat))
            .await?
            .map_err(|error| ApiError::prompt(place, &error))
    }

    /// Renders a chat and hands it to the household: what every dialect of messages does.
    ///
    /// # Errors
    /// 400, 429 or 503.
    pub(super) async fn chat(
        self: &Arc<Self>,
        ask: ChatAsk,
        started: Instant,
    ) -> Result<Observed, ApiError> {
        self.ready()?;
        let with_tools = !ask.chat.tools.tools.is_empty();
        let binding = Binding {
            format: ask.chat.format.clone(),
            tools: ask.chat.tools.clone(),
        };
        let rendered = self.render(ask.chat, ask.place).await?;
        let replay = self.config.replay.as_ref().filter(|_| with_tools);
        let recorded = replay.and_then(|replay| replay.next(rendered.reading.reasoning));
        let constraint = match recorded {
            Some(text) => self.exactly(text).await.map(Some)?,
            None => self.constraint(binding, &rendered.reading).await?,
        };
        let ask = ask
            .draw
            .ask(vec![rendered.ids], rendered.reading, ask.logprobs);
        self.start(Ask { constraint, ..ask }, started).await
    }

    /// Hands a request of the caller to the household, within the caller's limits.
    ///
    /// # Errors
    /// 400, 401, 429 or 503.
    pub(super) async fn start(&self, ask: Ask, started: Instant) -> Result<Observed, ApiError> {
        let caller = guard::caller()?;
        let visit = caller.enter(&self.gateway.model().id);
        let visit = visit.map_err(|over| ApiError::over_limit(&over))?;
        match ask.start(&self.gateway, caller.person()).await {
            Ok(answer) => Ok(Observed::new(answer, visit, started)),
            Err(error) => Err(ApiError::asked(&error, &self.gateway.status())),
        }
    }
}

/// The request must name the model that is served.
///
/// # Errors
/// 400 without a name, 404 for another one.
pub(super) fn check_model(fields: &Fields<'_>, model: &ServedModel) -> Result<(), ApiError> {
    match fields.text("model")? {
        None => Err(fields.missing("model", "the id of the model; /v1/models lists it")),
        Some(asked) if asked == model.id => Ok(()),
        Some(asked) => Err(ApiError::no_such_model(asked, &model.id)),
    }
}
