//! Buffers that are reused from step to step, so that the path of a token allocates nothing after the first.

use kernels::{ActFormat, Acts};

use crate::EngineError;
use crate::spec::Exec;
use crate::weights::Experts;

/// One set of activation rows, quantised at most once to each format that some weight asks for.
#[derive(Debug, Default)]
pub struct ActSet {
    made: Vec<Acts>,
    fresh: Vec<ActFormat>,
}

impl ActSet {
    /// Forgets the rows, keeps the buffers.
    pub fn clear(&mut self) {
        self.fresh.clear();
    }

    /// Starts from rows that came from elsewhere in the format in which rows travel to `experts`.
    /// Where the experts' matrices differ in format the rows travel as `F32` and are quantised here.
    pub fn adopt(acts: Acts, exec: &Exec, experts: &Experts) -> Self {
        let format = acts.format();
        let cols = acts.cols();
        let rows: Vec<f32> = if format == ActFormat::F32 {
            let (values, _) = acts.as_bytes().as_chunks::<4>();
            values.iter().map(|v| f32::from_le_bytes(*v)).collect()
        } else {
            Vec::new()
        };
        let mut set = Self {
            made: vec![acts],
            fresh: vec![format],
        };
        if format == ActFormat::F32 {
            for weight in experts
                .by_id
                .iter()
                .flatten()
                .flat_map(|e| [&e.gate, &e.up])
            {
                set.need(exec, weight.ty.act_format(), &rows, cols);
            }
        }
        set
    }

    /// Makes sure that the rows `x` (`[rows, cols]`) exist in `format`.
    pub fn need(&mut self, exec: &Exec, format: ActFormat, x: &[f32], cols: usize) {
        if self.fresh.contains(&format) {
            return;
        }
        let at = match self.made.iter().position(|a| a.format() == format) {
            Some(at) => at,
            None => {
                self.made.push(Acts::new());
                self.made.len() - 1
            }
        };
        if let Some(acts) = self.made.get_mut(at) {
            acts.quantize_parallel(&exec.pool, exec.isa, format, x, cols);
            self.fresh.push(format);
        }
    }

    /// The rows in `format`.
    ///
    /// # Errors
    /// When [`ActSet::need`] was not called for it.
    pub fn get(&self, format: ActFormat) -> Result<&Acts, EngineError> {
        let fresh = self.fresh.contains(&format);
        let found = self.made.iter().find(|a| fresh && a.format() == format);
        found.ok_or(EngineError::Turn("missing its activations"))
    }
}

/// Makes a buffer `len` long without giving memory back. What was in it stays, so whoever asks must write all of it.
pub fn sized(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.capacity() < len {
        // New pages are zero as they come: the threads that write first touch them, each its own.
        *buffer = vec![0.0; len];
    } else {
        buffer.resize(len, 0.0);
    }
    buffer
}
