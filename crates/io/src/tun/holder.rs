//! Who holds a TUN device, for the error that says so.

use std::fs;
use std::path::Path;

/// The process that has a descriptor of the TUN device of this name, as `NAME (pid N)`. The kernel tells it in
/// `/proc/PID/fdinfo/FD`; other processes of the same user only, unless we are root.
pub(super) fn find(device: &str) -> Option<String> {
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let process = entry.path();
        let mut infos = fs::read_dir(process.join("fdinfo")).ok()?.flatten();
        infos.any(|info| is_of(&info.path(), device)).then(|| {
            let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
            format!("{} (pid {pid})", name.trim())
        })
    })
}

fn is_of(info: &Path, device: &str) -> bool {
    fs::read_to_string(info).is_ok_and(|text| {
        text.lines().filter_map(|line| line.strip_prefix("iff:")).any(|name| name.trim() == device)
    })
}
