//! The paged key/value cache of one attention layer.
//!
//! Owns the memory of all pages of a layer and the conversion to its element type. It never allocates a page:
//! page numbers come from outside (one page table serves all layers of a sequence). The idea: a page holds 64
//! positions of every key/value head, zeroed memory that becomes resident only when it is written.

use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};

use crate::KernelError;

/// Positions that one page holds; also the length of a key block of attention.
pub const PAGE_POSITIONS: usize = 64;

/// How keys and values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvType {
    /// As computed.
    F32,
    /// Rounded to half precision, ties to even.
    F16,
}

impl KvType {
    /// Bytes of one value.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            KvType::F32 => 4,
            KvType::F16 => 2,
        }
    }
}

/// Keys or values of all pages: `[page][kv head][position in page][value of the head]`.
#[derive(Debug)]
enum Plane {
    F32(Vec<f32>),
    F16(Vec<u16>),
}

impl Plane {
    fn new(ty: KvType, len: usize) -> Self {
        match ty {
            KvType::F32 => Plane::F32(vec![0.0; len]),
            KvType::F16 => Plane::F16(vec![0; len]),
        }
    }

    fn write(&mut self, at: usize, row: &[f32]) {
        match self {
            Plane::F32(all) => all[at..at + row.len()].copy_from_slice(row),
            Plane::F16(all) => all[at..at + row.len()]
                .reinterpret_cast_mut::<half::f16>()
                .convert_from_f32_slice(row),
        }
    }

    /// `len` values from `at` on, widened into `buffer` unless they are f32 already.
    #[inline(always)]
    fn row<'a>(&'a self, at: usize, buffer: &'a mut [f32]) -> &'a [f32] {
        match self {
            Plane::F32(all) => &all[at..at + buffer.len()],
            Plane::F16(all) => {
                let stored = all[at..at + buffer.len()].reinterpret_cast::<half::f16>();
                stored.convert_to_f32_slice(buffer);
                buffer
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

impl KvStore {
    /// Bytes of a store, `None` if this machine cannot address so many.
    #[must_use]
    pub fn bytes_for(ty: KvType, pages: u32, kv_heads: usize, head_dim: usize) -> Option<usize> {
        let bytes = usize::try_from(pages)
            .ok()?
            .checked_mul(kv_heads)?
            .checked_mul(head_dim)?
            .checked_mul(PAGE_POSITIONS)?
            .checked_mul(2 * ty.bytes())?;
        isize::try_from(bytes).is_ok().then_some(bytes)
    }

    /// A zeroed store of `pages` pages.
    ///
    /// # Errors
    /// If it would be larger than the machine can address.
    pub fn new(
        ty: KvType,
        pages: u32,
        kv_heads: usize,
        head_dim: usize,
    ) -> Result<Self, KernelError> {
        let bytes =
            KvStore::bytes_for(ty, pages, kv_heads, head_dim).ok_or(KernelError::TooLarge {
                what: "key/value cache",
            })?;
        let values = bytes / (2 * ty.bytes());
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

    /// Where the head's value row of a position begins.
    #[inline(always)]
    pub(crate) fn at(&self, page: u32, kv_head: usize, offset: usize) -> usize {
        assert!(page < self.pages, "page {page} of {}", self.pages);
        ((page as usize * self.kv_heads + kv_head) * PAGE_POSITIONS + offset) * self.head_dim
    }

    /// Stores the keys and values of `position` (rows of all kv heads) in the page that `pages`, the page table
    /// of the sequence, names for it.
    ///
    /// # Panics
    /// If the rows have another length, or the page table does not cover the position.
    pub fn write(&mut self, pages: &[u32], position: u32, k: &[f32], v: &[f32]) {
        let row = self.kv_heads * self.head_dim;
        assert!(
            k.len() == row && v.len() == row,
            "rows of {} and {}, expected {row}",
            k.len(),
            v.len()
        );
        let position = position as usize;
        let page = pages[position / PAGE_POSITIONS];
        for (head, (k, v)) in k
            .chunks(self.head_dim)
            .zip(v.chunks(self.head_dim))
            .enumerate()
        {
            let at = self.at(page, head, position % PAGE_POSITIONS);
            self.keys.write(at, k);
            self.values.write(at, v);
        }
    }

    /// One key row in f32; `buffer` has the length of a head.
    #[inline(always)]
    pub(crate) fn key<'a>(&'a self, at: usize, buffer: &'a mut [f32]) -> &'a [f32] {
        self.keys.row(at, buffer)
    }

    /// Widens one value row into `row`, which has the length of a head.
    #[inline(always)]
    pub(crate) fn value_into(&self, at: usize, row: &mut [f32]) {
        match &self.values {
            Plane::F32(all) => row.copy_from_slice(&all[at..at + row.len()]),
            Plane::F16(all) => all[at..at + row.len()]
                .reinterpret_cast::<half::f16>()
                .convert_to_f32_slice(row),
        }
    }

    /// Kv heads and values of a head.
    pub(crate) fn shape(&self) -> (usize, usize) {
        (self.kv_heads, self.head_dim)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{bits, values};

    #[test]
    fn rows_come_back_as_written_or_rounded() -> Result<(), KernelError> {
        for ty in [KvType::F32, KvType::F16] {
            let mut store = KvStore::new(ty, 3, 2, 40)?;
            assert_eq!(store.bytes(), 3 * 2 * 64 * 40 * 2 * ty.bytes());
            let pages = [2, 0];
            for position in [0u32, 63, 64, 127] {
                let k = values(80, u64::from(position));
                let v = values(80, u64::from(position) + 1000);
                store.write(&pages, position, &k, &v);
            }
            for position in [0u32, 63, 64, 127] {
                let (k, v) = (
                    values(80, u64::from(position)),
                    values(80, u64::from(position) + 1000),
                );
                let stored = |x: &[f32]| -> Vec<f32> {
                    let round = |x: &f32| {
                        if ty == KvType::F32 {
                            *x
                        } else {
                            half::f16::from_f32_const(*x).to_f32_const()
                        }
                    };
                    x.iter().map(round).collect()
                };
                let at = store.at(pages[position as usize / 64], 1, position as usize % 64);
                let mut buffer = vec![0.0; 40];
                assert_eq!(bits(store.key(at, &mut buffer)), bits(&stored(&k[40..])));
                assert_eq!(
                    {
                        store.value_into(at, &mut buffer);
                        bits(&buffer)
                    },
                    bits(&stored(&v[40..]))
                );
            }
        }
        Ok(())
    }

    #[test]
    fn half_conversion_is_the_same_in_hardware_and_software() {
        let every: Vec<u16> = (0..=u16::MAX).collect();
        let mut wide = vec![0.0; every.len()];
        every
            .reinterpret_cast::<half::f16>()
            .convert_to_f32_slice(&mut wide);
        for (stored, wide) in every.iter().zip(&wide) {
            let soft = half::f16::from_bits(*stored).to_f32_const();
            assert!(
                soft.to_bits() == wide.to_bits() || (soft.is_nan() && wide.is_nan()),
                "{stored:#x}"
            );
        }
        let odd: Vec<f32> = values(4096, 9)
            .iter()
            .map(|x| x * 1e-6 * 40f32.powf(x * 3.0))
            .collect();
        let mut rounded = vec![0u16; odd.len()];
        rounded
            .reinterpret_cast_mut::<half::f16>()
            .convert_from_f32_slice(&odd);
        for (x, got) in odd.iter().zip(&rounded) {
            assert_eq!(*got, half::f16::from_f32_const(*x).to_bits(), "{x}");
        }
    }

    #[test]
    fn a_store_beyond_the_address_space_is_refused() {
        let error = KvStore::new(KvType::F32, u32::MAX, usize::MAX / 8, 64).unwrap_err();
        assert_eq!(
            error,
            KernelError::TooLarge {
                what: "key/value cache"
            }
        );
    }
}
