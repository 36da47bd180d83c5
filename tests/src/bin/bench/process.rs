//! What the kernel tells about a process.

use std::{fs, time::Duration};

use anyhow::Context as _;

/// The kernel's clock tick in `/proc/PID/stat`: USER_HZ, 100 on every Linux that Rust supports.
const TICKS_PER_SECOND: f64 = 100.0;

/// Resident memory in MB (10⁶ bytes).
pub(crate) fn resident_mb(pid: u32) -> anyhow::Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS in /proc/PID/status")?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1024.0 / 1e6)
}

/// Processor time that a process uses during `span`, in percent of one core.
pub(crate) fn load_percent(pid: u32, span: Duration) -> anyhow::Result<f64> {
    let before = ticks(pid)?;
    std::thread::sleep(span);
    Ok((ticks(pid)? - before) / TICKS_PER_SECOND / span.as_secs_f64() * 100.0)
}

/// Processor time that a process and its children have used, in seconds.
pub(crate) fn used_seconds(pid: u32) -> anyhow::Result<f64> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let all = children.split_whitespace().filter_map(|child| child.parse().ok()).chain([pid]);
    Ok(all.map(|pid| ticks(pid).unwrap_or(0.0)).sum::<f64>() / TICKS_PER_SECOND)
}

fn ticks(pid: u32) -> anyhow::Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may hold anything; utime and stime are the 12th and 13th field behind it.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let tick = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).context("/proc/PID/stat is cut");
    Ok(tick(11)? + tick(12)?)
}
