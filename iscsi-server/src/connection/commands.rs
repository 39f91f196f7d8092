//! What has its turn: commands on their way from their PDU to the device server, and the requests
//! beside them.

use super::Connection;
use super::jobs::{Finished, Job};
use crate::catalog::TargetCatalog;
use crate::framing::Segment;
use crate::pdu::{LogoutRequest, NO_TAG, NopIn, NopOut, R2t, Response};
use crate::task::{Phase, Task};
use crate::work::Work;
use std::rc::Rc;

impl<C: TargetCatalog> Connection<'_, C> {
    /// Begins what was delivered, and looks after tasks that others changed.
    pub(super) fn begin_delivered(&self) {
        while let Some(task) = self.link.take_abandoned() {
            self.release(&task);
        }
        while let Some(work) = self.link.take_delivered() {
            self.begin(work);
        }
        if self.link.take_task_ended() {
            self.begin_dormant();
        }
    }

    fn begin(&self, work: Work) {
        self.changed();
        match work {
            Work::Command(task) => self.begin_command(&task),
            Work::Management(request, cmd_sn) => self.put_job(Job::Management(request, cmd_sn)),
            Work::Nop(nop, data) => self.pong(&nop, &data),
            Work::Text(request, data) => self.begin_text(&request, &data),
            Work::Logout(request) => self.begin_logout(request),
        }
    }

    fn begin_logout(&self, request: LogoutRequest) {
        self.put_job(Job::Logout(request, self.link.cid));
    }

    pub(super) fn put_job(&self, job: Job) {
        self.jobs.borrow_mut().push_back(job);
        self.changed();
    }

    fn pong(&self, nop: &NopOut, data: &[u8]) {
        let len = data.len().min(self.parameters.get().send_segment_max);
        let pong = NopIn {
            lun: nop.lun,
            itt: nop.itt,
            ttt: NO_TAG,
        };
        self.say(&Response::NopIn(pong), &Segment::Bytes(&data[..len]));
    }

    fn begin_command(&self, task: &Rc<Task>) {
        if task.is_aborted() {
            return;
        }
        self.session.enroll(task);
        if !task.admitted.get() && !self.try_admit(task) {
            return self.park(task);
        }
        self.advance(task);
    }

    /// Asks for data that is still to come; once all is there, begins the command.
    pub(super) fn advance(&self, task: &Rc<Task>) {
        if task.phase() != Phase::Collecting || !task.admitted.get() || task.receiving.get() {
            return;
        }
        loop {
            let solicited = {
                let mut transfer = task.transfer.borrow_mut();
                if task.refusal.get().is_some() {
                    transfer.curtail();
                }
                transfer.solicit(|| self.session.ttt())
            };
            let Some(asked) = solicited else { break };
            let r2t = R2t {
                lun: task.lun,
                itt: task.itt,
                ttt: asked.ttt,
                r2t_sn: asked.r2t_sn,
                offset: asked.offset,
                len: asked.len,
            };
            self.asked.set(self.registry.reactor.now());
            self.say(&Response::R2t(r2t), &Segment::NONE);
        }
        if !task.transfer.borrow().is_complete() {
            return;
        }
        task.enter(Phase::Dormant);
        if task.refusal.get().is_some() {
            task.enter(Phase::Settled);
            self.session.remove(task);
            self.refuse(task);
        } else if self.session.may_begin(task) {
            self.start(task);
        } else {
            self.dormant.borrow_mut().push(Rc::clone(task));
        }
    }

    fn start(&self, task: &Rc<Task>) {
        task.enter(Phase::Executing);
        self.put_job(Job::Command(Rc::clone(task)));
    }

    /// Begins those that need not wait any more.
    fn begin_dormant(&self) {
        self.dormant.borrow_mut().retain(|task| !task.is_aborted());
        loop {
            let ready = {
                let mut dormant = self.dormant.borrow_mut();
                let at = dormant.iter().position(|task| self.session.may_begin(task));
                at.map(|at| dormant.remove(at))
            };
            let Some(task) = ready else { return };
            self.start(&task);
        }
    }

    /// Something has been carried out.
    pub(super) fn finish(&self, finished: Finished) {
        self.jobs_running.set(self.jobs_running.get() - 1);
        match finished {
            Finished::Command(task, outcome) => {
                self.session.remove(&task);
                if task.is_aborted() {
                    self.release(&task);
                } else {
                    self.answer(&task, outcome);
                }
            }
            Finished::Management { itt, response } => {
                self.say(&Response::Management { itt, response }, &Segment::NONE);
            }
            Finished::LookedUp { withdrawn } => self.looked_up(withdrawn),
            Finished::Text { itt, lun, answer } => self.finish_text(itt, lun, answer),
            Finished::Logout { itt, response, own } => {
                let response = Response::Logout {
                    itt,
                    response,
                    time_to_wait: 0,
                    time_to_retain: 0,
                };
                self.say(&response, &Segment::NONE);
                if own {
                    self.logged_out.set(true);
                }
            }
        }
        self.changed();
    }
}
