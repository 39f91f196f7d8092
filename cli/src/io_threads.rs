//! The reactor threads of a role beside its first one.
//!
//! Each runs a reactor that does what it is sent through its [`Remote`], until it is stopped. One
//! that ends before has panicked: [`IoThreads::lost_one`] tells the first thread at once, which
//! then stops the role, for a role without one of its threads serves only a part of what it
//! should.

use std::sync::mpsc;
use std::thread::JoinHandle;

use anyhow::{Context, anyhow};
use ashlar_reactor::channel::remote;
use ashlar_reactor::{Remote, RuntimeOptions};

use crate::identity;

/// Reactor threads of a process, the first one included.
pub const THREADS_MAX: u16 = 64;

/// See the module. Dropped without [`IoThreads::stop`], the threads end by themselves.
pub struct IoThreads {
    threads: Vec<IoThread>,
    lost: remote::Receiver<()>,
}

struct IoThread {
    name: String,
    remote: Remote,
    /// Dropped to stop it.
    running: remote::Sender<()>,
    thread: JoinHandle<()>,
}

/// Tells of a thread's end, however it comes.
struct TellEnd(remote::Sender<()>);

impl Drop for TellEnd {
    fn drop(&mut self) {
        // Nobody asks any more, or enough have been told of.
        let _ = self.0.try_send(());
    }
}

impl IoThreads {
    /// Starts `count` threads, `ashlar-io-1` and so on, each with a reactor of its own.
    ///
    /// # Errors
    /// A thread that cannot be made; an engine that is not to be had. Those started are stopped.
    pub fn start(options: RuntimeOptions, count: u16) -> anyhow::Result<Self> {
        let (ended, lost) = remote::bounded(usize::from(THREADS_MAX));
        let mut started = Self {
            threads: Vec::new(),
            lost,
        };
        for number in 1..=count {
            match IoThread::start(options, number, ended.clone()) {
                Ok(thread) => started.threads.push(thread),
                Err(error) => {
                    started.stop()?;
                    return Err(error);
                }
            }
        }
        Ok(started)
    }

    /// The threads' reactors.
    pub fn remotes(&self) -> Vec<Remote> {
        self.threads.iter().map(|io| io.remote.clone()).collect()
    }

    /// Waits until a thread has ended without being told to.
    pub async fn lost_one(&self) {
        if self.lost.recv().await.is_none() {
            // There are none.
            std::future::pending::<()>().await;
        }
    }

    /// Stops the threads, one after the other. What they were doing must have ended before.
    ///
    /// # Errors
    /// One of them had panicked.
    pub fn stop(self) -> anyhow::Result<()> {
        let mut stopped = Ok(());
        for io in self.threads {
            drop(io.running);
            if io.thread.join().is_err() {
                stopped = Err(anyhow!(
                    "thread {} has panicked, see the log: start this again",
                    io.name
                ));
            }
        }
        stopped
    }
}

impl IoThread {
    fn start(
        options: RuntimeOptions,
        number: u16,
        ended: remote::Sender<()>,
    ) -> anyhow::Result<Self> {
        let name = format!("ashlar-io-{number}");
        let (running, stopping) = remote::bounded(1);
        let (started, starting) = mpsc::channel();
        let main = move || {
            let _ended = TellEnd(ended);
            let tell = started.clone();
            let run = ashlar_reactor::run(options, async |reactor| {
                identity::secure(&reactor);
                let _ = tell.send(Ok(reactor.remote()));
                stopping.recv().await;
            });
            if let Err(error) = run {
                let _ = started.send(Err(error));
            }
        };
        let thread = std::thread::Builder::new().name(name.clone()).spawn(main);
        let thread = thread.with_context(|| format!("cannot start thread {name}"))?;
        let remote = starting
            .recv()
            .with_context(|| format!("thread {name} has panicked"))?
            .with_context(|| format!("cannot start the {} engine for {name}", options.engine))?;
        Ok(Self {
            name,
            remote,
            running,
            thread,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ashlar_reactor::Engine;

    fn options() -> RuntimeOptions {
        RuntimeOptions::new(Engine::Aio)
    }

    #[test]
    fn threads_have_names_and_work_until_they_are_stopped() {
        let threads = IoThreads::start(options(), 3).unwrap();
        let (sender, names) = mpsc::channel();
        for remote in threads.remotes() {
            let sender = sender.clone();
            let tell = Box::new(move |_: &_| {
                let name = std::thread::current().name().map(str::to_owned);
                sender.send(name.unwrap()).unwrap();
            });
            remote.spawn(tell).unwrap();
        }
        let mut names: Vec<String> = names.iter().take(3).collect();
        names.sort();
        assert_eq!(names, ["ashlar-io-1", "ashlar-io-2", "ashlar-io-3"]);
        let remotes = threads.remotes();
        threads.stop().unwrap();
        assert!(remotes[0].spawn(Box::new(|_| {})).is_err());
    }

    #[test]
    fn a_thread_that_panics_is_told_of() {
        let threads = IoThreads::start(options(), 2).unwrap();
        let broken = &threads.remotes()[1];
        broken.spawn(Box::new(|_| panic!("on purpose"))).unwrap();
        ashlar_reactor::run(options(), async |_| threads.lost_one().await).unwrap();
        let error = threads.stop().unwrap_err().to_string();
        assert!(error.contains("ashlar-io-2 has panicked"), "{error}");
    }

    #[test]
    fn no_threads_are_never_lost() {
        let threads = IoThreads::start(options(), 0).unwrap();
        let waited = ashlar_reactor::run(options(), async |reactor| {
            let limit = std::time::Duration::from_millis(20);
            reactor.timeout(limit, threads.lost_one()).await
        });
        assert!(waited.unwrap().is_err());
        threads.stop().unwrap();
    }
}
