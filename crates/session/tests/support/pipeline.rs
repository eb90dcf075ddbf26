//! Stages with caches, one step at a time each, two streams in order. Knows nothing of requests.

use std::collections::{HashMap, VecDeque};

use proto::SequenceId;
use proto::frame::MaskFrame;
use proto::limits::PAGE_POSITIONS;
use proto::step::{Logits, Pooled, Sampled, Sampling, Segment, Step, StepClass};

use super::{EMPTY, draw, fold, vector};

/// What travels from stage to stage.
#[derive(Debug, Clone)]
pub enum Packet {
    Step(Step),
    Close(Vec<SequenceId>),
}

impl Packet {
    pub fn class(&self) -> StepClass {
        match self {
            Packet::Step(step) => step.class,
            Packet::Close(_) => StepClass::Decode,
        }
    }
}

/// One stage: its two streams, what it works on, and what it remembers.
#[derive(Debug)]
pub struct Stage {
    pub decode: VecDeque<Packet>,
    pub prefill: VecDeque<Packet>,
    pub busy: Option<Packet>,
    /// When the newest packet of each stream arrives: streams keep their order.
    pub last_arrival: [u64; 2],
    /// Steps that are computed but for tokens whose masks have not come.
    pub unmasked: Vec<Step>,
    masks: HashMap<SequenceId, MaskFrame>,
    cache: Cache,
}

impl Stage {
    pub fn new(pages: u32, slots: u32) -> Self {
        Self {
            decode: VecDeque::new(),
            prefill: VecDeque::new(),
            busy: None,
            last_arrival: [0; 2],
            unmasked: Vec::new(),
            masks: HashMap::new(),
            cache: Cache {
                pages: vec![[u32::MAX; PAGE_POSITIONS as usize]; pages as usize],
                slots: vec![0; slots as usize],
                sequences: HashMap::new(),
            },
        }
    }

    pub fn close(&mut self, sequences: &[SequenceId]) {
        for id in sequences {
            self.cache.sequences.remove(id);
            self.masks.remove(id);
        }
    }

    /// A mask comes; a step that waits for nothing more is returned.
    pub fn masked(&mut self, frame: MaskFrame) -> Option<Step> {
        let known = self.masks.insert(frame.sequence, frame);
        assert!(known.is_none(), "a second mask before the first was used");
        let at = self.unmasked.iter().position(|step| self.has_masks(step))?;
        Some(self.unmasked.remove(at))
    }

    /// Whether every token of a step can be drawn.
    pub fn has_masks(&self, step: &Step) -> bool {
        let mut masked = step.segments.iter().filter(|s| s.logits == Logits::Masked);
        masked.all(|segment| {
            let mask = self.masks.get(&segment.sequence);
            mask.is_some_and(|mask| mask.position == segment.start + segment.rows)
        })
    }

    /// Masks that no step has used.
    pub fn masks_len(&self) -> usize {
        self.masks.len()
    }

    /// Runs a step; the text says what was missing.
    pub fn run(&mut self, step: &Step) -> Result<(Vec<Sampled>, Vec<Pooled>), String> {
        let (mut samples, mut vectors) = (Vec::new(), Vec::new());
        let mut tokens = step.tokens.as_slice();
        for segment in &step.segments {
            let (mine, rest) = tokens.split_at(segment.rows as usize);
            tokens = rest;
            let mask = match segment.logits {
                Logits::Masked => self.masks.remove(&segment.sequence),
                Logits::None | Logits::Last | Logits::All | Logits::Pool(_) => None,
            };
            samples.extend(self.cache.run(segment, mine, mask)?);
            vectors.extend(self.cache.pool(segment));
        }
        Ok((samples, vectors))
    }
}

/// Every position that the stages ever see lies in a page, and every sequence has a state in its slot: a page or a
/// slot with two owners changes somebody's tokens.
#[derive(Debug)]
struct Cache {
    pages: Vec<[u32; PAGE_POSITIONS as usize]>,
    slots: Vec<u64>,
    sequences: HashMap<SequenceId, Known>,
}

#[derive(Debug)]
struct Known {
    next: u32,
    pages: Vec<u32>,
    sampling: Sampling,
    prompt: u32,
    /// Rows of the prompt that were pooled.
    pooled: u32,
}

impl Cache {
    fn run(
        &mut self,
        segment: &Segment,
        tokens: &[u32],
        mask: Option<MaskFrame>,
    ) -> Result<Option<Sampled>, String> {
        let state = &mut self.slots[segment.slot as usize];
        if let Some(open) = &segment.open {
            *state = EMPTY;
            let known = Known {
                next: 0,
                pages: Vec::new(),
                sampling: open.sampling.clone(),
                prompt: open.prompt_len,
                pooled: 0,
            };
            self.sequences.insert(segment.sequence, known);
        }
        let known = self.sequences.get_mut(&segment.sequence);
        let known = known.ok_or("a sequence that was never opened")?;
        if known.next != segment.start {
            return Err(format!("{} before {}", segment.start, known.next));
        }
        known.pages.extend(&segment.pages);
        for token in tokens {
            let page = known.pages[(known.next / PAGE_POSITIONS) as usize];
            self.pages[page as usize][(known.next % PAGE_POSITIONS) as usize] = *token;
            *state = fold(*state, *token);
            known.next += 1;
        }
        if matches!(segment.logits, Logits::None | Logits::Pool(_)) {
            return Ok(None);
        }
        let held = known.pages.iter().flat_map(|p| self.pages[*p as usize]);
        let cache = held.take(known.next as usize).fold(EMPTY, fold);
        Ok(Some(Sampled {
            sequence: segment.sequence,
            position: known.next,
            token: draw(
                (cache, *state),
                &known.sampling,
                known.next,
                mask.and_then(|mask| mask.mask).as_ref(),
            ),
            logprob: 0.0,
            top: Vec::new(),
        }))
    }

    /// After the rows of a segment: the vector, if its prompt ends there and is pooled.
    fn pool(&mut self, segment: &Segment) -> Option<Pooled> {
        let Logits::Pool(pooling) = segment.logits else {
            return None;
        };
        let known = self.sequences.get_mut(&segment.sequence)?;
        known.pooled += segment.rows;
        if known.next != known.prompt {
            return None;
        }
        let held = known.pages.iter().flat_map(|p| self.pages[*p as usize]);
        let cache = held.take(known.next as usize).fold(EMPTY, fold);
        let state = self.slots[segment.slot as usize];
        Some(Pooled {
            sequence: segment.sequence,
            values: vector(pooling, cache, state, known.pooled),
        })
    }
}
