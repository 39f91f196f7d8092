//! Stock clients and our own commands: run with a limit, output kept.

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a tool may take unless it is told otherwise.
const LIMIT: Duration = Duration::from_secs(120);

/// A command to run to its end.
#[derive(Debug)]
pub struct Tool {
    command: Command,
    stdin: Vec<u8>,
    limit: Duration,
}

/// A command that has ended by itself.
#[derive(Debug)]
pub struct Finished {
    /// The command line, for messages.
    pub line: String,
    /// How it ended.
    pub status: ExitStatus,
    /// What it printed.
    pub stdout: String,
    /// What it complained of.
    pub stderr: String,
    /// How long it ran.
    pub elapsed: Duration,
}

impl Tool {
    /// `program`, looked up in the system's directories first: some tools come with the system's
    /// Python, which need not be the first on the path.
    #[must_use]
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program);
        command.env("PATH", format!("/usr/bin:/bin:/usr/sbin:/sbin:{path}"));
        command.env("LC_ALL", "C").process_group(0);
        Self {
            command,
            stdin: Vec::new(),
            limit: LIMIT,
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<I, S>(mut self, args: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        self.command.args(args);
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Runs it in `directory`.
    #[must_use]
    pub fn current_dir(mut self, directory: &Path) -> Self {
        self.command.current_dir(directory);
        self
    }

    /// What it reads from its standard input.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// How long it may take.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Runs it to its end, however that is.
    ///
    /// # Errors
    ///
    /// If it cannot be started or runs past its limit; then its group is killed.
    pub fn run(mut self) -> Result<Finished> {
        let parts = self.command.get_args().skip(3).map(OsStr::to_string_lossy);
        let line = parts.collect::<Vec<_>>().join(" ");
        let start = Instant::now();
        let mut child = self
            .command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {line}"))?;
        let mut stdin = child.stdin.take().context("no stdin")?;
        let input = self.stdin;
        // A tool that reads less than it is given closes the pipe: not our concern.
        std::thread::spawn(move || drop(stdin.write_all(&input)));
        let stdout = collect(child.stdout.take().context("no stdout")?);
        let stderr = collect(child.stderr.take().context("no stderr")?);
        let mut pause = Duration::from_millis(1);
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if start.elapsed() > self.limit {
                let group = Pid::from_raw(i32::try_from(child.id())?);
                let _ = killpg(group, Signal::SIGKILL);
                child.wait()?;
                let (out, err) = (gather(stdout), gather(stderr));
                bail!("`{line}` ran past {:?}\n{out}\n{err}", self.limit);
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        };
        let (stdout, stderr) = (gather(stdout), gather(stderr));
        Ok(Finished {
            line,
            status,
            stdout,
            stderr,
            elapsed: start.elapsed(),
        })
    }

    /// Runs it and gives what it printed.
    ///
    /// # Errors
    ///
    /// If it cannot be started, runs past its limit or fails.
    pub fn check(self) -> Result<String> {
        self.run()?.success()
    }
}

impl Finished {
    /// What it printed.
    ///
    /// # Errors
    ///
    /// If it failed; the error shows all of its output.
    pub fn success(self) -> Result<String> {
        ensure!(
            self.status.success(),
            "`{}` failed ({})\n{}\n{}",
            self.line,
            self.status,
            self.stdout,
            self.stderr
        );
        Ok(self.stdout)
    }

    /// Its exit code; none if a signal ended it.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }
}

fn collect(mut pipe: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        bytes
    })
}

fn gather(reader: JoinHandle<Vec<u8>>) -> String {
    String::from_utf8_lossy(&reader.join().unwrap_or_default()).into_owned()
}
