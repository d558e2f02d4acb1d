//! How much memory there is for the process, and what has which share of it.

use std::ops::RangeInclusive;
use std::path::Path;

const MIB: u64 = 1 << 20;

/// What `user_cache_bytes` is where it is `auto`: a sixteenth of the memory, from 64 MiB to 4 GiB.
pub(crate) fn usual_cache_bytes() -> u64 {
    share(available(), 16, 64..=4_096)
}

/// What a private Postgres keeps of its tables and indexes: an eighth of the memory, from 128 MiB,
/// which is its own default, to 4 GiB, beyond which every connection's own map of it is large.
pub(crate) fn usual_shared_buffers_bytes() -> u64 {
    share(available(), 8, 128..=4_096)
}

fn share(memory: u64, part: u64, mebibytes: RangeInclusive<u64>) -> u64 {
    (memory / part).clamp(mebibytes.start() * MIB, mebibytes.end() * MIB)
}

/// The machine's memory in bytes, or less where a control group of the process or one around it
/// may use less: of version 2, and of version 1 as containers see it.
fn available() -> u64 {
    available_below(Path::new("/"))
}

/// As [`available`], where `root` is the root of the file system.
fn available_below(root: &Path) -> u64 {
    let info = rustix::system::sysinfo();
    let machine = (info.totalram as u64).saturating_mul(u64::from(info.mem_unit));
    let groups = root.join("sys/fs/cgroup");
    let number = |path: &Path| std::fs::read_to_string(path).ok()?.trim().parse().ok();
    let own = std::fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let own = own.lines().find_map(|line| line.strip_prefix("0::/"));
    own.map(Path::new)
        .into_iter()
        .flat_map(Path::ancestors)
        .filter_map(|group| number(&groups.join(group).join("memory.max")))
        .chain(number(&groups.join("memory/memory.limit_in_bytes")))
        .fold(machine, u64::min)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]
    use super::*;

    #[test]
    fn the_least_of_all_limits_around_the_process_counts() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let machine = available_below(root.path());
        assert!(machine > 256 * MIB, "{machine}");
        write("sys/fs/cgroup/memory.max", "1\n");
        assert_eq!(available_below(root.path()), machine, "not of this process");
        write("proc/self/cgroup", "1:cpu:/\n0::/a.slice/b.service\n");
        write("sys/fs/cgroup/memory.max", "max\n");
        write("sys/fs/cgroup/a.slice/memory.max", "300000000\n");
        write("sys/fs/cgroup/a.slice/b.service/memory.max", "max\n");
        assert_eq!(available_below(root.path()), 300_000_000);
        write("sys/fs/cgroup/a.slice/b.service/memory.max", "200000000\n");
        assert_eq!(available_below(root.path()), 200_000_000);
        write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9000000\n");
        assert_eq!(available_below(root.path()), 9_000_000);
    }

    #[test]
    fn a_share_is_within_its_bounds() {
        let shares = [0, 4_096 * MIB, u64::MAX].map(|memory| share(memory, 16, 64..=512));
        assert_eq!(shares, [64 * MIB, 256 * MIB, 512 * MIB]);
    }
}
