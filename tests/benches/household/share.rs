//! A machine at a part of its speed: a group of processes that may use a processor only so many percent of the time.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tests::set::Set;

const GROUPS: &str = "/sys/fs/cgroup/cpu";
/// Short, so that a pause is not longer than a layer.
const PERIOD_US: u32 = 5_000;

const BURIAL: Duration = Duration::from_secs(2);

/// Removed when dropped, which works once its processes have ended.
#[derive(Debug)]
pub struct Share(PathBuf);

impl Share {
    /// The share of the node with number `at`, if it has not all of its processor.
    pub fn of(set: &Set, at: usize, name: &str) -> Option<Self> {
        let percent = set.each("share", at, "100");
        let percent = percent.parse().expect("share=N,…");
        let name = format!("{}-{name}-{at}", std::process::id());
        (percent < 100).then(|| Self::new(&name, percent))
    }

    /// Needs the cpu controller of cgroups version 1 and root.
    fn new(name: &str, percent: u32) -> Self {
        let folder = Path::new(GROUPS).join(format!("hearth-bench-{name}"));
        let write = |file: &str, value: u32| {
            let path = folder.join(file);
            std::fs::write(&path, value.to_string())
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        };
        std::fs::create_dir(&folder)
            .unwrap_or_else(|error| panic!("share= needs {GROUPS}: {error}"));
        write("cpu.cfs_period_us", PERIOD_US);
        write("cpu.cfs_quota_us", PERIOD_US / 100 * percent);
        Self(folder)
    }

    /// `command` inside the group, from its first instruction on.
    pub fn command(&self, command: &Command) -> Command {
        let mut shell = Command::new("sh");
        shell
            .args(["-c", "echo $$ > \"$0\"/cgroup.procs && exec \"$@\""])
            .arg(&self.0)
            .arg(command.get_program())
            .args(command.get_args());
        shell
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        // The kernel takes a moment to bury what was killed.
        let until = Instant::now() + BURIAL;
        while Instant::now() < until {
            if std::fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::yield_now();
        }
        eprintln!("{} stays behind", self.0.display());
    }
}
