//! Where a worker is: on the service's own reactor, or on another thread.
//!
//! The service calls the one and sends commands to the other; what comes back is the same.

use std::rc::Rc;
use std::sync::Arc;

use ashlar_proto::DiskId;
use ashlar_proto::api::{Assignment, FoundReplica, OwnerSeen};
use ashlar_reactor::channel::remote;
use ashlar_reactor::link::{DetachedLink, Link, LinkError};
use ashlar_reactor::{Reactor, Remote, Stopped};

use crate::control::{Answer, COMMANDS_MAX, call};
use crate::health::DiskHealth;
use crate::lane::{DetachedLane, LaneError, LaneOptions, RecoveryError};
use crate::session::Greeting;
use crate::worker::{Ended, LaneKey, LaneReport, LaneStart, Worker};

/// What a worker on another thread is told.
pub(crate) enum WorkerCommand {
    Start {
        disk: DiskId,
        lane: DetachedLane,
        options: LaneOptions,
        health: Arc<DiskHealth>,
        answer: Answer<Result<(), RecoveryError>>,
    },
    Serve(LaneKey, DetachedLink, Greeting, Ended),
    Report(Answer<Vec<(LaneKey, LaneReport)>>),
    Owners(Answer<Vec<OwnerSeen>>),
    Inventory(Answer<Vec<FoundReplica>>),
    Apply(LaneKey, Vec<Assignment>, Answer<Result<(), LaneError>>),
    Stop(Answer<()>),
}

/// Where a worker is.
pub(crate) enum Place {
    /// On the service's own reactor.
    Here(Rc<Worker>),
    /// On another one.
    There(remote::Sender<WorkerCommand>),
}

impl Place {
    /// A worker on another reactor.
    pub(crate) fn there(remote: &Remote) -> Result<Self, Stopped> {
        let (sender, commands) = remote::bounded(COMMANDS_MAX);
        remote.spawn(Box::new(move |reactor| {
            drop(reactor.spawn(run(reactor.clone(), commands)));
        }))?;
        Ok(Self::There(sender))
    }

    pub(crate) fn is_here(&self) -> bool {
        matches!(self, Self::Here(_))
    }

    /// Recovers a lane there; the reason if that fails.
    pub(crate) async fn start_lane(&self, start: LaneStart) -> Result<(), String> {
        match self {
            Self::Here(worker) => {
                let started = worker.start_lane(start).await;
                started.map_err(|error| error.to_string())
            }
            Self::There(commands) => {
                let lane = start.lane.detach().map_err(|error| error.to_string())?;
                let started = call(commands, |answer| WorkerCommand::Start {
                    disk: start.disk,
                    lane,
                    options: start.options,
                    health: start.health,
                    answer,
                });
                let started = started.await.map_err(|error| error.to_string())?;
                started.map_err(|error| error.to_string())
            }
        }
    }

    /// Hands a connection to its lane.
    pub(crate) async fn serve(
        &self,
        key: LaneKey,
        link: Link,
        greeting: Greeting,
        ended: Ended,
    ) -> Result<(), LinkError> {
        match self {
            Self::Here(worker) => worker.serve(key, link, greeting, ended),
            Self::There(commands) => {
                let link = link.detach()?;
                let command = WorkerCommand::Serve(key, link, greeting, ended);
                // A worker that has stopped drops the connection, which closes it.
                let _ = commands.send(command).await;
            }
        }
        Ok(())
    }

    pub(crate) async fn report(&self) -> Vec<(LaneKey, LaneReport)> {
        match self {
            Self::Here(worker) => worker.report(),
            Self::There(commands) => {
                let report = call(commands, WorkerCommand::Report).await;
                report.unwrap_or_default()
            }
        }
    }

    /// The owners with sessions there; nothing where that cannot be said.
    pub(crate) async fn owners(&self) -> Option<Vec<OwnerSeen>> {
        match self {
            Self::Here(worker) => Some(worker.owners()),
            Self::There(commands) => call(commands, WorkerCommand::Owners).await.ok(),
        }
    }

    /// What its lanes hold; nothing where that cannot be said.
    pub(crate) async fn inventory(&self) -> Option<Vec<FoundReplica>> {
        match self {
            Self::Here(worker) => Some(worker.inventory()),
            Self::There(commands) => call(commands, WorkerCommand::Inventory).await.ok(),
        }
    }

    pub(crate) async fn apply(
        &self,
        key: LaneKey,
        wanted: Vec<Assignment>,
    ) -> Result<(), LaneError> {
        match self {
            Self::Here(worker) => worker.apply(key, wanted).await,
            Self::There(commands) => {
                let applied = call(commands, |answer| WorkerCommand::Apply(key, wanted, answer));
                applied.await.unwrap_or(Err(LaneError::Closing))
            }
        }
    }

    pub(crate) async fn stop(&self) {
        match self {
            Self::Here(worker) => worker.stop().await,
            Self::There(commands) => {
                // One that is gone has nothing left to close.
                let _ = call(commands, WorkerCommand::Stop).await;
            }
        }
    }
}

/// Does what the service on another thread says, until that stops it.
async fn run(reactor: Reactor, commands: remote::Receiver<WorkerCommand>) {
    let worker = Worker::new(&reactor);
    while let Some(command) = commands.recv().await {
        match command {
            WorkerCommand::Stop(answer) => {
                worker.stop().await;
                let _ = answer.try_send(());
                return;
            }
            command => carry_out(&reactor, Rc::clone(&worker), command),
        }
    }
    // The service's thread is gone: what is on the disks is as after a crash.
}

fn carry_out(reactor: &Reactor, worker: Rc<Worker>, command: WorkerCommand) {
    match command {
        WorkerCommand::Start {
            disk,
            lane,
            options,
            health,
            answer,
        } => {
            let start = LaneStart {
                disk,
                lane: lane.adopt(reactor),
                options,
                health,
            };
            drop(reactor.spawn(async move {
                let _ = answer.try_send(worker.start_lane(start).await);
            }));
        }
        WorkerCommand::Serve(key, link, greeting, ended) => {
            let link = Link::adopt(reactor, link);
            worker.serve(key, link, greeting, ended);
        }
        WorkerCommand::Report(answer) => {
            let _ = answer.try_send(worker.report());
        }
        WorkerCommand::Owners(answer) => {
            let _ = answer.try_send(worker.owners());
        }
        WorkerCommand::Inventory(answer) => {
            let _ = answer.try_send(worker.inventory());
        }
        WorkerCommand::Apply(key, wanted, answer) => {
            drop(reactor.spawn(async move {
                let _ = answer.try_send(worker.apply(key, wanted).await);
            }));
        }
        WorkerCommand::Stop(_) => unreachable!("handled where the commands arrive"),
    }
}
