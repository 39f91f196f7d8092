//! Task management (RFC 7143 section 11.5, RFC 7144 section 6): aborts, resets and queries.
//!
//! Invariant: a response leaves only when the tasks that it speaks of can have no effect any more.
//! What executes is waited for, never cut off; what does not, never begins.

use crate::catalog::TargetCatalog;
use crate::link::Close;
use crate::parameters::PROTOCOL_LEVEL_SAM5;
use crate::pdu::{TaskManagement, comes_before};
use crate::scsi::NexusId;
use crate::session::Session;
use crate::task::Task;
use std::rc::Rc;

mod function {
    pub(super) const ABORT_TASK: u8 = 1;
    pub(super) const ABORT_TASK_SET: u8 = 2;
    pub(super) const CLEAR_TASK_SET: u8 = 4;
    pub(super) const UNIT_RESET: u8 = 5;
    pub(super) const WARM_RESET: u8 = 6;
    pub(super) const COLD_RESET: u8 = 7;
    pub(super) const REASSIGN: u8 = 8;
    pub(super) const QUERY_TASK: u8 = 9;
    pub(super) const QUERY_TASK_SET: u8 = 10;
    pub(super) const NEXUS_RESET: u8 = 11;
    pub(super) const QUERY_EVENT: u8 = 12;
}

/// Responses (RFC 7143 section 11.6.1).
const COMPLETE: u8 = 0;
const NO_TASK: u8 = 1;
const NO_UNIT: u8 = 2;
const NO_REASSIGNMENT: u8 = 4;
const NOT_SUPPORTED: u8 = 5;
const SUCCEEDED: u8 = 7;

/// Carries a request out; gives the response.
pub(crate) async fn manage<C: TargetCatalog>(
    session: &Rc<Session<C>>,
    request: TaskManagement,
    cmd_sn: u32,
) -> u8 {
    let own = session.nexus.id;
    match request.function {
        function::ABORT_TASK => abort_task(session, request, cmd_sn).await,
        function::ABORT_TASK_SET => {
            wait(session.abort_unit(Some(request.lun), None)).await;
            COMPLETE
        }
        function::CLEAR_TASK_SET => clear_task_set(session, request).await,
        function::UNIT_RESET => {
            let aborted = session.served.abort(Some(request.lun), |_| true, None);
            wait(aborted.into_iter().map(|(_, task)| task)).await;
            match session.served.target.reset_unit(request.lun, own) {
                true => COMPLETE,
                false => NO_UNIT,
            }
        }
        function::WARM_RESET | function::COLD_RESET => {
            let aborted = session.served.abort(None, |_| true, None);
            wait(aborted.into_iter().map(|(_, task)| task)).await;
            session.served.target.reset(own);
            if request.function == function::COLD_RESET {
                session.close(Close::OwnReset);
                session.served.close_all(Close::Reset);
            }
            COMPLETE
        }
        function::REASSIGN => NO_REASSIGNMENT,
        _ if session.parameters.protocol_level < PROTOCOL_LEVEL_SAM5 => NOT_SUPPORTED,
        function::QUERY_TASK => {
            let task = session.task(request.referenced_itt);
            found(task.is_some_and(|task| task.lun == request.lun && !task.is_aborted()))
        }
        function::QUERY_TASK_SET => found(session.has_tasks(request.lun)),
        function::NEXUS_RESET => {
            wait(session.abort_unit(None, None)).await;
            session.served.target.disconnect(own);
            session.served.target.connect(&session.nexus);
            COMPLETE
        }
        // Unit attentions are the device server's to tell of.
        function::QUERY_EVENT => COMPLETE,
        _ => NOT_SUPPORTED,
    }
}

fn found(found: bool) -> u8 {
    if found { SUCCEEDED } else { COMPLETE }
}

/// Waits until tasks can have no effect any more.
pub(crate) async fn wait(tasks: impl IntoIterator<Item = Rc<Task>>) {
    for task in tasks {
        task.settled().await;
    }
}

async fn abort_task<C: TargetCatalog>(
    session: &Rc<Session<C>>,
    request: TaskManagement,
    cmd_sn: u32,
) -> u8 {
    let referenced = session.task(request.referenced_itt);
    let Some(task) = referenced.filter(|task| task.lun == request.lun) else {
        // Section 11.5.1: a command that has not come is taken for one that came and was aborted.
        let is_missing = comes_before(request.referenced_cmd_sn, cmd_sn)
            && session.skip(request.referenced_cmd_sn);
        return if is_missing { COMPLETE } else { NO_TASK };
    };
    wait(session.abort(|other| std::ptr::eq(Rc::as_ptr(&task), other))).await;
    COMPLETE
}

/// Aborts the tasks of all sessions on a unit, and tells the others.
async fn clear_task_set<C: TargetCatalog>(session: &Rc<Session<C>>, request: TaskManagement) -> u8 {
    let own = session.nexus.id;
    let aborted = session.served.abort(Some(request.lun), |_| true, None);
    let mut others: Vec<NexusId> = aborted.iter().map(|&(nexus, _)| nexus).collect();
    others.retain(|&nexus| nexus != own);
    others.sort_unstable();
    others.dedup();
    wait(aborted.into_iter().map(|(_, task)| task)).await;
    session.served.target.tasks_cleared(request.lun, &others);
    COMPLETE
}
