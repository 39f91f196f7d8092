//! What takes time: commands, task management, texts and logouts, each a future of the same kind.

use crate::catalog::{Access, CatalogError, TargetCatalog};
use crate::discovery;
use crate::link::Close;
use crate::management::{manage, wait};
use crate::pdu::{LogoutRequest, Lun, TaskManagement};
use crate::scsi::Outcome;
use crate::session::Session;
use crate::sessions::Registry;
use crate::task::{Execution, Task};
use ashlar_reactor::meters::{Operation, Stage};
use std::rc::Rc;

/// Responses to a logout (RFC 7143 section 11.15.1).
const LOGGED_OUT: u8 = 0;
const NO_CONNECTION: u8 = 1;
const NO_RECOVERY: u8 = 2;

/// Reasons of a logout (section 11.14.1).
const CLOSE_SESSION: u8 = 0;
const CLOSE_CONNECTION: u8 = 1;

/// Something to be carried out.
pub(super) enum Job {
    /// It executes.
    Command(Rc<Task>),
    Management(TaskManagement, u32),
    /// The keys of a whole text.
    Text {
        itt: u32,
        lun: Lun,
        keys: Vec<u8>,
    },
    /// With the connection that it came by.
    Logout(LogoutRequest, u16),
    /// Whether the target is still there for this initiator, and what is new of it.
    LookUp,
}

/// What became of it.
pub(super) enum Finished {
    Command(Rc<Task>, Outcome),
    Management {
        itt: u32,
        response: u8,
    },
    Text {
        itt: u32,
        lun: Lun,
        answer: Result<Vec<u8>, discovery::TextFault>,
    },
    /// `own`: the connection that it came by is to end.
    Logout {
        itt: u32,
        response: u8,
        own: bool,
    },
    /// The target is no more, or not for this initiator, if `withdrawn`.
    LookedUp {
        withdrawn: bool,
    },
}

/// Carries a job out.
pub(super) async fn run<C: TargetCatalog>(
    registry: Rc<Registry<C>>,
    session: Rc<Session<C>>,
    portal: String,
    job: Job,
) -> Finished {
    match job {
        Job::Command(task) => {
            let outcome = measured(&registry, &session, &task).await;
            Finished::Command(task, outcome)
        }
        Job::Management(request, cmd_sn) => Finished::Management {
            itt: request.itt,
            response: manage(&session, request, cmd_sn).await,
        },
        Job::Text { itt, lun, keys } => {
            let nexus = &session.nexus;
            let scene = discovery::Asking {
                initiator: &nexus.initiator,
                target: Some(&nexus.target),
                portal: &portal,
            };
            let answer = discovery::answer(&registry, &scene, &keys).await;
            Finished::Text { itt, lun, answer }
        }
        Job::LookUp => Finished::LookedUp {
            withdrawn: is_withdrawn(&registry, &session).await,
        },
        Job::Logout(request, cid) => log_out(&session, request, cid).await,
    }
}

/// Executes a task and counts it. What a command is refused with is an answer, not a failure.
async fn measured<C: TargetCatalog>(
    registry: &Registry<C>,
    session: &Rc<Session<C>>,
    task: &Rc<Task>,
) -> Outcome {
    let (operation, bytes) = match &*task.planned.borrow() {
        Some(planned) => planned.counted(),
        None => (Operation::Other, 0),
    };
    let _measure = registry.reactor.measure(Stage::FrontEnd, operation, bytes);
    execute(session, task).await
}

async fn execute<C: TargetCatalog>(session: &Rc<Session<C>>, task: &Rc<Task>) -> Outcome {
    let execution = Execution::of(task);
    let planned = task.planned.take().expect("a task is executed once");
    let data = task.buffer.take();
    let target = &session.served.target;
    let mut outcome = target.execute(&session.nexus, planned, data).await;
    // It has done what it does: two such commands that abort each other do not wait for ever.
    drop(execution);
    let nexuses = std::mem::take(&mut outcome.aborts.nexuses);
    if !nexuses.is_empty() {
        let served = &session.served;
        let chosen = |nexus| nexuses.contains(&nexus);
        let aborted = served.abort(Some(task.lun), chosen, Some(task));
        wait(aborted.into_iter().map(|(_, task)| task)).await;
    }
    outcome
}

/// Looks the target up; what it says of the units holds from now on.
async fn is_withdrawn<C: TargetCatalog>(registry: &Registry<C>, session: &Session<C>) -> bool {
    let nexus = &session.nexus;
    match registry
        .catalog
        .target(&nexus.target, &nexus.initiator)
        .await
    {
        Ok(info) if info.access == Access::Denied => true,
        Ok(info) => {
            session.served.target.update(&info.units);
            false
        }
        Err(CatalogError::Unknown) => true,
        // It may be there: nothing is changed for want of an answer.
        Err(_) => false,
    }
}

async fn log_out<C: TargetCatalog>(
    session: &Rc<Session<C>>,
    request: LogoutRequest,
    cid: u16,
) -> Finished {
    let answer = |response, own| Finished::Logout {
        itt: request.itt,
        response,
        own,
    };
    let leaving = match request.reason {
        CLOSE_SESSION => session.links(),
        CLOSE_CONNECTION => session.link(request.cid).into_iter().collect(),
        _ => return answer(NO_RECOVERY, false),
    };
    if leaving.is_empty() {
        return answer(NO_CONNECTION, false);
    }
    let mut own = false;
    for link in leaving {
        if link.cid == cid {
            own = true;
            wait(session.abort(|task| Rc::ptr_eq(&task.link, &link))).await;
        } else {
            link.close(Close::LoggedOut);
            link.gone().await;
        }
    }
    answer(LOGGED_OUT, own)
}
