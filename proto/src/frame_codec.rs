//! How frames become bytes and back. Only `frame` calls it.
//!
//! Tables are written one after the other without padding. The reader never trusts a count: it is compared
//! with a cap and with the bytes that really remain before anything is allocated.

mod exchange;
mod mask;
mod vectors;

use zerocopy::IntoBytes;

use crate::frame::{
    CloseFrame, Dtype, FRAME_VERSION, FaultFrame, Frame, FrameError, FrameHeader, FrameKind,
    HEADER_BYTES, RawHeader, RowsFrame, SamplesFrame,
};
use crate::ids::SequenceId;
use crate::limits;
use crate::step::{Logits, Open, Pooling, Sampled, Sampling, Segment, Step, StepClass};

const NO_LOGPROBS: u32 = u32::MAX;

/// Length of a table as the wire has it. Longer tables than a `u32` cannot be made: every part is capped.
fn count(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

// ------------------------------------------------------------------ writing

#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn u8(&mut self, v: u8) {
        self.0.push(v);
    }
    fn u32(&mut self, v: u32) {
        self.0.extend_from_slice(&v.to_le_bytes());
    }
    fn u64(&mut self, v: u64) {
        self.0.extend_from_slice(&v.to_le_bytes());
    }
    fn f32(&mut self, v: f32) {
        self.u32(v.to_bits());
    }
    fn u32s(&mut self, values: &[u32]) {
        self.u32(count(values.len()));
        for v in values {
            self.u32(*v);
        }
    }
    fn pairs(&mut self, values: &[(u32, f32)]) {
        self.u32(count(values.len()));
        for (id, v) in values {
            self.u32(*id);
            self.f32(*v);
        }
    }
    fn segment(&mut self, s: &Segment) {
        self.u64(s.sequence.0);
        for v in [s.slot, s.start, s.rows, s.commit, s.provisional] {
            self.u32(v);
        }
        self.u8(match s.logits {
            Logits::None => 0,
            Logits::Last => 1,
            Logits::All => 2,
            Logits::Pool(Pooling::Last) => 3,
            Logits::Pool(Pooling::Mean) => 4,
            Logits::Masked => 5,
        });
        self.u8(u8::from(s.open.is_some()));
        self.u32s(&s.pages);
        if let Some(open) = &s.open {
            self.open(open);
        }
    }
    fn open(&mut self, open: &Open) {
        let s = &open.sampling;
        self.u32(open.prompt_len);
        self.f32(s.temperature);
        self.u32(s.top_k);
        for v in [s.top_p, s.min_p, s.repetition, s.presence, s.frequency] {
            self.f32(v);
        }
        self.u64(s.seed);
        self.u32(s.choice);
        self.u32(s.logprobs.unwrap_or(NO_LOGPROBS));
        self.u32(s.suppress_until);
        self.u32s(&s.suppress);
        self.pairs(&s.bias);
    }
    fn step(&mut self, step: &Step) {
        for segment in &step.segments {
            self.segment(segment);
        }
        for token in &step.tokens {
            self.u32(*token);
        }
    }
    fn samples(&mut self, samples: &[Sampled]) {
        for s in samples {
            self.u64(s.sequence.0);
            self.u32(s.position);
            self.u32(s.token);
            self.f32(s.logprob);
            self.pairs(&s.top);
        }
    }
}

struct Outline {
    kind: FrameKind,
    dtype: Dtype,
    class: StepClass,
    layer: u32,
    step: u64,
    position: u32,
    rows: u32,
    cols: u32,
    segments: usize,
}

fn outline(frame: &Frame) -> Outline {
    let of_step = |kind, dtype, step: &Step, layer, cols| Outline {
        kind,
        dtype,
        class: step.class,
        layer,
        step: step.id.0,
        position: step.segments.first().map_or(0, |s| s.start),
        rows: step.rows(),
        cols,
        segments: step.segments.len(),
    };
    let plain = |kind, step, segments| Outline {
        kind,
        dtype: Dtype::None,
        class: StepClass::Decode,
        layer: 0,
        step,
        position: 0,
        rows: 0,
        cols: 0,
        segments,
    };
    match frame {
        Frame::Step(step) => of_step(FrameKind::Step, Dtype::None, step, 0, 0),
        Frame::Rows(rows) => of_step(
            FrameKind::Rows,
            Dtype::F32,
            &rows.step,
            rows.layer,
            rows.cols,
        ),
        Frame::Samples(s) => Outline {
            dtype: vectors::dtype(s),
            rows: count(s.vectors.len()),
            cols: vectors::cols(s),
            ..plain(FrameKind::Samples, s.step.0, s.samples.len())
        },
        Frame::Close(close) => plain(FrameKind::Close, 0, close.sequences.len()),
        Frame::Fault(fault) => plain(FrameKind::Fault, fault.step.0, 0),
        Frame::Experts(f) => {
            let shape = (f.dtype, count(f.rows.len()), f.cols);
            exchange::outline(FrameKind::Experts, &f.asked, shape)
        }
        Frame::Partials(f) => {
            let shape = (Dtype::F32, count(f.entries.len()), f.cols);
            exchange::outline(FrameKind::Partials, &f.asked, shape)
        }
        Frame::Head(f) => exchange::outline(FrameKind::Head, &f.asked, (f.dtype, f.rows, f.cols)),
        Frame::Logits(f) => {
            exchange::outline(FrameKind::Logits, &f.asked, (Dtype::F32, f.rows, f.cols))
        }
        Frame::Mask(mask) => Outline {
            position: mask.position,
            ..plain(FrameKind::Mask, 0, 0)
        },
    }
}

pub(crate) fn encode(frame: &Frame) -> Vec<u8> {
    let body = exchange::body(frame);
    let mut w = Writer(Vec::with_capacity(HEADER_BYTES + 256 + body.bytes()));
    w.0.resize(HEADER_BYTES, 0);
    match frame {
        Frame::Step(step) => w.step(step),
        Frame::Rows(rows) => w.step(&rows.step),
        Frame::Samples(samples) => {
            w.samples(&samples.samples);
            w.vector_ids(&samples.vectors);
        }
        Frame::Close(close) => close.sequences.iter().for_each(|id| w.u64(id.0)),
        Frame::Fault(fault) => {
            let text = fault.text.as_bytes();
            let kept = text.len().min(limits::FAULT_TEXT_BYTES_MAX as usize);
            w.0.extend(text.iter().take(kept));
        }
        Frame::Experts(_) | Frame::Partials(_) | Frame::Head(_) | Frame::Logits(_) => {
            w.exchange(frame);
        }
        Frame::Mask(mask) => w.mask(mask),
    }
    let meta_bytes = w.0.len() - HEADER_BYTES;
    let body_bytes = body.bytes();
    body.write(&mut w);
    let o = outline(frame);
    let raw = RawHeader {
        version: FRAME_VERSION,
        kind: o.kind.code(),
        dtype: o.dtype.code(),
        class: match o.class {
            StepClass::Decode => 0,
            StepClass::Prefill => 1,
        },
        layer: o.layer.into(),
        epoch: frame.epoch().0.into(),
        step: o.step.into(),
        position: o.position.into(),
        rows: o.rows.into(),
        cols: o.cols.into(),
        segments: count(o.segments).into(),
        meta_bytes: count(meta_bytes).into(),
        body_bytes: count(body_bytes).into(),
    };
    if let Some(head) = w.0.get_mut(..HEADER_BYTES) {
        head.copy_from_slice(raw.as_bytes());
    }
    w.0
}

// ------------------------------------------------------------------ reading

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], FrameError> {
        let (head, rest) = self
            .0
            .split_at_checked(n)
            .ok_or(FrameError::Tables("before their last entry"))?;
        self.0 = rest;
        Ok(head)
    }
    fn array<const N: usize>(&mut self) -> Result<[u8; N], FrameError> {
        self.take(N)?
            .try_into()
            .map_err(|_| FrameError::Tables("before their last entry"))
    }
    fn u8(&mut self) -> Result<u8, FrameError> {
        Ok(u8::from_le_bytes(self.array()?))
    }
    fn u32(&mut self) -> Result<u32, FrameError> {
        Ok(u32::from_le_bytes(self.array()?))
    }
    fn u64(&mut self) -> Result<u64, FrameError> {
        Ok(u64::from_le_bytes(self.array()?))
    }
    fn f32(&mut self) -> Result<f32, FrameError> {
        Ok(f32::from_bits(self.u32()?))
    }
    fn capped(&mut self, field: &'static str, max: u32) -> Result<u32, FrameError> {
        let got = self.u32()?;
        if got > max {
            return Err(FrameError::Cap {
                field,
                got: got.into(),
                max: max.into(),
            });
        }
        Ok(got)
    }
    /// `n` numbers, only if that many remain.
    fn exactly(&mut self, n: u32) -> Result<Vec<u32>, FrameError> {
        let bytes = self.take(n as usize * 4)?;
        Ok(bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|b| u32::from_le_bytes(*b))
            .collect())
    }
    fn u32s(&mut self, field: &'static str, max: u32) -> Result<Vec<u32>, FrameError> {
        let n = self.capped(field, max)?;
        self.exactly(n)
    }
    fn pairs(&mut self, field: &'static str, max: u32) -> Result<Vec<(u32, f32)>, FrameError> {
        let n = self.capped(field, max)?;
        let flat = self.exactly(n * 2)?;
        Ok(flat
            .as_chunks::<2>()
            .0
            .iter()
            .map(|[id, v]| (*id, f32::from_bits(*v)))
            .collect())
    }
    fn flag(&mut self, field: &'static str, max: u8) -> Result<u8, FrameError> {
        let got = self.u8()?;
        if got > max {
            return Err(FrameError::Field {
                field,
                got: got.into(),
                expected: "a known value",
            });
        }
        Ok(got)
    }
    fn segment(&mut self) -> Result<Segment, FrameError> {
        let sequence = SequenceId(self.u64()?);
        let slot = self.u32()?;
        let start = self.capped("start", limits::SEQUENCE_POSITIONS_MAX)?;
        let rows = self.capped("segment rows", limits::STEP_ROWS_MAX)?;
        let commit = self.capped("commit", limits::STEP_ROWS_MAX)?;
        let provisional = self.capped("provisional", rows)?;
        let logits = match self.flag("logits", 5)? {
            0 => Logits::None,
            1 => Logits::Last,
            2 => Logits::All,
            3 => Logits::Pool(Pooling::Last),
            4 => Logits::Pool(Pooling::Mean),
            _ => Logits::Masked,
        };
        let opens = self.flag("open", 1)? == 1;
        let pages = self.u32s("pages", limits::SEGMENT_PAGES_MAX)?;
        let open = if opens { Some(self.open()?) } else { None };
        if rows == 0 {
            return Err(FrameError::Field {
                field: "segment rows",
                got: 0,
                expected: "at least 1",
            });
        }
        Ok(Segment {
            sequence,
            slot,
            start,
            rows,
            logits,
            commit,
            provisional,
            pages,
            open,
        })
    }
    fn open(&mut self) -> Result<Open, FrameError> {
        let prompt_len = self.capped("prompt_len", limits::SEQUENCE_POSITIONS_MAX)?;
        let temperature = self.f32()?;
        let top_k = self.u32()?;
        let [top_p, min_p, repetition, presence, frequency] = [
            self.f32()?,
            self.f32()?,
            self.f32()?,
            self.f32()?,
            self.f32()?,
        ];
        let seed = self.u64()?;
        let choice = self.u32()?;
        let logprobs = match self.u32()? {
            NO_LOGPROBS => None,
            n if n <= limits::LOGPROBS_MAX => Some(n),
            n => {
                return Err(FrameError::Cap {
                    field: "logprobs",
                    got: n.into(),
                    max: limits::LOGPROBS_MAX.into(),
                });
            }
        };
        let suppress_until = self.u32()?;
        let suppress = self.u32s("suppress", limits::SUPPRESS_MAX)?;
        let bias = self.pairs("bias", limits::LOGIT_BIAS_MAX)?;
        Ok(Open {
            prompt_len,
            sampling: Sampling {
                temperature,
                top_k,
                top_p,
                min_p,
                repetition,
                presence,
                frequency,
                seed,
                choice,
                logprobs,
                bias,
                suppress,
                suppress_until,
            },
        })
    }
    fn step(&mut self, header: &FrameHeader) -> Result<Step, FrameError> {
        if header.segments == 0 || header.segments > limits::STEP_SEGMENTS_MAX {
            return Err(FrameError::Field {
                field: "segments",
                got: header.segments.into(),
                expected: "1 to 512",
            });
        }
        let mut segments = Vec::new();
        for _ in 0..header.segments {
            segments.push(self.segment()?);
        }
        let mut step = Step {
            epoch: header.epoch,
            id: header.step,
            class: header.class,
            segments,
            tokens: Vec::new(),
        };
        if step.rows() != header.rows {
            return Err(FrameError::Contradiction {
                field: "rows",
                got: header.rows.into(),
                expected: step.rows().into(),
            });
        }
        step.tokens = self.exactly(header.rows)?;
        Ok(step)
    }
    fn samples(&mut self, n: u32) -> Result<Vec<Sampled>, FrameError> {
        let mut samples = Vec::new();
        for _ in 0..n {
            samples.push(Sampled {
                sequence: SequenceId(self.u64()?),
                position: self.capped("position", limits::SEQUENCE_POSITIONS_MAX)?,
                token: self.u32()?,
                logprob: self.f32()?,
                top: self.pairs("top", limits::LOGPROBS_MAX)?,
            });
        }
        Ok(samples)
    }
    fn end(self) -> Result<(), FrameError> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(FrameError::Tables("after their last entry"))
        }
    }
}

fn floats(body: &[u8]) -> Vec<f32> {
    let (values, _) = body.as_chunks::<4>();
    values.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

pub(crate) fn decode(header: &FrameHeader, payload: &[u8]) -> Result<Frame, FrameError> {
    if payload.len() != header.payload_bytes() {
        return Err(FrameError::Tables("elsewhere than the header says"));
    }
    let (meta, body) = payload
        .split_at_checked(header.meta_bytes as usize)
        .ok_or(FrameError::Tables("elsewhere than the header says"))?;
    let mut r = Reader(meta);
    let frame = match header.kind {
        FrameKind::Step => Frame::Step(r.step(header)?),
        FrameKind::Rows => Frame::Rows(RowsFrame {
            step: r.step(header)?,
            layer: header.layer,
            cols: header.cols,
            rows: floats(body),
        }),
        FrameKind::Samples => Frame::Samples(SamplesFrame {
            epoch: header.epoch,
            step: header.step,
            samples: r.samples(header.segments)?,
            vectors: r.vectors(header, body)?,
        }),
        FrameKind::Close => Frame::Close(CloseFrame {
            epoch: header.epoch,
            sequences: (0..header.segments)
                .map(|_| r.u64().map(SequenceId))
                .collect::<Result<_, _>>()?,
        }),
        FrameKind::Fault => {
            let text = r.take(meta.len().min(limits::FAULT_TEXT_BYTES_MAX as usize))?;
            Frame::Fault(FaultFrame {
                epoch: header.epoch,
                step: header.step,
                text: String::from_utf8_lossy(text).into_owned(),
            })
        }
        FrameKind::Experts => r.experts(header, body)?,
        FrameKind::Partials => r.partials(header, body)?,
        FrameKind::Head => exchange::head(header, body),
        FrameKind::Logits => r.logits(header, body)?,
        FrameKind::Mask => r.mask(header)?,
    };
    r.end()?;
    Ok(frame)
}

#[cfg(test)]
mod tests;
