//! All unsafe code: system calls that no safe wrapper offers, each behind a safe function.

use std::ffi::{c_int, c_uint, c_void};
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd};
use std::ptr;

use crate::udp::address::SocketName;
use crate::udp::control::ControlBuffer;

/// The messages that one call receives or sends at most.
pub(crate) const MESSAGES: usize = 32;

/// What the kernel says of a received message.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Arrival {
    /// Where it came from.
    pub(crate) name: SocketName,
    /// The control messages beside it.
    pub(crate) control: ControlBuffer,
    /// Its bytes.
    pub(crate) length: usize,
    /// Whether it was longer than its place.
    pub(crate) truncated: bool,
}

/// A message to send.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Departure<'a> {
    /// Where it goes.
    pub(crate) name: SocketName,
    /// The control messages beside it.
    pub(crate) control: ControlBuffer,
    /// Its bytes.
    pub(crate) bytes: &'a [u8],
}

/// Receives messages that are there, without waiting, each into its own `room` bytes of `bytes`, and returns how many
/// (recvmmsg(2)).
pub(crate) fn receive_many(
    fd: BorrowedFd<'_>,
    bytes: &mut [u8],
    room: usize,
    arrivals: &mut [Arrival; MESSAGES],
) -> io::Result<usize> {
    let mut vectors = [EMPTY_VECTOR; MESSAGES];
    let mut headers = [EMPTY_HEADER; MESSAGES];
    let mut count: c_uint = 0;
    for (((place, arrival), vector), header) in
        bytes.chunks_exact_mut(room).zip(arrivals.iter_mut()).zip(&mut vectors).zip(&mut headers)
    {
        *vector = libc::iovec { iov_base: place.as_mut_ptr().cast(), iov_len: place.len() };
        let (name, name_room) = arrival.name.as_raw_mut();
        let (control, control_room) = arrival.control.as_raw_mut();
        fill(&mut header.msg_hdr, (name, name_room), vector, (control, control_room));
        count += 1;
    }
    // SAFETY: the first `count` headers point to names, vectors, places and control buffers of the lengths that they
    // state, all of which are borrowed mutably until this function returns.
    let received = unsafe {
        libc::recvmmsg(
            fd.as_raw_fd(),
            headers.as_mut_ptr(),
            count,
            libc::MSG_DONTWAIT as _,
            ptr::null_mut(),
        )
    };
    let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
    for (arrival, header) in arrivals.iter_mut().zip(&headers).take(received) {
        arrival.name.set_length(header.msg_hdr.msg_namelen as usize);
        // The type of this field differs between C libraries.
        #[allow(clippy::unnecessary_cast)]
        arrival.control.set_length(header.msg_hdr.msg_controllen as usize);
        arrival.length = (header.msg_len as usize).min(room);
        arrival.truncated = header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
    }
    Ok(received)
}

/// Sends messages, at most [`MESSAGES`] of them, and returns how many were taken whole: an error is returned only when
/// the first one is refused (sendmmsg(2)).
pub(crate) fn send_many(fd: BorrowedFd<'_>, departures: &[Departure<'_>]) -> io::Result<usize> {
    let mut vectors = [EMPTY_VECTOR; MESSAGES];
    let mut headers = [EMPTY_HEADER; MESSAGES];
    let mut count: c_uint = 0;
    for ((departure, vector), header) in departures.iter().zip(&mut vectors).zip(&mut headers) {
        *vector = libc::iovec {
            iov_base: departure.bytes.as_ptr().cast_mut().cast(),
            iov_len: departure.bytes.len(),
        };
        let (name, name_length) = departure.name.as_raw();
        let (control, control_length) = departure.control.as_raw();
        fill(
            &mut header.msg_hdr,
            (name.cast_mut(), name_length),
            vector,
            (control.cast_mut(), control_length),
        );
        count += 1;
    }
    // SAFETY: the first `count` headers point to names, vectors, bytes and control messages of the lengths that they
    // state, all of which outlive the call; sendmmsg reads them and writes only the headers' `msg_len`.
    let sent = unsafe {
        libc::sendmmsg(fd.as_raw_fd(), headers.as_mut_ptr(), count, libc::MSG_NOSIGNAL as _)
    };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

const EMPTY_VECTOR: libc::iovec = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };

// SAFETY: every field of `mmsghdr` is an integer or a pointer, for which zero is a value.
const EMPTY_HEADER: libc::mmsghdr = unsafe { mem::zeroed() };

fn fill(
    header: &mut libc::msghdr,
    (name, name_length): (*mut u8, usize),
    vector: &mut libc::iovec,
    (control, control_length): (*mut u8, usize),
) {
    header.msg_name = name.cast();
    header.msg_namelen = name_length as libc::socklen_t;
    header.msg_iov = vector;
    header.msg_iovlen = 1;
    header.msg_control = if control_length == 0 { ptr::null_mut() } else { control.cast() };
    header.msg_controllen = control_length as _;
}

/// Sets a socket option that is one integer (setsockopt(2)).
pub(crate) fn set_option(
    fd: BorrowedFd<'_>,
    level: c_int,
    name: c_int,
    value: c_int,
) -> io::Result<()> {
    // SAFETY: the pointer and the length are those of `value`, which outlives the call.
    check(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            ptr::from_ref(&value).cast(),
            size_of::<c_int>() as libc::socklen_t,
        )
    })
}

/// Lets a classic BPF program choose which socket of a group gets a datagram (`SO_ATTACH_REUSEPORT_CBPF`, socket(7)). The
/// socket is one of a group already.
pub(crate) fn steer(fd: BorrowedFd<'_>, program: &[libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the pointer and the length are those of `program`, which points to as many instructions as it says; both
    // outlive the call, which copies them and writes nothing.
    check(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            ptr::from_ref(&program).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    })
}

/// An interface's name as the kernel passes it around: 15 bytes at most and a zero.
pub(crate) type InterfaceName = [u8; libc::IFNAMSIZ];

/// Makes the TUN device of this name, or attaches to it, as the flags say; returns its name (`TUNSETIFF`).
pub(crate) fn tun_set_interface(
    tun: BorrowedFd<'_>,
    name: &InterfaceName,
    flags: c_int,
) -> io::Result<InterfaceName> {
    let mut request = request(name);
    request.ifr_ifru.ifru_flags = flags as _;
    interface_ioctl(tun, libc::TUNSETIFF, &mut request)?;
    Ok(name_of(&request))
}

/// The name and flags of the TUN device that the descriptor is attached to (`TUNGETIFF`).
pub(crate) fn tun_interface(tun: BorrowedFd<'_>) -> io::Result<(InterfaceName, c_int)> {
    let mut request = request(&[0; libc::IFNAMSIZ]);
    interface_ioctl(tun, libc::TUNGETIFF, &mut request)?;
    // SAFETY: TUNGETIFF fills the flags, and all bits are valid in an integer.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    Ok((name_of(&request), c_int::from(flags) & 0xffff))
}

/// Sets the length of the virtio-net header (`TUNSETVNETHDRSZ`).
pub(crate) fn tun_set_header_bytes(tun: BorrowedFd<'_>, bytes: usize) -> io::Result<()> {
    let bytes = bytes as c_int;
    // SAFETY: the request reads one integer from the pointer, which is valid during the call.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETVNETHDRSZ, ptr::from_ref(&bytes)) })
}

/// Says which unfinished packets the reader of the device takes (`TUNSETOFFLOAD`).
pub(crate) fn tun_set_offload(tun: BorrowedFd<'_>, features: c_uint) -> io::Result<()> {
    // SAFETY: the request takes its argument by value and touches no memory.
    check(unsafe {
        libc::ioctl(tun.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(features))
    })
}

/// An interface's MTU in bytes (`SIOCGIFMTU`).
pub(crate) fn interface_mtu(socket: BorrowedFd<'_>, name: &InterfaceName) -> io::Result<u32> {
    let mut request = request(name);
    interface_ioctl(socket, libc::SIOCGIFMTU, &mut request)?;
    // SAFETY: SIOCGIFMTU fills the MTU, and all bits are valid in an integer.
    Ok(unsafe { request.ifr_ifru.ifru_mtu }.unsigned_abs())
}

/// Sets an interface's MTU in bytes (`SIOCSIFMTU`).
pub(crate) fn set_interface_mtu(
    socket: BorrowedFd<'_>,
    name: &InterfaceName,
    mtu: u32,
) -> io::Result<()> {
    let mut request = request(name);
    request.ifr_ifru.ifru_mtu = mtu as c_int;
    interface_ioctl(socket, libc::SIOCSIFMTU, &mut request)
}

/// Sets the packets that may wait for the interface's reader (`SIOCSIFTXQLEN`).
pub(crate) fn set_interface_queue(
    socket: BorrowedFd<'_>,
    name: &InterfaceName,
    packets: u32,
) -> io::Result<()> {
    let mut request = request(name);
    // The queue's length shares its place with the metric.
    request.ifr_ifru.ifru_metric = packets as c_int;
    interface_ioctl(socket, libc::SIOCSIFTXQLEN, &mut request)
}

/// The driver behind an interface, for example `tun` or `veth` (`ETHTOOL_GDRVINFO`).
pub(crate) fn interface_driver(socket: BorrowedFd<'_>, name: &InterfaceName) -> io::Result<String> {
    /// `struct ethtool_drvinfo`, 196 bytes: the command, then the driver's name in 32 bytes, then what is not read.
    #[repr(C)]
    struct DriverInfo {
        command: u32,
        driver: [u8; 32],
        rest: [u8; 160],
    }
    const ETHTOOL_GDRVINFO: u32 = 3;
    let mut info = DriverInfo { command: ETHTOOL_GDRVINFO, driver: [0; 32], rest: [0; 160] };
    let mut request = request(name);
    request.ifr_ifru.ifru_data = ptr::from_mut(&mut info).cast();
    interface_ioctl(socket, libc::SIOCETHTOOL as libc::Ioctl, &mut request)?;
    Ok(text(&info.driver))
}

fn request(name: &InterfaceName) -> libc::ifreq {
    // SAFETY: every field of `ifreq` is an integer, a pointer or an array of them, for which zero is a value.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(name.iter().take(libc::IFNAMSIZ - 1)) {
        *place = *byte as _;
    }
    request
}

fn name_of(request: &libc::ifreq) -> InterfaceName {
    request.ifr_name.map(|byte| byte as u8)
}

/// The text before the first zero byte.
pub(crate) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

fn interface_ioctl(
    fd: BorrowedFd<'_>,
    operation: libc::Ioctl,
    request: &mut libc::ifreq,
) -> io::Result<()> {
    let request: *mut c_void = ptr::from_mut(request).cast();
    // SAFETY: all operations passed here take an `ifreq`, which is valid and borrowed during the call; the only pointer
    // in one (`ifru_data`, SIOCETHTOOL) is to a structure of the size that its command asks for.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), operation, request) })
}

/// A new descriptor for what the descriptor with this number is open for (fcntl(2), `F_DUPFD_CLOEXEC`).
pub(crate) fn duplicate(number: c_int) -> io::Result<OwnedFd> {
    // SAFETY: the call takes integers only; on a number that is not open it fails.
    let fd = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 0) };
    check(fd)?;
    // SAFETY: the descriptor was made by the call above, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn check(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
