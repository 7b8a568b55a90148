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

/// The kernel's clock ticks a second in /proc/PID/stat (`getconf CLK_TCK`): 100 on every Linux this runs on.
const TICKS: f64 = 100.0;

/// Seconds of processor time, of its threads that have ended too, in hundredths (proc(5), fields 14 and 15 of stat).
///
/// # Errors
/// A sentence when the process is not there.
pub(super) fn processor_s(process: u32) -> Result<f64, String> {
    let path = format!("/proc/{process}/stat");
    let stat = std::fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
    // The name in parentheses may hold spaces.
    let rest = stat.rsplit(')').next().unwrap_or_default();
    let field = |at: usize| rest.split_whitespace().nth(at).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    Ok((field(11) + field(12)) / TICKS)
}

/// Seconds of processor time of those of its living threads that have such a name, to the nanosecond.
///
/// # Errors
/// A sentence when the process is not there.
pub(super) fn threads_s(process: u32, counts: impl Fn(&str) -> bool) -> Result<f64, String> {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).map_err(|e| format!("{process}: {e}"))?;
    let read = |task: &std::fs::DirEntry, file| std::fs::read_to_string(task.path().join(file)).unwrap_or_default();
    let counted = tasks.flatten().filter(|task| counts(read(task, "comm").trim_end()));
    let nanoseconds = counted.map(|task| {
        let text = read(&task, "schedstat");
        text.split_whitespace().next().and_then(|n| n.parse::<f64>().ok()).unwrap_or_default()
    });
    Ok(nanoseconds.sum::<f64>() / 1e9)
}

/// Bytes that it has had written to storage (proc(5), `write_bytes` of io). Of others' processes only root hears.
///
/// # Errors
/// A sentence when it is not said.
pub(super) fn written_bytes(process: u32) -> Result<f64, String> {
    let path = format!("/proc/{process}/io");
    let io = std::fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
    let bytes = io.lines().find_map(|line| line.strip_prefix("write_bytes:")?.trim().parse().ok());
    bytes.ok_or_else(|| format!("{path} has no write_bytes"))
}

/// Processes of this name.
pub(super) fn named(name: &str) -> Vec<u32> {
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let is_named = |process: &u32| {
        std::fs::read_to_string(format!("/proc/{process}/comm")).is_ok_and(|comm| comm.trim_end() == name)
    };
    all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_named).collect()
}
