//! Who holds which cache page and which state slot. Ids mean the same on every stage; nodes never choose one.
//!
//! The one idea: a sequence reserves the pages of its longest possible run when it starts, and takes them one by one
//! as its positions reach them. So a running sequence never waits for memory, and nothing can dead-lock.

use proto::limits::PAGE_POSITIONS;

/// Ids 0 to a bound, each held once. Ids that were never taken are not stored.
#[derive(Debug)]
struct Ids {
    fresh: u32,
    returned: Vec<u32>,
}

impl Ids {
    fn new() -> Self {
        Self {
            fresh: 0,
            returned: Vec::new(),
        }
    }

    fn take(&mut self) -> u32 {
        self.returned.pop().unwrap_or_else(|| {
            let id = self.fresh;
            self.fresh += 1;
            id
        })
    }
}

/// The cache pages of an epoch.
#[derive(Debug)]
pub(crate) struct PagePool {
    total: u32,
    reserved: u32,
    ids: Ids,
}

/// The pages of one sequence, in order of position. Only its pool can make or end one.
#[derive(Debug)]
pub(crate) struct PageTable {
    reserved: u32,
    pages: Vec<u32>,
}

/// Pages that hold this many positions.
pub(crate) fn pages_for(positions: u32) -> u32 {
    positions.div_ceil(PAGE_POSITIONS)
}

impl PagePool {
    /// All of `total` pages are free.
    pub fn new(total: u32) -> Self {
        Self {
            total,
            reserved: 0,
            ids: Ids::new(),
        }
    }

    /// Pages that no sequence has reserved.
    pub fn free(&self) -> u32 {
        self.total - self.reserved
    }

    /// Sets aside what `positions` need, or nothing if it is not there.
    pub fn reserve(&mut self, positions: u32) -> Option<PageTable> {
        let reserved = pages_for(positions);
        if reserved > self.free() {
            return None;
        }
        self.reserved += reserved;
        Some(PageTable {
            reserved,
            pages: Vec::new(),
        })
    }

    /// Lets a table reach up to `positions`; returns the pages that this adds, in order.
    pub fn extend(&mut self, table: &mut PageTable, positions: u32) -> Vec<u32> {
        let held = table.pages.len();
        let needed = pages_for(positions);
        assert!(
            needed <= table.reserved,
            "{needed} pages needed, {} reserved",
            table.reserved
        );
        while table.pages.len() < needed as usize {
            let page = self.ids.take();
            assert!(page < self.total, "page {page} of {} taken", self.total);
            table.pages.push(page);
        }
        table.pages.get(held..).unwrap_or_default().to_vec()
    }

    /// Takes everything back.
    pub fn release(&mut self, table: PageTable) {
        self.reserved -= table.reserved;
        self.ids.returned.extend(table.pages);
    }
}

/// The state slots of an epoch.
#[derive(Debug)]
pub(crate) struct SlotPool {
    total: u32,
    held: u32,
    ids: Ids,
}

/// A slot that one sequence holds.
#[derive(Debug)]
pub(crate) struct Slot(u32);

impl Slot {
    /// Its id on every stage.
    pub fn id(&self) -> u32 {
        self.0
    }
}

impl SlotPool {
    /// All of `total` slots are free.
    pub fn new(total: u32) -> Self {
        Self {
            total,
            held: 0,
            ids: Ids::new(),
        }
    }

    /// Slots that no sequence holds.
    pub fn free(&self) -> u32 {
        self.total - self.held
    }

    /// A slot, if one is free.
    pub fn take(&mut self) -> Option<Slot> {
        if self.free() == 0 {
            return None;
        }
        self.held += 1;
        Some(Slot(self.ids.take()))
    }

    /// Takes a slot back.
    pub fn release(&mut self, slot: Slot) {
        self.held -= 1;
        self.ids.returned.push(slot.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_come_as_positions_need_them() {
        let mut pool = PagePool::new(4);
        let mut table = pool.reserve(129).unwrap();
        assert_eq!(pool.free(), 1);
        assert_eq!(pool.extend(&mut table, 1), [0]);
        assert_eq!(pool.extend(&mut table, 64), [0u32; 0]);
        assert_eq!(pool.extend(&mut table, 129), [1, 2]);
        assert_eq!(table.pages, [0, 1, 2]);
    }

    #[test]
    fn a_reservation_holds_pages_that_are_not_taken_yet() {
        let mut pool = PagePool::new(4);
        let long = pool.reserve(192).unwrap();
        assert!(pool.reserve(65).is_none());
        let mut short = pool.reserve(64).unwrap();
        assert_eq!(pool.extend(&mut short, 64), [0]);
        pool.release(long);
        pool.release(short);
        assert_eq!(pool.free(), 4);
        let mut all = pool.reserve(256).unwrap();
        let mut pages = pool.extend(&mut all, 256);
        pages.sort_unstable();
        assert_eq!(pages, [0, 1, 2, 3]);
    }

    #[test]
    #[should_panic(expected = "3 pages needed, 2 reserved")]
    fn a_table_cannot_outgrow_its_reservation() {
        let mut pool = PagePool::new(4);
        let mut table = pool.reserve(128).unwrap();
        pool.extend(&mut table, 129);
    }

    #[test]
    fn slots_are_held_once() {
        let mut pool = SlotPool::new(2);
        let (a, b) = (pool.take().unwrap(), pool.take().unwrap());
        assert_eq!((a.id(), b.id()), (0, 1));
        assert!(pool.take().is_none());
        pool.release(a);
        assert_eq!(pool.take().unwrap().id(), 0);
    }
}
