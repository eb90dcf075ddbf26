//! The paged key/value cache of one attention layer.
//!
//! Owns the memory of all pages of a layer and the conversion to its element type. It never allocates a page:
//! page numbers come from outside (one page table serves all layers of a sequence). The idea: a page holds 64
//! positions of every key/value head, zeroed memory that becomes resident only when it is written. A value is
//! rounded once, when it is written, and widened exactly when it is read, so attention has one definition for
//! all types.
//!
//! `Q8`: 32 values of a row share an f32 scale, the largest magnitude / 127; a value is stored as
//! `value / scale`, ties to even, at most 127 in magnitude, and comes back as `scale * stored`. That is 36 bytes
//! for 32 values. A NaN is stored as 0.

mod q8;
mod widen;

#[cfg(test)]
mod tests;

use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};

use crate::KernelError;
use crate::pool::Split;

pub(crate) use widen::{Block, Part};

/// Positions that one page holds; also the length of a key block of attention.
pub const PAGE_POSITIONS: usize = 64;

/// How keys and values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvType {
    /// As computed.
    F32,
    /// Rounded to half precision, ties to even.
    F16,
    /// One byte a value, and an f32 scale for 32 of them; a head's length must be a multiple of 32.
    Q8,
}

impl KvType {
    /// Values that are stored together, and the bytes that they take.
    fn unit(self) -> (usize, usize) {
        match self {
            KvType::F32 => (1, 4),
            KvType::F16 => (1, 2),
            KvType::Q8 => (q8::BLOCK, q8::BLOCK + size_of::<f32>()),
        }
    }
}

/// Keys or values of all pages: `[page][kv head][position in page][value of the head]`.
#[derive(Debug)]
enum Plane {
    F32(Vec<f32>),
    F16(Vec<u16>),
    /// The stored values, and the scale of every 32.
    Q8(Vec<i8>, Vec<f32>),
}

impl Plane {
    fn new(ty: KvType, len: usize) -> Self {
        match ty {
            KvType::F32 => Plane::F32(vec![0.0; len]),
            KvType::F16 => Plane::F16(vec![0; len]),
            KvType::Q8 => Plane::Q8(vec![0; len], vec![0.0; len / q8::BLOCK]),
        }
    }

    fn shared(&mut self) -> SharedPlane<'_> {
        match self {
            Plane::F32(all) => SharedPlane::F32(Split::new(all)),
            Plane::F16(all) => SharedPlane::F16(Split::new(all)),
            Plane::Q8(all, scales) => SharedPlane::Q8(Split::new(all), Split::new(scales)),
        }
    }

    /// Chunk `index` of `len` values.
    fn block(&self, index: usize, len: usize) -> Block<'_> {
        let range = index * len..(index + 1) * len;
        match self {
            Plane::F32(all) => Block::F32(&all[range]),
            Plane::F16(all) => Block::F16(&all[range]),
            Plane::Q8(all, scales) => Block::Q8(
                &all[range.clone()],
                &scales[range.start / q8::BLOCK..range.end / q8::BLOCK],
            ),
        }
    }
}

/// A plane whose rows several tasks write.
enum SharedPlane<'a> {
    F32(Split<'a, f32>),
    F16(Split<'a, u16>),
    Q8(Split<'a, i8>, Split<'a, f32>),
}

impl SharedPlane<'_> {
    /// Stores row number `index` of the plane.
    ///
    /// # Safety
    /// Nobody else may write or read this row at the same time, and all rows have one length.
    #[allow(unsafe_code, reason = "tasks write disjoint rows of one plane")]
    unsafe fn write(&self, index: usize, row: &[f32]) {
        // SAFETY: the caller keeps the row to itself; rows have one length, and so have their scales.
        unsafe {
            match self {
                SharedPlane::F32(all) => all.part(index, row.len()).copy_from_slice(row),
                SharedPlane::F16(all) => all
                    .part(index, row.len())
                    .reinterpret_cast_mut::<half::f16>()
                    .convert_from_f32_slice(row),
                SharedPlane::Q8(all, scales) => q8::quantise(
                    row,
                    all.part(index, row.len()),
                    scales.part(index, row.len() / q8::BLOCK),
                ),
            }
        }
    }
}

/// Keys and values of one layer.
#[derive(Debug)]
pub struct KvStore {
    keys: Plane,
    values: Plane,
    ty: KvType,
    pages: u32,
    kv_heads: usize,
    head_dim: usize,
}

/// A store whose key/value heads several tasks write at once.
pub(crate) struct KvWriter<'a> {
    keys: SharedPlane<'a>,
    values: SharedPlane<'a>,
    pages: u32,
    kv_heads: usize,
}

impl KvWriter<'_> {
    /// Stores key and value of one head of `position` in the page that `pages` names for it.
    ///
    /// # Safety
    /// No other task may write rows of this head meanwhile.
    ///
    /// # Panics
    /// If the page table does not cover the position or names a page that the store lacks.
    #[allow(unsafe_code, reason = "tasks write disjoint rows of one plane")]
    pub(crate) unsafe fn write(
        &self,
        (pages, position): (&[u32], u32),
        kv_head: usize,
        (k, v): (&[f32], &[f32]),
    ) {
        let position = position as usize;
        let page = pages[position / PAGE_POSITIONS];
        assert!(page < self.pages, "page {page} of {}", self.pages);
        let block = page as usize * self.kv_heads + kv_head;
        let row = block * PAGE_POSITIONS + position % PAGE_POSITIONS;
        // SAFETY: rows of different heads are different, and the caller keeps this head to itself.
        unsafe {
            self.keys.write(row, k);
            self.values.write(row, v);
        }
    }
}

impl KvStore {
    /// Bytes of a store, `None` if this machine cannot address so many.
    #[must_use]
    pub fn bytes_for(ty: KvType, pages: u32, kv_heads: usize, head_dim: usize) -> Option<usize> {
        let (values, bytes) = ty.unit();
        let bytes = usize::try_from(pages)
            .ok()?
            .checked_mul(kv_heads)?
            .checked_mul(head_dim.div_ceil(values))?
            .checked_mul(PAGE_POSITIONS)?
            .checked_mul(2 * bytes)?;
        isize::try_from(bytes).is_ok().then_some(bytes)
    }

    /// A zeroed store of `pages` pages.
    ///
    /// # Errors
    /// If it would be larger than the machine can address, or heads are not made of whole blocks of the type.
    pub fn new(
        ty: KvType,
        pages: u32,
        kv_heads: usize,
        head_dim: usize,
    ) -> Result<Self, KernelError> {
        let (block, bytes) = ty.unit();
        if !head_dim.is_multiple_of(block) {
            return Err(KernelError::Shape {
                what: "a key/value cache of type q8 cannot hold this model's heads (use f16 or f32)",
                got: head_dim,
                block,
            });
        }
        let all =
            KvStore::bytes_for(ty, pages, kv_heads, head_dim).ok_or(KernelError::TooLarge {
                what: "key/value cache",
            })?;
        let values = all / (2 * bytes) * block;
        Ok(KvStore {
            keys: Plane::new(ty, values),
            values: Plane::new(ty, values),
            ty,
            pages,
            kv_heads,
            head_dim,
        })
    }

    /// Bytes of the whole store, written or not.
    #[must_use]
    pub fn bytes(&self) -> usize {
        KvStore::bytes_for(self.ty, self.pages, self.kv_heads, self.head_dim).unwrap_or(usize::MAX)
    }

    /// Pages of the store.
    #[must_use]
    pub fn pages(&self) -> u32 {
        self.pages
    }

    /// The keys of one head in a page.
    pub(crate) fn keys(&self, page: u32, kv_head: usize) -> Block<'_> {
        self.keys
            .block(self.index(page, kv_head), PAGE_POSITIONS * self.head_dim)
    }

    /// The values of one head in a page.
    pub(crate) fn values(&self, page: u32, kv_head: usize) -> Block<'_> {
        self.values
            .block(self.index(page, kv_head), PAGE_POSITIONS * self.head_dim)
    }

    fn index(&self, page: u32, kv_head: usize) -> usize {
        assert!(page < self.pages, "page {page} of {}", self.pages);
        page as usize * self.kv_heads + kv_head
    }

    /// For tasks that write different heads.
    pub(crate) fn writer(&mut self) -> KvWriter<'_> {
        KvWriter {
            keys: self.keys.shared(),
            values: self.values.shared(),
            pages: self.pages,
            kv_heads: self.kv_heads,
        }
    }

    /// Stores the keys and values of `position` (rows of all kv heads) in the page that `pages`, the page table
    /// of the sequence, names for it.
    ///
    /// # Panics
    /// If the rows have another length, or the page table does not cover the position.
    pub fn write(&mut self, pages: &[u32], position: u32, k: &[f32], v: &[f32]) {
        let (dim, row) = (self.head_dim, self.kv_heads * self.head_dim);
        assert!(
            k.len() == row && v.len() == row,
            "rows of {} and {}, expected {row}",
            k.len(),
            v.len()
        );
        let writer = self.writer();
        for (head, kv) in k.chunks(dim).zip(v.chunks(dim)).enumerate() {
            #[allow(unsafe_code, reason = "shares its code with tasks")]
            // SAFETY: the store is borrowed exclusively, and nobody else has its writer.
            unsafe {
                writer.write((pages, position), head, kv);
            }
        }
    }

    /// Kv heads and values of a head.
    pub(crate) fn shape(&self) -> (usize, usize) {
        (self.kv_heads, self.head_dim)
    }
}
