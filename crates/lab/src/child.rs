//! Programs on a host.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use crate::error::Error;
use crate::host::Host;
use crate::program::Program;

/// The shell's part in starting a program: between `setpriv` and this line the parent may have died already, in which
/// case no signal will come.
const UNLESS_ORPHANED: &str = r#"[ "$PPID" = "$0" ] || exit 1; exec "$@""#;

/// A running program. Dropping it kills it; so does the end of its host, whatever ends that.
#[derive(Debug)]
pub struct Child {
    host: String,
    command: String,
    process: std::process::Child,
    /// Names the process for certain, whatever becomes of its number.
    handle: Arc<OwnedFd>,
    stdout: File,
    stderr: File,
}

/// What a program left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Host {
    /// Starts a program. It reads nothing, and what it writes is kept in memory for [`Child::wait`].
    ///
    /// # Errors
    ///
    /// Whatever the system says to a new process. A program that does not exist is a failure that [`Child::wait`] tells.
    pub fn spawn<A: AsRef<OsStr>>(
        &self,
        program: impl AsRef<OsStr>,
        args: impl IntoIterator<Item = A>,
    ) -> Result<Child, Error> {
        self.launch(program.as_ref(), args, Stdio::null())
    }

    /// Runs a program to its end, for at most `limit`.
    ///
    /// # Errors
    ///
    /// As of [`Host::spawn`], and [`Error::TimedOut`]. An end with a failure is no error here; see [`Output::status`].
    pub fn exec<A: AsRef<OsStr>>(
        &self,
        program: impl AsRef<OsStr>,
        args: impl IntoIterator<Item = A>,
        limit: Duration,
    ) -> Result<Output, Error> {
        self.spawn(program, args)?.wait(limit)
    }

    /// Feeds a script to a program's standard input and waits for its success.
    pub(crate) fn feed(&self, program: Program, args: &[&str], script: &str) -> Result<(), Error> {
        let path = program.path().ok_or(Error::Missing(program))?;
        let io_error = |source| Error::io(self.name(), "keep a script in memory", source);
        let mut file = memory("script").map_err(io_error)?;
        file.write_all(script.as_bytes()).and_then(|()| file.rewind()).map_err(io_error)?;
        self.launch(path.as_os_str(), args, file.into())?.success(Duration::from_secs(20))?;
        Ok(())
    }

    fn launch<A: AsRef<OsStr>>(
        &self,
        program: &OsStr,
        args: impl IntoIterator<Item = A>,
        stdin: Stdio,
    ) -> Result<Child, Error> {
        let setpriv = Program::Setpriv.path().ok_or(Error::Missing(Program::Setpriv))?;
        let io_error = |source| Error::io(self.name(), "start a program", source);
        let (stdout, stderr) =
            memory("stdout").and_then(|out| Ok((out, memory("stderr")?))).map_err(io_error)?;
        let copy = |file: &File| file.try_clone().map(Stdio::from).map_err(io_error);

        let mut command = Command::new(setpriv);
        command.args(["--pdeathsig", "KILL", "sh", "-c", UNLESS_ORPHANED]);
        command.arg(std::process::id().to_string()).arg(program);
        let mut shown = program.to_string_lossy().into_owned();
        for arg in args {
            command.arg(&arg);
            shown = format!("{shown} {}", arg.as_ref().to_string_lossy());
        }
        // In a group of its own, it does not hear of a Ctrl-C that is meant for us.
        command.process_group(0).stdin(stdin).stdout(copy(&stdout)?).stderr(copy(&stderr)?);
        // The death signal follows the thread that started the program, which is the host's.
        let process = self.run(move || command.spawn())?.map_err(io_error)?;
        let handle = pidfd_open(Pid::from_child(&process), PidfdFlags::empty());
        let handle = Arc::new(handle.map_err(|errno| io_error(errno.into()))?);
        self.remember(Arc::downgrade(&handle));
        let host = self.name().to_owned();
        Ok(Child { host, command: shown, process, handle, stdout, stderr })
    }
}

impl Child {
    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Whether it has ended.
    ///
    /// # Errors
    ///
    /// Whatever the system says to the question.
    pub fn has_ended(&mut self) -> Result<bool, Error> {
        Ok(self.ended_within(Duration::ZERO)?.is_some())
    }

    /// What it has written so far.
    ///
    /// # Errors
    ///
    /// Whatever the system says to reading memory back.
    pub fn written(&self) -> Result<(String, String), Error> {
        let read = |file: &File| -> io::Result<String> {
            // Its own offset: the program goes on writing at the shared one.
            let mut bytes = vec![0; usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX)];
            let read = rustix::io::retry_on_intr(|| rustix::io::pread(file, &mut bytes[..], 0))?;
            bytes.truncate(read);
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        let io_error = |source| Error::io(&self.host, "read what it wrote", source);
        Ok((read(&self.stdout).map_err(io_error)?, read(&self.stderr).map_err(io_error)?))
    }

    /// Waits for its end, for at most `limit`; then it is killed.
    ///
    /// # Errors
    ///
    /// [`Error::TimedOut`] if it had to be killed.
    pub fn wait(mut self, limit: Duration) -> Result<Output, Error> {
        let Some(status) = self.ended_within(limit)? else {
            return Err(Error::TimedOut {
                host: self.host.clone(),
                command: self.command.clone(),
                seconds: limit.as_secs(),
            });
        };
        let (stdout, stderr) = self.written()?;
        Ok(Output { status, stdout, stderr })
    }

    /// Waits for its success, for at most `limit`.
    ///
    /// # Errors
    ///
    /// As of [`Child::wait`], and [`Error::Failed`].
    pub fn success(self, limit: Duration) -> Result<Output, Error> {
        let (host, command) = (self.host.clone(), self.command.clone());
        let output = self.wait(limit)?;
        if output.status.success() {
            return Ok(output);
        }
        let message = if output.stderr.is_empty() { output.stdout } else { output.stderr };
        Err(Error::Failed {
            host,
            command,
            status: output.status,
            message: message.trim_end().into(),
        })
    }

    /// Asks it to end (SIGTERM) and waits for that, for at most `limit`; then it is killed.
    ///
    /// # Errors
    ///
    /// As of [`Child::wait`].
    pub fn stop(mut self, limit: Duration) -> Result<Output, Error> {
        if !self.has_ended()? {
            kill_process(Pid::from_child(&self.process), Signal::TERM)
                .map_err(|errno| Error::io(&self.host, "stop a program", errno.into()))?;
        }
        self.wait(limit)
    }

    fn ended_within(&mut self, limit: Duration) -> Result<Option<ExitStatus>, Error> {
        wait_for(&mut self.process, &self.handle, limit)
            .map_err(|source| Error::io(&self.host, "wait for a program", source))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Both fail only for a process that is gone.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn wait_for(
    process: &mut std::process::Child,
    handle: &OwnedFd,
    limit: Duration,
) -> io::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + limit;
    if let Some(status) = process.try_wait()? {
        return Ok(Some(status));
    }
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(handle, PollFlags::IN)], Some(&timeout)) {
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
            Ok(_) => return process.try_wait(),
        }
    }
}

fn memory(name: &str) -> io::Result<File> {
    Ok(File::from(memfd_create(name, MemfdFlags::CLOEXEC)?))
}
