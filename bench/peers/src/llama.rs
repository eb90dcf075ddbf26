//! llama.cpp: the library with its own defaults, through its C interface.
//!
//! Asked for are only threads, room and repacking; batch 2048, micro-batch 512, flash attention by itself, KV in F16
//! and a mapped file are what the library chooses. A batch of sequences gets a context of its own, made when the first
//! such job comes, because a context divides its room among the sequences that it may have.
#![allow(unsafe_code, reason = "the interface is C")]

use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr::NonNull;

use anyhow::{Context as _, Result, ensure};
use llama_cpp_sys_2 as sys;

use crate::child::{Load, Side};
use crate::job::Job;

/// Rows of one `llama_decode`, the library's `n_batch`.
const BATCH_ROWS: usize = 2048;

unsafe extern "C" fn quiet(_: sys::ggml_log_level, _: *const c_char, _: *mut c_void) {}

/// A context with room for some sequences.
struct Context {
    raw: NonNull<sys::llama_context>,
    seqs: u32,
    /// Positions of each sequence.
    room: u32,
}

impl Context {
    fn new(model: NonNull<sys::llama_model>, load: &Load, seqs: u32) -> Result<Self> {
        // SAFETY: takes nothing and returns plain values.
        let mut params = unsafe { sys::llama_context_default_params() };
        let room = if seqs == 1 {
            load.context
        } else {
            Load::BATCH_POSITIONS
        };
        params.n_ctx = room * seqs;
        params.n_seq_max = seqs;
        params.n_threads = i32::try_from(load.threads)?;
        params.n_threads_batch = params.n_threads;
        // SAFETY: the model is loaded and outlives the context, which `Llama` drops first.
        let raw = unsafe { sys::llama_init_from_model(model.as_ptr(), params) };
        let raw = NonNull::new(raw).context("llama.cpp made no context")?;
        Ok(Self { raw, seqs, room })
    }

    fn clear(&mut self) {
        // SAFETY: the context is alive; its memory belongs to it. The data need not be cleared, as llama-bench does.
        unsafe { sys::llama_memory_clear(sys::llama_get_memory(self.raw.as_ptr()), false) };
    }

    /// Runs rows; each that `wants` logits can be asked for afterwards.
    fn decode(&mut self, rows: &mut Rows) -> Result<()> {
        let mut pointers: Vec<*mut i32> = rows.seqs.iter_mut().map(std::ptr::from_mut).collect();
        let batch = sys::llama_batch {
            n_tokens: i32::try_from(rows.tokens.len())?,
            token: rows.tokens.as_mut_ptr(),
            embd: std::ptr::null_mut(),
            pos: rows.positions.as_mut_ptr(),
            n_seq_id: rows.counts.as_mut_ptr(),
            seq_id: pointers.as_mut_ptr(),
            logits: rows.wants.as_mut_ptr(),
        };
        // SAFETY: all arrays have `n_tokens` elements (`Rows::push` is the only way to fill them) and live until the
        // call returns; every row has one sequence.
        let status = unsafe { sys::llama_decode(self.raw.as_ptr(), batch) };
        ensure!(
            status == 0,
            "llama_decode says {status} to {} rows",
            rows.tokens.len()
        );
        Ok(())
    }

    /// The greedy choice of a row of the last batch; waits until it is computed.
    fn choose(&mut self, row: usize, vocab: usize) -> Result<u32> {
        // SAFETY: the context is alive; a row without logits gives null, which is refused below.
        let logits = unsafe { sys::llama_get_logits_ith(self.raw.as_ptr(), i32::try_from(row)?) };
        ensure!(!logits.is_null(), "row {row} has no logits");
        // SAFETY: a row of logits has one value per token of the vocabulary and stays until the next decode, which
        // takes `&mut self`.
        argmax(unsafe { std::slice::from_raw_parts(logits, vocab) })
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: made by `llama_init_from_model`, freed once.
        unsafe { sys::llama_free(self.raw.as_ptr()) };
    }
}

/// First place of the largest value, in two passes that a compiler makes wide: cheaper than the library's sampler.
fn argmax(values: &[f32]) -> Result<u32> {
    let mut best = [f32::NEG_INFINITY; 16];
    let (blocks, rest) = values.as_chunks::<16>();
    for block in blocks {
        for (best, value) in best.iter_mut().zip(block) {
            *best = if *value > *best { *value } else { *best };
        }
    }
    let largest = best
        .iter()
        .chain(rest)
        .copied()
        .fold(f32::NEG_INFINITY, f32::max);
    let place = values.iter().position(|value| *value >= largest);
    Ok(u32::try_from(place.context("no largest logit")?)?)
}

/// Rows of a batch.
#[derive(Default)]
struct Rows {
    tokens: Vec<i32>,
    positions: Vec<i32>,
    counts: Vec<i32>,
    seqs: Vec<i32>,
    wants: Vec<i8>,
}

impl Rows {
    fn push(&mut self, seq: u32, position: u32, token: u32, wants_logits: i8) -> Result<()> {
        self.tokens.push(i32::try_from(token)?);
        self.positions.push(i32::try_from(position)?);
        self.counts.push(1);
        self.seqs.push(i32::try_from(seq)?);
        self.wants.push(wants_logits);
        Ok(())
    }
}

/// The library with a loaded model.
pub struct Llama {
    single: Context,
    many: Option<Context>,
    model: Model,
    load: Load,
    seqs: u32,
}

struct Model(NonNull<sys::llama_model>);

impl Drop for Model {
    fn drop(&mut self) {
        // SAFETY: made by `llama_model_load_from_file`, freed once, after its contexts.
        unsafe { sys::llama_model_free(self.0.as_ptr()) };
    }
}

impl Llama {
    /// # Errors
    /// The library only says that it failed.
    pub fn load(load: &Load) -> Result<Self> {
        let path = CString::new(
            load.file
                .to_str()
                .context("a file name that is not UTF-8")?,
        )?;
        // SAFETY: `quiet` takes what the library gives and reads none of it; no other thread uses the library yet.
        unsafe {
            sys::llama_log_set(Some(quiet), std::ptr::null_mut());
            sys::llama_backend_init();
        }
        // SAFETY: takes nothing and returns plain values.
        let mut params = unsafe { sys::llama_model_default_params() };
        params.use_extra_bufts = load.repack;
        // SAFETY: the path ends in a zero; the parameters hold no pointers besides the library's own.
        let raw = unsafe { sys::llama_model_load_from_file(path.as_ptr(), params) };
        let model = Model(NonNull::new(raw).context("llama.cpp could not load the model")?);
        let single = Context::new(model.0, load, 1)?;
        Ok(Self {
            single,
            many: None,
            model,
            load: load.clone(),
            seqs: 1,
        })
    }

    fn context(&mut self) -> &mut Context {
        match &mut self.many {
            Some(many) if self.seqs > 1 => many,
            _ => &mut self.single,
        }
    }
}

impl Side for Llama {
    fn about(&self) -> String {
        // SAFETY: the library returns a string of its own that ends in a zero.
        let info = unsafe { CStr::from_ptr(sys::llama_print_system_info()) };
        let repack = if self.load.repack {
            "repack"
        } else {
            "no repack"
        };
        format!("{}, {repack}", info.to_string_lossy().trim())
    }

    fn vocab(&self) -> u32 {
        // SAFETY: the model is alive and its vocabulary lives as long.
        let n =
            unsafe { sys::llama_vocab_n_tokens(sys::llama_model_get_vocab(self.model.0.as_ptr())) };
        u32::try_from(n).unwrap_or(0)
    }

    fn begin(&mut self, job: &Job) -> Result<()> {
        self.seqs = job.seqs;
        if job.seqs > 1 && self.many.as_ref().is_none_or(|many| many.seqs != job.seqs) {
            self.many = None;
            self.many = Some(Context::new(self.model.0, &self.load, job.seqs)?);
        }
        let context = self.context();
        ensure!(
            job.rows_each() <= context.room,
            "room for {} positions, got {job:?}",
            context.room
        );
        context.clear();
        Ok(())
    }

    fn prompt(&mut self, seq: u32, ids: &[u32]) -> Result<u32> {
        let vocab = self.vocab() as usize;
        let mut position = 0;
        let mut last_row = 0;
        for chunk in ids.chunks(BATCH_ROWS) {
            let mut rows = Rows::default();
            for id in chunk {
                position += 1;
                let is_last = i8::from(position as usize == ids.len());
                rows.push(seq, position - 1, *id, is_last)?;
            }
            last_row = chunk.len().saturating_sub(1);
            self.context().decode(&mut rows)?;
        }
        self.context().choose(last_row, vocab)
    }

    fn step(&mut self, position: u32, ids: &[u32]) -> Result<()> {
        let vocab = self.vocab() as usize;
        let mut rows = Rows::default();
        for (seq, id) in (0..).zip(ids) {
            rows.push(seq, position, *id, 1)?;
        }
        let context = self.context();
        context.decode(&mut rows)?;
        for row in 0..ids.len() {
            context.choose(row, vocab)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_value_is_found_wherever_it_is() {
        for at in 0..40_u32 {
            let mut values = vec![-2.0_f32; 40];
            values[at as usize] = -1.0;
            assert_eq!(argmax(&values).unwrap(), at);
        }
        assert_eq!(argmax(&[3.0, 5.0, 5.0]).unwrap(), 1, "the first of equals");
        assert!(argmax(&[]).is_err());
    }
}
