//! What a process uses of the machine, as the kernel counts it.

/// Resident memory, in kibibytes.
///
/// # Errors
/// A sentence when the process is not there.
pub(super) fn resident_kib(process: u32) -> Result<u64, String> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).map_err(|e| e.to_string())?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    line.split_whitespace().next().and_then(|n| n.parse().ok()).ok_or_else(|| format!("VmRSS {line}"))
}

/// Seconds of processor time of all its threads that still live.
///
/// # Errors
/// A sentence when the process is not there.
pub(super) fn processor_s(process: u32) -> Result<f64, String> {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).map_err(|e| format!("{process}: {e}"))?;
    let nanoseconds = tasks.flatten().map(|task| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        text.split_whitespace().next().and_then(|n| n.parse::<f64>().ok()).unwrap_or_default()
    });
    Ok(nanoseconds.sum::<f64>() / 1e9)
}
