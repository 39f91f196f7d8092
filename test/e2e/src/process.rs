//! A long-running process under test: its group, its log, its death.
//!
//! It leads a process group of its own, so that a kill reaches all it started, and it gets SIGKILL
//! when the test's thread ends in whatever way.

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A running process; killed with its group when dropped.
#[derive(Debug)]
pub struct Service {
    name: String,
    log: PathBuf,
    child: Child,
    ended: Option<ExitStatus>,
}

impl Service {
    /// Starts `program` with its output appended to `log`.
    ///
    /// # Errors
    ///
    /// If the log cannot be opened or the program not be started.
    pub fn start<I, S>(name: &str, log: &Path, program: &Path, args: I) -> Result<Self>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let output: File = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("opening {}", log.display()))?;
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program)
            .args(args)
            .env("RUST_BACKTRACE", "1")
            // Tests that listen where others could reach them mean it; those of identities do not.
            .env("ASHLAR_INSECURE", "1")
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        Ok(Self {
            name: name.to_owned(),
            log: log.to_owned(),
            child,
            ended: None,
        })
    }

    /// Its process id, which is its group's, too.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().ok().flatten();
        }
        self.ended.is_none()
    }

    /// Sends `signal` to its group.
    pub fn signal(&mut self, signal: Signal) {
        if self.is_running() {
            let group = i32::try_from(self.child.id()).expect("a pid fits");
            // It may have ended in between.
            let _ = killpg(Pid::from_raw(group), signal);
        }
    }

    /// Kills its group with SIGKILL and waits for the end.
    pub fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        if self.ended.is_none() {
            self.ended = self.child.wait().ok();
        }
    }

    /// Stops its group in the middle of whatever it does: it hangs, its connections stay.
    pub fn pause(&mut self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Lets it go on.
    pub fn resume(&mut self) {
        self.signal(Signal::SIGCONT);
    }

    /// Sends SIGTERM and waits.
    ///
    /// # Errors
    ///
    /// If it has not ended within `limit`; then it is killed.
    pub fn stop(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM);
        self.wait(limit)
    }

    /// Waits for the end.
    ///
    /// # Errors
    ///
    /// If it has not ended within `limit`; then it is killed.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        while self.is_running() {
            if Instant::now() > deadline {
                self.kill();
                bail!(
                    "{} did not end within {limit:?}; its log:\n{}",
                    self.name,
                    self.log_tail()
                );
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.ended.context("the process has no exit status")
    }

    /// Processor time that it has used since it started.
    ///
    /// # Errors
    ///
    /// If it does not run.
    pub fn cpu_time(&self) -> Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // The second field is the name in parentheses; 14 and 15 are user and system ticks of 10 ms.
        let after_name = stat.rsplit_once(')').context("no name in stat")?.1;
        let mut fields = after_name.split_whitespace().skip(11);
        let mut ticks = 0;
        for _ in 0..2 {
            ticks += fields.next().context("stat is short")?.parse::<u64>()?;
        }
        Ok(Duration::from_millis(ticks * 10))
    }

    /// Memory that it has in use.
    ///
    /// # Errors
    ///
    /// If it does not run.
    pub fn resident_bytes(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        Ok(kib.context("no VmRSS")?.parse::<u64>()? << 10)
    }

    /// How many files and sockets it has open.
    ///
    /// # Errors
    ///
    /// If it does not run.
    pub fn open_files(&self) -> Result<usize> {
        Ok(std::fs::read_dir(format!("/proc/{}/fd", self.child.id()))?.count())
    }

    /// Its threads' names, and how often each has waited for something to do.
    ///
    /// # Errors
    ///
    /// If it does not run.
    pub fn threads(&self) -> Result<Vec<(String, u64)>> {
        let mut threads = Vec::new();
        for task in std::fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let status = std::fs::read_to_string(task?.path().join("status"))?;
            let field = |name: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(name));
                line.map(str::trim)
                    .with_context(|| format!("no {name} in {status}"))
            };
            let waits = field("voluntary_ctxt_switches:")?.parse()?;
            threads.push((field("Name:")?.to_owned(), waits));
        }
        threads.sort();
        Ok(threads)
    }

    /// All of its output so far.
    #[must_use]
    pub fn log(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The last lines of its output.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let state = if self.is_running() {
            "was running"
        } else {
            "had ended"
        };
        self.kill();
        // Shown only if the test fails.
        eprintln!(
            "--- {} {state} ({:?}); its log:\n{}",
            self.name,
            self.ended,
            self.log_tail()
        );
    }
}

/// Kills a process group with SIGKILL, if it is still there.
pub fn kill_group(leader: u32) {
    signal_group(leader, Signal::SIGKILL);
}

/// Stops the group that a process leads with SIGSTOP, until it is resumed.
pub fn pause_group(leader: u32) {
    signal_group(leader, Signal::SIGSTOP);
}

fn signal_group(leader: u32, signal: Signal) {
    if let Ok(leader) = i32::try_from(leader) {
        let _ = killpg(Pid::from_raw(leader), signal);
    }
}

/// Polls until `probe` gives something.
///
/// # Errors
///
/// The probe's last error once `limit` has passed.
pub fn wait_for<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        match probe() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() > deadline => {
                return Err(error.context(format!("waited {limit:?} for {what}")));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(30)),
        }
    }
}
