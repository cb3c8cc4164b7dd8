//! What the kernel tells of processes and of the machine under /proc.

use std::fs;
use std::thread;

use anyhow::{Context, Result};

/// Clock ticks of `/proc/stat` in a second: USER_HZ, 100 on every architecture that we build for.
const TICKS: f64 = 100.0;

/// The seconds that all processors of the machine were busy since it started (proc_stat(5)).
///
/// # Errors
///
/// If /proc is not there.
pub fn busy() -> Result<f64> {
    let stat = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
    busy_in(&stat).context("/proc/stat has no line for all processors")
}

/// The resident memory of a process, in megabytes of 1,000,000 bytes.
///
/// # Errors
///
/// If the process is gone.
pub fn memory(process: u32) -> Result<f64> {
    of_status(process, "VmRSS:")
}

/// The most that it ever was.
///
/// # Errors
///
/// If the process is gone.
pub fn peak_memory(process: u32) -> Result<f64> {
    of_status(process, "VmHWM:")
}

/// The seconds that a process's threads were on a processor, to the nanosecond (`/proc/PID/task/TID/schedstat`).
///
/// # Errors
///
/// If the process is gone.
pub fn processor_time(process: u32) -> Result<f64> {
    let tasks = format!("/proc/{process}/task");
    let tasks = fs::read_dir(&tasks).with_context(|| format!("cannot read {tasks}"))?;
    let mut nanoseconds = 0.0;
    for task in tasks {
        // A thread that has ended meanwhile is left out.
        let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
        nanoseconds += running_in(&text).context("a thread's schedstat has no number")?;
    }
    Ok(nanoseconds / 1e9)
}

/// The processors and the kernel of this machine, in one line.
pub fn machine() -> String {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let model = model_in(&read("/proc/cpuinfo")).unwrap_or_else(|| "unnamed processor".to_owned());
    let release = read("/proc/sys/kernel/osrelease");
    // What stands behind the first dash names the build.
    let version = release.trim().split('-').next().unwrap_or_default();
    format!("{processors} x {model}, Linux {version}")
}

fn busy_in(stat: &str) -> Option<f64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<f64> = line.split_whitespace().map_while(|word| word.parse().ok()).collect();
    // user, nice, system, (idle, iowait,) irq, softirq; guests are part of user, and steal is nobody's work here.
    let [user, nice, system, _, _, irq, softirq, ..] = ticks[..] else { return None };
    Some((user + nice + system + irq + softirq) / TICKS)
}

fn of_status(process: u32, field: &str) -> Result<f64> {
    let path = format!("/proc/{process}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    megabytes_in(&status, field).with_context(|| format!("{path} has no {field}"))
}

/// Reads a line such as `VmHWM:    62500 kB` (proc_pid_status(5)).
fn megabytes_in(status: &str, field: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kibibytes: f64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes * 1024.0 / 1e6)
}

/// The first number of a schedstat: nanoseconds on a processor (the kernel's Documentation/scheduler/sched-stats.rst).
fn running_in(schedstat: &str) -> Option<f64> {
    schedstat.split_whitespace().next()?.parse().ok()
}

fn model_in(cpuinfo: &str) -> Option<String> {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn idle_time_is_not_busy() {
        let stat = "cpu  100 50 200 9000 80 10 40 7 30 0\ncpu0 1 2 3 4 5 6 7 8 9 0\n";
        assert_eq!(busy_in(stat), Some(4.0));
        assert_eq!(busy_in("intr 5\n"), None);
    }

    #[test]
    fn memory_is_read_by_field() {
        let status = "Name:\twireloom\nVmPeak:\t  123 kB\nVmHWM:\t   62500 kB\nVmRSS:\t 125 kB\n";
        assert_eq!(megabytes_in(status, "VmHWM:"), Some(64.0));
        assert_eq!(megabytes_in(status, "VmRSS:"), Some(0.128));
        assert_eq!(megabytes_in("Name:\tkthreadd\n", "VmHWM:"), None);
    }

    #[test]
    fn time_on_a_processor_is_counted() {
        let mut busy = Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut used = 0.0;
        while used < 0.005 && Instant::now() < deadline {
            used = processor_time(busy.id()).unwrap();
        }
        busy.kill().unwrap();
        busy.wait().unwrap();
        assert!(used >= 0.005, "{used} s of a program that does nothing else");
        assert_eq!(running_in("78191 77797 2\n"), Some(78191.0));
        assert!(processor_time(u32::MAX).is_err());
    }

    #[test]
    fn the_processor_is_named() {
        let text = "processor\t: 0\nmodel name\t: Some Processor 9\n";
        assert_eq!(model_in(text).as_deref(), Some("Some Processor 9"));
        assert!(machine().contains("Linux "));
    }
}
