//! A small virtual machine with a kernel of its own, for what the kernel below a test may lack: IPIP, netem, its own
//! WireGuard.

mod archive;

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use archive::Archive;
use tempfile::TempDir;

use crate::need::{built, find_program};

/// How long it may take to boot: 3 s of one core's time, shared with whatever else runs.
const BOOT: Duration = Duration::from_secs(180);

/// How long a script may run.
const SCRIPT: Duration = Duration::from_secs(120);

/// What emulates the machine. It needs no support for virtualisation, which machines in clouds seldom have.
const QEMU: &str = "qemu-system-x86_64";

/// It ends when it fails, guards nothing against itself, and does not take an emulator that must wait for its turn for a
/// broken timer.
const KERNEL_OPTIONS: &str =
    "console=ttyS0 quiet panic=-1 mitigations=off nowatchdog no_timer_check";

/// What every machine has beside its kernel and modules.
const BUSYBOX: &str = "busybox";

/// The number of the next network device among all machines of this process.
static NEXT_DEVICE: AtomicU16 = AtomicU16::new(0);

/// A virtual machine, running. Dropping it ends it; so does the end of the thread that booted it.
///
/// It has Debian's kernel for clouds with all modules for networks, busybox, and the programs that it was given.
#[derive(Debug)]
pub struct Vm {
    qemu: Child,
    control: Mutex<UnixStream>,
    folder: TempDir,
}

/// What a script left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmOutput {
    /// Its exit status.
    pub status: u8,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

#[expect(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test's helper: its failure is the test's failure"
)]
impl Vm {
    /// Boots a machine with programs of this one, by name or path, in its `/bin`.
    ///
    /// Each of `links` becomes a link (tap) in the network namespace of the calling thread, whose other end is the
    /// machine's `eth0`, `eth1` and so on. It may be moved to another namespace later.
    ///
    /// # Panics
    ///
    /// If it does not boot; see [`need!(vm)`](crate::need).
    pub fn boot<P: AsRef<Path>>(links: &[&str], programs: &[P]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("initramfs");
        pack(programs).and_then(|archive| archive.write(create(&image)?)).expect("an image");
        let (control, guest) = UnixStream::pair().unwrap();
        let mut qemu = Command::new("setpriv");
        qemu.args(["--pdeathsig", "KILL", QEMU, "-machine", "pc", "-accel", "tcg", "-m", "512"])
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
            .arg("-kernel")
            .arg(kernel_directory().join("vmlinuz"))
            .args(["-append", KERNEL_OPTIONS])
            .arg("-initrd")
            .arg(&image)
            .arg("-serial")
            .arg(format!("file:{}", console(&folder).display()))
            .args(["-chardev", "stdio,id=control,signal=off", "-device", "virtio-serial"])
            .args(["-device", "virtserialport,chardev=control", "-device", "virtio-rng"]);
        for link in links {
            let [high, low] = NEXT_DEVICE.fetch_add(1, Ordering::Relaxed).to_be_bytes();
            qemu.arg("-netdev")
                .arg(format!("tap,id={link},ifname={link},script=no,downscript=no"))
                .arg("-device")
                .arg(format!("virtio-net,netdev={link},mac=02:77:6c:00:{high:02x}:{low:02x}"));
        }
        let complaints = File::create(complaints(&folder)).unwrap();
        let port = OwnedFd::from(guest);
        qemu.stdin(port.try_clone().unwrap()).stdout(port).stderr(complaints);
        let qemu = qemu.spawn().expect("setpriv and qemu are there");
        let vm = Self { qemu, control: Mutex::new(control), folder };
        let ready = vm.with_control(BOOT, |control| line(control));
        assert_eq!(ready, "ready", "{}", vm.log());
        vm
    }

    /// Runs a shell script to its end.
    ///
    /// # Panics
    ///
    /// If the machine is gone, or the script does not end within two minutes.
    pub fn run(&self, script: &str) -> VmOutput {
        self.feed(script, b"")
    }

    /// Runs a script with this standard input.
    ///
    /// # Panics
    ///
    /// As [`run`](Self::run).
    pub fn feed(&self, script: &str, input: &[u8]) -> VmOutput {
        self.with_control(SCRIPT, |control| {
            let request = format!("{} {}\n{script}", script.len(), input.len());
            control.write_all(&[request.as_bytes(), input].concat())?;
            let answer = line(control)?;
            let numbers: Vec<usize> = answer.split(' ').map_while(|n| n.parse().ok()).collect();
            let [status, stdout, stderr] = numbers[..] else {
                return Err(io::Error::other(format!("the machine answers {answer:?}")));
            };
            let mut text = |length| {
                let mut bytes = vec![0; length];
                control.read_exact(&mut bytes)?;
                Ok::<_, io::Error>(String::from_utf8_lossy(&bytes).into_owned())
            };
            let status = u8::try_from(status).map_err(io::Error::other)?;
            Ok(VmOutput { status, stdout: text(stdout)?, stderr: text(stderr)? })
        })
    }

    /// Runs a script that must succeed and returns its standard output.
    ///
    /// # Panics
    ///
    /// As [`run`](Self::run), and if it fails.
    pub fn ok(&self, script: &str) -> String {
        let VmOutput { status, stdout, stderr } = self.run(script);
        assert_eq!(status, 0, "in the machine: {script}: {stdout}{stderr}");
        stdout
    }

    /// Writes a file, and the directories above it.
    ///
    /// # Panics
    ///
    /// As [`ok`](Self::ok).
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let script = format!("mkdir -p \"$(dirname {path})\" && cat > {path}");
        let written = self.feed(&script, content.as_ref());
        assert_eq!(written.status, 0, "{path}: {}", written.stderr);
    }

    /// What its kernel has said so far, and what qemu complained of.
    pub fn log(&self) -> String {
        let read = |path| fs::read(path).unwrap_or_default();
        let bytes = [read(console(&self.folder)), read(complaints(&self.folder))].concat();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn with_control<T>(
        &self,
        limit: Duration,
        talk: impl FnOnce(&mut Bounded<'_>) -> io::Result<T>,
    ) -> T {
        let control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        let mut control = Bounded { stream: &control, deadline: Instant::now() + limit };
        talk(&mut control)
            .unwrap_or_else(|error| panic!("the virtual machine: {error}\n{}", self.log()))
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("the virtual machine's log:\n{}", self.log());
        }
        // Both fail only for one that is gone.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

/// A stream of which every read ends by a deadline.
struct Bounded<'a> {
    stream: &'a UnixStream,
    deadline: Instant,
}

impl Read for Bounded<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        self.stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        match self.stream.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time"))
            }
            other => other,
        }
    }
}

impl Write for Bounded<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// Reads one line, byte by byte: what follows it is not ours to take.
fn line(from: &mut impl Read) -> io::Result<String> {
    let mut text = Vec::new();
    let mut byte = [0];
    loop {
        from.read_exact(&mut byte)?;
        if byte == *b"\n" {
            return String::from_utf8(text).map_err(io::Error::other);
        }
        text.push(byte[0]);
    }
}

/// Whether this machine has what a virtual one is made of.
pub(crate) fn is_possible() -> bool {
    [QEMU, BUSYBOX].into_iter().all(|program| find_program(program).is_some())
        && kernel_directory().join("vmlinuz").is_file()
}

/// Where `cargo xtask install` puts the kernel.
fn kernel_directory() -> PathBuf {
    built("vm")
}

fn pack<P: AsRef<Path>>(programs: &[P]) -> io::Result<Archive> {
    let mut archive = Archive::default();
    archive.add(Path::new("/init"), include_bytes!("vm/init").to_vec());
    archive.add_tree(&kernel_directory().join("lib"), Path::new("/lib"))?;
    let mut add = |program: &Path, directory: &str| {
        let missing =
            || io::Error::new(io::ErrorKind::NotFound, format!("{} is missing", program.display()));
        let file = find_program(program).ok_or_else(missing)?;
        let name = program.file_name().ok_or_else(missing)?;
        archive.add_program(&file, &Path::new(directory).join(name))
    };
    add(Path::new(BUSYBOX), "/busybox")?;
    // Busybox's own shell takes its applets for the programs of the same name.
    add(Path::new("sh"), "/bin")?;
    programs.iter().try_for_each(|program| add(program.as_ref(), "/bin"))?;
    for directory in ["/dev", "/proc", "/sys"] {
        archive.add_directory(Path::new(directory));
    }
    Ok(archive)
}

fn create(path: &Path) -> io::Result<BufWriter<File>> {
    File::create(path).map(BufWriter::new)
}

fn console(folder: &TempDir) -> PathBuf {
    folder.path().join("console")
}

fn complaints(folder: &TempDir) -> PathBuf {
    folder.path().join("qemu")
}
