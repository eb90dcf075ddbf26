//! The thread pool that kernels run on.
//!
//! Owns the worker threads of one program and the split of an output among them. It never decides what is
//! computed: a region is a count of independent tasks, and which thread runs a task must not change a bit.
//! The idea: one region at a time, tasks handed out by an atomic counter, the caller works too. Workers spin
//! briefly after a region, since the next one usually follows within microseconds, and then sleep for real.
//! No clock is read: the spin is bounded by a count of pause instructions.
#![allow(
    unsafe_code,
    reason = "a region lends the caller's closure to threads, and tasks write disjoint parts of one output"
)]

mod outputs;

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

pub use outputs::{
    Chunks, ColumnsMut, parallel_chunks, parallel_chunks2, parallel_chunks3, parallel_columns,
};
pub(crate) use outputs::{SharedColumns, Split};

/// Pause instructions that a thread spends waiting before it sleeps: about 180 µs where a pause is longest
/// (some 140 cycles), less elsewhere.
const SPIN_PAUSES_MAX: u32 = 4096;
/// After so many pauses the processor is offered to others, so that a loaded machine loses little.
const PAUSES_PER_YIELD: u32 = 64;
/// The bit of `Shared::gate` that says a region accepts workers; the bits below count those inside.
const OPEN: usize = 1 << (usize::BITS - 1);

thread_local! {
    /// Whether this thread is inside a task; a region started there runs serially.
    static IN_TASK: Cell<bool> = const { Cell::new(false) };
}

/// Keeps counters that different threads write on different cache lines.
#[repr(align(128))]
struct Padded<T>(T);

/// The task function and count of the open region.
#[derive(Clone, Copy)]
struct Region {
    task: *const (dyn Fn(usize) + Sync),
    tasks: usize,
}

/// What the caller and the workers share.
struct Shared {
    /// `OPEN` while a region accepts workers, plus the number of workers inside.
    gate: Padded<AtomicUsize>,
    /// The next task to hand out.
    next: Padded<AtomicUsize>,
    /// Counts regions; workers wait for it to change.
    generation: Padded<AtomicU64>,
    sleepers: AtomicUsize,
    caller_sleeps: AtomicBool,
    stop: AtomicBool,
    sleep: Mutex<()>,
    wake: Condvar,
    done: Condvar,
    /// Written only by the caller while the gate is shut and empty, read only by those inside.
    region: UnsafeCell<Option<Region>>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `region` is written only while the gate is shut and nobody is inside (`Pool::run` holds the region
// lock), and read only by threads that entered through the open gate, which orders the write before the read.
// The pointer in it is to a `Sync` closure that outlives the region. All other fields are `Sync` themselves.
unsafe impl Sync for Shared {}
// SAFETY: as above; nothing in it belongs to a particular thread.
unsafe impl Send for Shared {}

/// Takes a lock whose data stays meaningful if a holder panicked.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Pauses until `ready`, for a bounded time; false when that time is over.
fn spin(ready: impl Fn() -> bool) -> bool {
    for pause in 1..=SPIN_PAUSES_MAX {
        if ready() {
            return true;
        }
        if pause % PAUSES_PER_YIELD == 0 {
            std::thread::yield_now();
        } else {
            std::hint::spin_loop();
        }
    }
    ready()
}

impl Shared {
    fn new() -> Self {
        Shared {
            gate: Padded(AtomicUsize::new(0)),
            next: Padded(AtomicUsize::new(0)),
            generation: Padded(AtomicU64::new(0)),
            sleepers: AtomicUsize::new(0),
            caller_sleeps: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            sleep: Mutex::new(()),
            wake: Condvar::new(),
            done: Condvar::new(),
            region: UnsafeCell::new(None),
            panic: Mutex::new(None),
        }
    }

    /// Runs tasks of the region until none is left; keeps the first panic and then hands out no more.
    fn work(&self, region: Region) {
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            // SAFETY: `Pool::run` does not return before everybody inside has left, so the closure lives.
            let task = unsafe { &*region.task };
            loop {
                let index = self.next.0.fetch_add(1, Ordering::Relaxed);
                if index >= region.tasks {
                    return;
                }
                task(index);
            }
        }));
        if let Err(payload) = outcome {
            self.next.0.store(region.tasks, Ordering::Relaxed);
            lock(&self.panic).get_or_insert(payload);
        }
    }

    /// Takes part in the open region, if there is one.
    fn join_region(&self) {
        let before = self.gate.0.fetch_add(1, Ordering::Acquire);
        if before & OPEN != 0 {
            // SAFETY: we are inside an open region, so the field is not written until we leave.
            if let Some(region) = unsafe { *self.region.get() } {
                self.work(region);
            }
        }
        let inside = self.gate.0.fetch_sub(1, Ordering::SeqCst);
        if inside == 1 && self.caller_sleeps.load(Ordering::SeqCst) {
            let _guard = lock(&self.sleep);
            self.done.notify_all();
        }
    }

    /// Waits until the region counter differs from `seen` or the pool stops.
    fn wait_for_region(&self, seen: u64) {
        let changed =
            || self.generation.0.load(Ordering::SeqCst) != seen || self.stop.load(Ordering::SeqCst);
        if spin(changed) {
            return;
        }
        let mut guard = lock(&self.sleep);
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        while !changed() {
            guard = self
                .wake
                .wait(guard)
                .unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }

    fn worker(&self) {
        IN_TASK.set(true);
        let mut seen = 0;
        loop {
            self.wait_for_region(seen);
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            seen = self.generation.0.load(Ordering::SeqCst);
            self.join_region();
        }
    }

    /// Opens the gate to a region and wakes the workers that sleep.
    fn open(&self, region: Region) {
        // SAFETY: the gate is shut and empty, and the caller holds the pool's region lock.
        unsafe { *self.region.get() = Some(region) };
        self.next.0.store(0, Ordering::Relaxed);
        self.gate.0.fetch_or(OPEN, Ordering::Release);
        self.generation.0.fetch_add(1, Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            let _guard = lock(&self.sleep);
            self.wake.notify_all();
        }
    }

    /// Shuts the gate and waits until the last worker has left.
    fn close(&self) {
        self.gate.0.fetch_and(!OPEN, Ordering::SeqCst);
        let empty = || self.gate.0.load(Ordering::SeqCst) == 0;
        if spin(empty) {
            return;
        }
        let mut guard = lock(&self.sleep);
        self.caller_sleeps.store(true, Ordering::SeqCst);
        while !empty() {
            guard = self
                .done
                .wait(guard)
                .unwrap_or_else(PoisonError::into_inner);
        }
        self.caller_sleeps.store(false, Ordering::SeqCst);
    }
}

/// A fixed set of threads that run the tasks of one region at a time.
pub struct Pool {
    shared: Arc<Shared>,
    /// Held by the thread whose region runs.
    region: Mutex<()>,
    workers: Vec<JoinHandle<()>>,
}

impl Pool {
    /// A pool of `threads` threads, of which the caller of [`Pool::run`] is one; 0 counts as 1. If the system
    /// refuses a thread the pool goes on with those it has: see [`Pool::threads`].
    #[must_use]
    pub fn new(threads: usize) -> Pool {
        let shared = Arc::new(Shared::new());
        let workers = (1..threads)
            .map_while(|index| {
                let shared = Arc::clone(&shared);
                std::thread::Builder::new()
                    .name(format!("compute-{index}"))
                    .spawn(move || shared.worker())
                    .ok()
            })
            .collect();
        Pool {
            shared,
            region: Mutex::new(()),
            workers,
        }
    }

    /// Threads that work in a region, the caller included.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `task(0) .. task(tasks - 1)`, each once, on any thread and in any order, and returns when all are
    /// done. A region started inside a task runs serially on that thread; a second caller waits its turn.
    ///
    /// # Panics
    /// If a task panics: with its payload, after every thread has left the region. Tasks not yet begun are
    /// then dropped.
    pub fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        if tasks <= 1 || self.workers.is_empty() || IN_TASK.get() {
            (0..tasks).for_each(task);
            return;
        }
        let turn = lock(&self.region);
        // SAFETY: only the lifetime changes. `close` returns after the last worker has left the region, and
        // nothing between here and there unwinds, so no use of the pointer outlives the closure.
        let task = unsafe {
            std::mem::transmute::<
                *const (dyn Fn(usize) + Sync + '_),
                *const (dyn Fn(usize) + Sync + 'static),
            >(std::ptr::from_ref(task))
        };
        let region = Region { task, tasks };
        self.shared.open(region);
        IN_TASK.set(true);
        self.shared.work(region);
        IN_TASK.set(false);
        self.shared.close();
        let panic = lock(&self.shared.panic).take();
        drop(turn);
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        {
            let _guard = lock(&self.shared.sleep);
            self.shared.wake.notify_all();
        }
        for worker in self.workers.drain(..) {
            // A worker keeps panics of tasks for the caller, so there is nothing left to report here.
            let _ = worker.join();
        }
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool")
            .field("threads", &self.threads())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_in_many_small_regions() {
        for threads in [1, 2, 3, 5] {
            let pool = Pool::new(threads);
            assert_eq!(pool.threads(), threads);
            for region in 0..2000 {
                let tasks = region % 7;
                let hits: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                pool.run(tasks, &|i| {
                    hits[i].fetch_add(1, Ordering::Relaxed);
                });
                assert!(hits.iter().all(|hit| hit.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn uneven_tasks_are_shared() {
        let pool = Pool::new(4);
        let sum = AtomicUsize::new(0);
        pool.run(64, &|i| {
            let work = if i % 16 == 0 { 200_000 } else { 10 };
            let value = (0..work).fold(i, |acc, x| std::hint::black_box(acc ^ (x & 1)));
            sum.fetch_add(value & !1, Ordering::Relaxed);
        });
        assert_eq!(
            sum.load(Ordering::Relaxed),
            (0..64).map(|i| i & !1).sum::<usize>()
        );
    }

    #[test]
    fn panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(3);
        for _ in 0..20 {
            let caught = catch_unwind(AssertUnwindSafe(|| {
                pool.run(50, &|i| assert!(i != 17, "task seventeen"));
            }));
            let payload = caught.unwrap_err();
            assert_eq!(payload.downcast_ref::<&str>(), Some(&"task seventeen"));
            let count = AtomicUsize::new(0);
            pool.run(50, &|_| {
                count.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(count.load(Ordering::Relaxed), 50);
        }
    }

    #[test]
    fn region_inside_a_task_runs_serially() {
        let pool = Pool::new(3);
        let count = AtomicUsize::new(0);
        pool.run(6, &|_| {
            let thread = std::thread::current().id();
            pool.run(5, &|_| {
                assert_eq!(std::thread::current().id(), thread);
                count.fetch_add(1, Ordering::Relaxed);
            });
        });
        assert_eq!(count.load(Ordering::Relaxed), 30);
    }

    #[test]
    fn several_callers_take_turns() {
        let pool = Pool::new(3);
        let count = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        pool.run(4, &|_| {
                            count.fetch_add(1, Ordering::Relaxed);
                        });
                    }
                });
            }
        });
        assert_eq!(count.load(Ordering::Relaxed), 2400);
    }

    #[test]
    fn sleeping_workers_and_sleeping_caller_wake() {
        let pool = Pool::new(2);
        let shared = Arc::clone(&pool.shared);
        while shared.sleepers.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        // One task outlasts the other thread's spin, whichever thread that is, and ends once it sleeps.
        let first = AtomicBool::new(true);
        let caller = std::thread::current().id();
        let both = std::sync::Barrier::new(2);
        pool.run(2, &|_| {
            both.wait();
            if std::thread::current().id() != caller && first.swap(false, Ordering::SeqCst) {
                while !shared.caller_sleeps.load(Ordering::SeqCst) {
                    std::thread::yield_now();
                }
            }
        });
        assert!(!first.load(Ordering::SeqCst), "the worker took no task");
    }

    #[test]
    fn chunks_cover_outputs_exactly() {
        let pool = Pool::new(3);
        let (mut a, mut b, mut c) = (vec![0; 103], vec![0; 21], vec![0; 11]);
        parallel_chunks(&pool, &mut a, 10, |i, part| {
            part.iter_mut().for_each(|x| *x += i + 1)
        });
        assert!(a.iter().enumerate().all(|(j, &x)| x == j / 10 + 1));
        parallel_chunks2(
            &pool,
            Chunks::new(&mut a, 10),
            Chunks::new(&mut b, 2),
            |i, a, b| {
                a.fill(i);
                b.fill(a.len());
            },
        );
        assert_eq!(b, [vec![10; 20], vec![3]].concat());
        let (a, b) = (Chunks::new(&mut a, 10), Chunks::new(&mut b, 2));
        parallel_chunks3(&pool, a, b, Chunks::new(&mut c, 1), |i, a, b, c| {
            c[0] = i + a.len() + b.len()
        });
        assert_eq!(
            c,
            (0..11)
                .map(|i| if i < 10 { i + 12 } else { i + 4 })
                .collect::<Vec<_>>()
        );
    }

    #[test]
    fn column_blocks_cover_a_matrix_exactly() {
        let pool = Pool::new(3);
        let mut out = vec![0; 5 * 13];
        parallel_columns(&pool, &mut out, (13, 4), |i, mut block| {
            let columns = block.columns();
            for row in 0..block.rows() {
                for (x, column) in block.row(row).iter_mut().zip(columns.clone()) {
                    *x += 1000 * i + 100 * row + column;
                }
            }
        });
        for (at, x) in out.iter().enumerate() {
            let (row, column) = (at / 13, at % 13);
            assert_eq!(*x, 1000 * (column / 4) + 100 * row + column);
        }
    }
}
