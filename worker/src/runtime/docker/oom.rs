//! Reads how often the kernel has killed a process of a container for want of memory.
//!
//! The engine's own flag misses such kills on cgroup v1, so the cgroup's counter is asked. It is gone with
//! the container's last process; the init process waits until it has been read.

use std::fs;
use std::path::PathBuf;

/// The file with the counter of the memory cgroup that process `pid` is in; `None` without such a cgroup.
pub(super) fn counter_of(pid: i32) -> Option<PathBuf> {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    counter_file(&groups).map(PathBuf::from)
}

/// Whether the counter in `file` is above 0.
pub(super) fn has_killed(file: &PathBuf) -> bool {
    fs::read_to_string(file).is_ok_and(|text| kills(&text) > 0)
}

fn counter_file(groups: &str) -> Option<String> {
    let mut unified = None;
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        if controllers.split(',').any(|controller| controller == "memory") {
            return Some(format!("/sys/fs/cgroup/memory{path}/memory.oom_control"));
        }
        if controllers.is_empty() {
            unified = Some(format!("/sys/fs/cgroup{path}/memory.events"));
        }
    }
    unified
}

fn kills(text: &str) -> u64 {
    text.lines()
        .filter_map(|line| line.strip_prefix("oom_kill "))
        .filter_map(|count| count.trim().parse::<u64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_is_found_on_both_kinds_of_cgroups() {
        let v1 = "11:pids:/docker/ab\n5:memory:/docker/ab\n0::/docker/ab\n";
        assert_eq!(
            counter_file(v1).as_deref(),
            Some("/sys/fs/cgroup/memory/docker/ab/memory.oom_control")
        );
        let v2 = "0::/system.slice/docker-ab.scope\n";
        assert_eq!(
            counter_file(v2).as_deref(),
            Some("/sys/fs/cgroup/system.slice/docker-ab.scope/memory.events")
        );
    }

    #[test]
    fn kills_are_read_from_either_file() {
        assert_eq!(kills("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"), 1);
        assert_eq!(kills("low 0\nhigh 0\nmax 8\noom 2\noom_kill 2\noom_group_kill 0\n"), 2);
        assert_eq!(kills(""), 0);
    }
}
