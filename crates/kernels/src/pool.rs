//! The thread pool that kernels run on.
//!
//! Owns the worker threads of one program and the split of an output among them. It never decides what is
//! computed: a region is a count of independent tasks, and which thread runs a task must not change a bit.
//! The idea: one region at a time, and one counter of the tasks that are left in it. Whoever counts it down from a
//! positive number has a task, and with it the region, which cannot end before that task has; whoever finds nothing
//! left has nothing. So a thread that comes late, or not at all because a foreign program has its core, is never
//! waited for. The caller works too. Threads that wait spin briefly, since the next region usually follows within
//! microseconds, and then sleep for real. No clock is read: a spin is bounded by a count of turns.
#![allow(
    unsafe_code,
    reason = "a region lends the caller's closure to threads, and tasks write disjoint parts of one output"
)]

mod outputs;
mod place;

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::hint::black_box;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

pub use outputs::{
    Chunks, ColumnsMut, parallel_chunks, parallel_chunks2, parallel_chunks3, parallel_columns,
};
pub(crate) use outputs::{SharedColumns, Split};

use crate::KernelError;

/// Turns that a worker spins for the next region before it sleeps. Few, because where a foreign program shares its core
/// the spinning is taken from the worker's own time.
const WORKER_TURNS_MAX: u32 = 400;
/// Turns that the caller spins for the last tasks of its region before it sleeps. A thread that lets it wait longer may
/// have lost its core, and can be given this one when the caller leaves it.
const CALLER_TURNS_MAX: u32 = 1000;
/// Dependent multiplications in a turn, since a pause alone takes many times longer on one processor than on another.
const TURN_MULTIPLICATIONS: u32 = 16;

thread_local! {
    /// Whether this thread is inside a task; a region started there runs serially.
    static IN_TASK: Cell<bool> = const { Cell::new(false) };
}

/// Keeps what different threads write on different cache lines.
#[repr(align(128))]
struct Padded<T>(T);

/// The task function and count of a region.
#[derive(Clone, Copy)]
struct Region {
    task: *const (dyn Fn(usize) + Sync),
    tasks: usize,
}

/// What there is to do. A thread that takes a task reads the region next, so both lie on one cache line.
struct Work {
    /// Tasks that nobody has taken. Falls below zero when threads ask in vain.
    left: AtomicIsize,
    /// Written only by the caller while no task is left or under way, read only by holders of a task.
    region: UnsafeCell<Option<Region>>,
}

/// How far the workers are with the tasks they took.
struct Progress {
    /// Tasks of the region that workers have finished.
    done: AtomicUsize,
    /// Whether the caller sleeps until `done` is enough.
    caller_sleeps: AtomicBool,
}

/// What the caller and the workers share.
struct Shared {
    work: Padded<Work>,
    progress: Padded<Progress>,
    /// Workers that sleep; changed under `sleep`.
    sleepers: Padded<AtomicUsize>,
    stop: AtomicBool,
    sleep: Mutex<()>,
    wake: Condvar,
    finished: Condvar,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `region` is written only by the holder of the pool's region lock after the region before has ended, and
// read only by threads that took a task of it. Such a thread counted `left` down from a positive number, which the
// caller stored after writing the region, and the caller waits until the task is counted in `done` before it writes
// again. The pointer in it is to a `Sync` closure that outlives the region. All other fields are `Sync` themselves.
unsafe impl Sync for Shared {}
// SAFETY: as above; nothing in it belongs to a particular thread.
unsafe impl Send for Shared {}

/// Takes a lock whose data stays meaningful if a holder panicked.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Spins until `ready`, at most so many turns; false when that was too short.
fn spin(turns: u32, ready: impl Fn() -> bool) -> bool {
    for turn in 0..turns {
        if ready() {
            return true;
        }
        std::hint::spin_loop();
        let chain = (0..TURN_MULTIPLICATIONS).fold(turn, |x, _| black_box(x).wrapping_mul(x));
        black_box(chain);
    }
    ready()
}

impl Shared {
    fn new() -> Self {
        Shared {
            work: Padded(Work {
                left: AtomicIsize::new(0),
                region: UnsafeCell::new(None),
            }),
            progress: Padded(Progress {
                done: AtomicUsize::new(0),
                caller_sleeps: AtomicBool::new(false),
            }),
            sleepers: Padded(AtomicUsize::new(0)),
            stop: AtomicBool::new(false),
            sleep: Mutex::new(()),
            wake: Condvar::new(),
            finished: Condvar::new(),
            panic: Mutex::new(None),
        }
    }

    /// Runs tasks until none is left and returns how many are over with it. Keeps the first panic; the tasks that are
    /// left then count as over, since nobody begins them.
    fn take_part(&self) -> usize {
        let Work { left, region } = &self.work.0;
        let mut over = 0;
        loop {
            let before = left.fetch_sub(1, Ordering::Acquire);
            if before <= 0 {
                return over;
            }
            // SAFETY: we hold a task, so the region stays as it is until we have counted it as done.
            let Some(Region { task, tasks }) = (unsafe { *region.get() }) else {
                return over;
            };
            let index = tasks - before.unsigned_abs();
            // SAFETY: `Pool::run` does not return before the task that we hold is done, so the closure lives.
            let outcome = catch_unwind(AssertUnwindSafe(|| unsafe { (*task)(index) }));
            over += 1;
            if let Err(payload) = outcome {
                over += left.swap(0, Ordering::Relaxed).max(0).unsigned_abs();
                lock(&self.panic).get_or_insert(payload);
            }
            if before == 1 {
                return over;
            }
        }
    }

    /// Waits until there is something to do or the pool stops.
    fn wait_for_work(&self) {
        let something =
            || self.work.0.left.load(Ordering::SeqCst) > 0 || self.stop.load(Ordering::SeqCst);
        if spin(WORKER_TURNS_MAX, something) {
            return;
        }
        let mut guard = lock(&self.sleep);
        self.sleepers.0.fetch_add(1, Ordering::SeqCst);
        while !something() {
            guard = self
                .wake
                .wait(guard)
                .unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.0.fetch_sub(1, Ordering::SeqCst);
    }

    fn worker(&self) {
        IN_TASK.set(true);
        let progress = &self.progress.0;
        loop {
            self.wait_for_work();
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let over = self.take_part();
            if over > 0 {
                progress.done.fetch_add(over, Ordering::SeqCst);
                if progress.caller_sleeps.load(Ordering::SeqCst) {
                    let _guard = lock(&self.sleep);
                    self.finished.notify_all();
                }
            }
        }
    }

    /// Offers a region's tasks to all threads and wakes those that sleep.
    fn open(&self, region: Region) {
        let Region { tasks, .. } = region;
        // SAFETY: the caller holds the pool's region lock and the region before has ended.
        unsafe { *self.work.0.region.get() = Some(region) };
        self.progress.0.done.store(0, Ordering::Relaxed);
        self.work
            .0
            .left
            .store(tasks.cast_signed(), Ordering::SeqCst);
        if self.sleepers.0.load(Ordering::SeqCst) > 0 {
            let _guard = lock(&self.sleep);
            self.wake.notify_all();
        }
    }

    /// Waits until the workers have finished `tasks` tasks.
    fn wait_for_workers(&self, tasks: usize) {
        let progress = &self.progress.0;
        let finished = || progress.done.load(Ordering::SeqCst) == tasks;
        if spin(CALLER_TURNS_MAX, finished) {
            return;
        }
        let mut guard = lock(&self.sleep);
        progress.caller_sleeps.store(true, Ordering::SeqCst);
        while !finished() {
            guard = self
                .finished
                .wait(guard)
                .unwrap_or_else(PoisonError::into_inner);
        }
        progress.caller_sleeps.store(false, Ordering::SeqCst);
    }
}

/// A fixed set of threads that run the tasks of one region at a time.
pub struct Pool {
    shared: Arc<Shared>,
    /// Held by the thread whose region runs.
    region: Mutex<()>,
    workers: Vec<JoinHandle<()>>,
    /// The core of the caller, if the owner chose cores.
    core: Option<usize>,
}

impl Pool {
    /// A pool of `threads` threads, of which the caller of [`Pool::run`] is one; 0 counts as 1. The system chooses and
    /// changes their cores. If it refuses a thread the pool goes on with those it has: see [`Pool::threads`].
    #[must_use]
    pub fn new(threads: usize) -> Pool {
        Self::start(threads, &[])
    }

    /// As [`Pool::new`], but thread `i` stays on core `cores[i % cores.len()]`. Thread 0 is the caller: the thread that
    /// is going to call [`Pool::run`] has to call [`Pool::pin_caller`] once. No cores mean no pinning.
    ///
    /// # Errors
    /// When this process may not run on one of the cores, or where the system knows no pinning.
    pub fn with_affinity(threads: usize, cores: &[usize]) -> Result<Pool, KernelError> {
        place::check(cores)?;
        Ok(Self::start(threads, cores))
    }

    fn start(threads: usize, cores: &[usize]) -> Pool {
        let shared = Arc::new(Shared::new());
        let core = |index: usize| cores.get(index % cores.len().max(1)).copied();
        let workers = (1..threads)
            .map_while(|index| {
                let (shared, core) = (Arc::clone(&shared), core(index));
                std::thread::Builder::new()
                    .name(format!("compute-{index}"))
                    .spawn(move || {
                        // The core was checked; should the system have taken it away since, any other does.
                        let _ = core.map(place::pin);
                        shared.worker();
                    })
                    .ok()
            })
            .collect();
        Pool {
            shared,
            region: Mutex::new(()),
            workers,
            core: core(0),
        }
    }

    /// Keeps the calling thread on the first of the pool's cores, if it was made with cores.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn pin_caller(&self) -> Result<(), KernelError> {
        self.core.map_or(Ok(()), place::pin)
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
        // SAFETY: only the lifetime changes. `wait_for_workers` returns after the last task taken by a worker is done,
        // and nothing between here and there unwinds, so no use of the pointer outlives the closure.
        let task = unsafe {
            std::mem::transmute::<
                *const (dyn Fn(usize) + Sync + '_),
                *const (dyn Fn(usize) + Sync + 'static),
            >(std::ptr::from_ref(task))
        };
        self.shared.open(Region { task, tasks });
        IN_TASK.set(true);
        let over = self.shared.take_part();
        IN_TASK.set(false);
        self.shared.wait_for_workers(tasks - over);
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
        while shared.sleepers.0.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        // One task outlasts the other thread's spin, whichever thread that is, and ends once it sleeps.
        let first = AtomicBool::new(true);
        let caller = std::thread::current().id();
        let both = std::sync::Barrier::new(2);
        pool.run(2, &|_| {
            both.wait();
            if std::thread::current().id() != caller && first.swap(false, Ordering::SeqCst) {
                while !shared.progress.0.caller_sleeps.load(Ordering::SeqCst) {
                    std::thread::yield_now();
                }
            }
        });
        assert!(!first.load(Ordering::SeqCst), "the worker took no task");
    }

    #[test]
    fn a_sleeping_pool_ends() {
        let pool = Pool::new(3);
        while pool.shared.sleepers.0.load(Ordering::SeqCst) < 2 {
            std::thread::yield_now();
        }
        let shared = Arc::clone(&pool.shared);
        drop(pool);
        assert_eq!(Arc::strong_count(&shared), 1, "a worker is still there");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn threads_stay_on_the_cores_that_were_chosen() {
        let allowed = rustix::thread::sched_getaffinity(None).unwrap();
        let core = (0..1024).find(|core| allowed.is_set(*core)).unwrap();
        let pool = Pool::with_affinity(3, &[core]).unwrap();
        let both = std::sync::Barrier::new(3);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                pool.pin_caller().unwrap();
                pool.run(3, &|_| {
                    both.wait();
                    let mask = rustix::thread::sched_getaffinity(None).unwrap();
                    assert!(mask.is_set(core) && mask.count() == 1);
                });
            });
        });
        let mask = rustix::thread::sched_getaffinity(None).unwrap();
        assert_eq!(mask, allowed, "only the threads of the pool are pinned");
    }

    #[test]
    fn cores_that_are_not_there_are_refused() {
        for core in [1023, 1024, usize::MAX] {
            let error = Pool::with_affinity(2, &[core]).unwrap_err().to_string();
            assert!(error.contains("core"), "{error}");
        }
        assert!(Pool::with_affinity(1, &[]).unwrap().pin_caller().is_ok());
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
