//! Who holds a UDP port, so that "address in use" can name them.

use std::path::Path;
use std::{fmt, fs};

use wireloom_model::Family;

/// Who holds a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortOwner {
    /// The kernel itself (a kernel WireGuard device, for one), or a process that cannot be seen from here.
    Hidden,
    /// A process.
    Process {
        /// Its number.
        pid: u32,
        /// Its program's name as the kernel keeps it: 15 bytes at most.
        program: String,
    },
}

impl fmt::Display for PortOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hidden => f.write_str("the kernel, or a process that cannot be seen from here"),
            Self::Process { pid, program } => write!(f, "{program} (process {pid})"),
        }
    }
}

/// Who holds this UDP port in the calling thread's network namespace. `None` if nobody does.
///
/// A socket of this family is looked for first, then one of the other: an IPv6 socket may hold the port for both.
pub fn port_owner(port: u16, family: Family) -> Option<PortOwner> {
    let tables = match family {
        Family::V4 => ["udp", "udp6"],
        Family::V6 => ["udp6", "udp"],
    };
    // Not /proc/net: it shows the namespace of the process's first thread.
    let inode = tables.iter().find_map(|table| {
        let text = fs::read_to_string(Path::new("/proc/thread-self/net").join(table)).ok()?;
        socket_inode(&text, port)
    })?;
    Some(process_with(inode).unwrap_or(PortOwner::Hidden))
}

/// The inode of the first socket on this port in the text of `/proc/net/udp` or `udp6` (proc_net(5)).
fn socket_inode(table: &str, port: u16) -> Option<u64> {
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (_, local_port) = fields.next()?.rsplit_once(':')?;
        // Behind the local address: remote address, state, queues, timer, retransmits, uid, timeout.
        let inode = fields.nth(7)?;
        (u16::from_str_radix(local_port, 16) == Ok(port)).then(|| inode.parse().ok())?
    })
}

fn process_with(inode: u64) -> Option<PortOwner> {
    let wanted = format!("socket:[{inode}]");
    let mut pids: Vec<u32> = fs::read_dir("/proc")
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    // The oldest holder opened it; the others were given it.
    pids.sort_unstable();
    pids.into_iter().find_map(|pid| {
        let process = Path::new("/proc").join(pid.to_string());
        let holds = fs::read_dir(process.join("fd"))
            .ok()?
            .flatten()
            .any(|fd| fs::read_link(fd.path()).is_ok_and(|to| to.as_os_str() == wanted.as_str()));
        let program = fs::read_to_string(process.join("comm")).unwrap_or_default();
        holds.then(|| PortOwner::Process { pid, program: program.trim_end().to_owned() })
    })
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::process;

    use super::*;

    const TABLE: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
  101: 0100007F:0143 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 1111 2 0000000000000000 0
  202: 00000000000000000000000000000000:CA6C 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000  1000        0 2222 2 0000000000000000 0
  cut: 00000000:0001
";

    #[test]
    fn a_ports_inode_is_found_in_either_familys_table() {
        assert_eq!(socket_inode(TABLE, 323), Some(1111));
        assert_eq!(socket_inode(TABLE, 51820), Some(2222));
        assert_eq!(socket_inode(TABLE, 1), None);
        assert_eq!(socket_inode("", 323), None);
    }

    #[test]
    fn a_port_of_this_process_names_it() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        for family in Family::BOTH {
            let Some(PortOwner::Process { pid, program }) = port_owner(port, family) else {
                panic!("nobody holds port {port}");
            };
            assert_eq!(pid, process::id());
            assert!(!program.is_empty());
        }
    }
}
