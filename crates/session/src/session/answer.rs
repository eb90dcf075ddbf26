//! What comes back from the pipeline: tokens, vectors, or a stage that could not run a step.

use std::time::Duration;

use proto::frame::{FaultFrame, SamplesFrame};
use proto::step::{Pooled, Sampled};
use proto::{Epoch, StepId};

use super::Session;
use crate::output::{ErrorCode, FinishReason, Output};
use crate::serving::InFlight;

impl Session {
    /// The step that an answer belongs to, if it is under way in this epoch.
    fn settle(&mut self, epoch: Epoch, step: StepId) -> Option<InFlight> {
        let serving = self.pipeline.serving_mut();
        let settled = serving
            .filter(|s| s.capacity().epoch == epoch)
            .and_then(|s| s.settle(step));
        if settled.is_none() {
            self.counters.stale_answers += 1;
        }
        settled
    }

    pub(super) fn done(&mut self, now: Duration, frame: SamplesFrame) {
        let Some(step) = self.settle(frame.epoch, frame.step) else {
            return;
        };
        if !step.is_answered_by(&frame) || step.drawn_unmasked {
            self.counters.bad_answers += 1;
            let text = format!(
                "the last stage answered step {} with {} tokens and {} vectors that do not match what was asked: \
                 update Hearth on all machines to the same version",
                frame.step,
                frame.samples.len(),
                frame.vectors.len()
            );
            self.fail_all(&step.sequences, ErrorCode::BadSamples, &text);
            return;
        }
        if let Some(serving) = self.pipeline.serving_mut() {
            serving.time(now, &step);
        }
        for sampled in &frame.samples {
            self.draw(sampled);
        }
        for pooled in frame.vectors {
            self.pool(pooled);
        }
    }

    fn draw(&mut self, sampled: &Sampled) {
        let serving = self.pipeline.serving_mut();
        let Some(drawn) = serving.and_then(|s| s.push(sampled)) else {
            return;
        };
        self.counters.generated_tokens += 1;
        self.outputs.push_back(Output::Token {
            request: drawn.request,
            choice: drawn.choice,
            sampled: sampled.clone(),
            finish: drawn.finish,
        });
        if let Some(reason) = drawn.finish {
            let finished = self.finish(drawn.request, drawn.choice, reason);
            assert!(finished.is_ok(), "a running choice: {finished:?}");
        }
    }

    fn pool(&mut self, pooled: Pooled) {
        let serving = self.pipeline.serving();
        let Some(request) = serving.and_then(|s| s.pooled(pooled.sequence)) else {
            return;
        };
        self.outputs.push_back(Output::Vector {
            request,
            values: pooled.values,
        });
        let finished = self.finish(request, 0, FinishReason::Stop);
        assert!(finished.is_ok(), "a running prompt: {finished:?}");
    }

    pub(super) fn fault(&mut self, frame: FaultFrame) {
        let Some(step) = self.settle(frame.epoch, frame.step) else {
            return;
        };
        self.counters.faults += 1;
        self.fail_all(&step.sequences, ErrorCode::StepFailed, &frame.text);
    }
}
