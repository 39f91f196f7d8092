//! A session: the commands of one initiator port at one target, over all its connections.
//!
//! Invariants: a command belongs to the connection that it came by; its turn comes in the order of
//! the session; when the last connection has ended, its tasks have ended too and the session is
//! gone (error recovery level 0: nothing is kept for a return).

use crate::catalog::TargetCatalog;
use crate::link::{Close, Link};
use crate::order::{Arrival, CommandOrder};
use crate::parameters::SessionParameters;
use crate::pdu::{Attribute, Lun};
use crate::scsi::Nexus;
use crate::sessions::Served;
use crate::task::{Phase, Task};
use crate::work::Work;
use ashlar_reactor::channel::Notify;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::rc::Rc;

/// Tags of aborted tasks that are kept, whose data may still be under way.
const FORGOTTEN_MAX: usize = 512;

/// A session.
pub(crate) struct Session<C: TargetCatalog> {
    pub(crate) nexus: Nexus,
    pub(crate) tsih: u16,
    pub(crate) parameters: SessionParameters,
    pub(crate) served: Rc<Served<C>>,
    order: RefCell<CommandOrder<(Rc<Link>, Work)>>,
    /// By initiator task tag, until they are answered.
    tasks: RefCell<HashMap<u32, Rc<Task>>>,
    /// Tasks whose attribute others must wait for.
    special: Cell<usize>,
    /// Tasks that had their turn in the order of commands.
    busy: Cell<usize>,
    next_sequence: Cell<u64>,
    links: RefCell<BTreeMap<u16, Rc<Link>>>,
    /// Aborted, and their initiator may still send data for them.
    forgotten: RefCell<VecDeque<u32>>,
    ended: Cell<bool>,
    ending: Notify,
    next_ttt: Cell<u32>,
}

impl<C: TargetCatalog> Session<C> {
    pub(crate) fn new(
        served: Rc<Served<C>>,
        nexus: Nexus,
        tsih: u16,
        parameters: SessionParameters,
        (first_cmd_sn, window): (u32, u32),
    ) -> Rc<Self> {
        Rc::new(Self {
            nexus,
            tsih,
            parameters,
            served,
            order: RefCell::new(CommandOrder::new(first_cmd_sn, window)),
            tasks: RefCell::default(),
            special: Cell::new(0),
            busy: Cell::new(0),
            next_sequence: Cell::new(0),
            links: RefCell::default(),
            forgotten: RefCell::default(),
            ended: Cell::new(false),
            ending: Notify::new(),
            next_ttt: Cell::new(0),
        })
    }

    // Connections.

    /// Adds a connection.
    pub(crate) fn join(&self, link: &Rc<Link>) {
        self.links.borrow_mut().insert(link.cid, Rc::clone(link));
    }

    pub(crate) fn link(&self, cid: u16) -> Option<Rc<Link>> {
        self.links.borrow().get(&cid).cloned()
    }

    pub(crate) fn links(&self) -> Vec<Rc<Link>> {
        self.links.borrow().values().cloned().collect()
    }

    /// A connection has ended, and so have its tasks. The last one ends the session.
    pub(crate) fn leave(&self, link: &Rc<Link>) {
        let is_last = {
            let mut links = self.links.borrow_mut();
            if links
                .get(&link.cid)
                .is_some_and(|other| Rc::ptr_eq(other, link))
            {
                links.remove(&link.cid);
            }
            links.is_empty()
        };
        link.leave();
        if is_last && !self.ended.replace(true) {
            self.served.target.disconnect(self.nexus.id);
            self.served.forget(self.nexus.id);
            self.ending.notify_all();
        }
    }

    /// Whether a connection is the one that acts for the session.
    pub(crate) fn is_first(&self, link: &Rc<Link>) -> bool {
        let links = self.links.borrow();
        links
            .values()
            .next()
            .is_some_and(|first| Rc::ptr_eq(first, link))
    }

    /// Tells all connections to close.
    pub(crate) fn close(&self, why: Close) {
        for link in self.links() {
            link.close(why);
        }
    }

    /// Waits until the session is gone.
    pub(crate) async fn gone(&self) {
        while !self.ended.get() {
            self.ending.notified().await;
        }
    }

    // The order of commands.

    /// `ExpCmdSN` and `MaxCmdSN`.
    pub(crate) fn window(&self) -> (u32, u32) {
        let mut order = self.order.borrow_mut();
        let max = order.max(self.busy.get());
        (order.expected(), max)
    }

    pub(crate) fn may_come(&self, cmd_sn: u32) -> bool {
        self.order.borrow().may_come(cmd_sn)
    }

    /// Whether a command of this number has its turn at once and nothing else waits for one.
    pub(crate) fn is_undisturbed(&self, cmd_sn: u32) -> bool {
        let order = self.order.borrow();
        order.is_next(cmd_sn) && !order.has_waiting()
    }

    /// Something came: hands over whatever has its turn now. False if it is to be ignored.
    pub(crate) fn arrive(&self, cmd_sn: u32, link: &Rc<Link>, work: Work) -> bool {
        let arrival = self
            .order
            .borrow_mut()
            .arrive(cmd_sn, (Rc::clone(link), work));
        match arrival {
            Arrival::Ignored(_) => return false,
            Arrival::Waits => {}
            Arrival::Now((link, work)) => {
                link.deliver(work);
                self.deliver_waiting();
            }
        }
        true
    }

    fn deliver_waiting(&self) {
        loop {
            let next = self.order.borrow_mut().next();
            let Some((link, work)) = next else { return };
            link.deliver(work);
        }
    }

    /// Passes a command over that has not come. False if it has, or cannot come.
    pub(crate) fn skip(&self, cmd_sn: u32) -> bool {
        let skipped = self.order.borrow_mut().skip(cmd_sn);
        self.deliver_waiting();
        skipped
    }

    // Tasks.

    /// Registers a task; false if another has its tag.
    pub(crate) fn add(&self, task: &Rc<Task>) -> bool {
        let mut tasks = self.tasks.borrow_mut();
        if tasks.contains_key(&task.itt) {
            return false;
        }
        tasks.insert(task.itt, Rc::clone(task));
        true
    }

    pub(crate) fn task(&self, itt: u32) -> Option<Rc<Task>> {
        self.tasks.borrow().get(&itt).cloned()
    }

    /// Its turn has come.
    pub(crate) fn enroll(&self, task: &Task) {
        let sequence = self.next_sequence.get();
        self.next_sequence.set(sequence + 1);
        task.set_sequence(sequence);
        task.enter(Phase::Collecting);
        if task.attribute != Attribute::Simple {
            self.special.set(self.special.get() + 1);
        }
        if !task.immediate {
            self.busy.set(self.busy.get() + 1);
        }
    }

    /// The task has ended: answered, or aborted and settled. Others may have waited for it.
    pub(crate) fn remove(&self, task: &Rc<Task>) {
        let removed = {
            let mut tasks = self.tasks.borrow_mut();
            let is_this = tasks
                .get(&task.itt)
                .is_some_and(|other| Rc::ptr_eq(other, task));
            is_this && tasks.remove(&task.itt).is_some()
        };
        if !removed || task.sequence() == u64::MAX {
            return;
        }
        if !task.immediate {
            self.busy.set(self.busy.get() - 1);
        }
        if self.special.get() > 0 {
            // Tasks of any connection may have waited for this one.
            for link in self.links.borrow().values() {
                link.task_ended();
            }
        }
        if task.attribute != Attribute::Simple {
            self.special.set(self.special.get() - 1);
        }
    }

    /// Whether the attributes of other tasks let this one begin (SAM-5 section 8.9).
    pub(crate) fn may_begin(&self, task: &Task) -> bool {
        if self.special.get() == 0 || task.attribute == Attribute::HeadOfQueue {
            return true;
        }
        let tasks = self.tasks.borrow();
        let same_unit = tasks
            .values()
            .filter(|other| other.lun == task.lun && other.itt != task.itt);
        let mut turned = same_unit.filter(|other| other.phase() > Phase::Arriving);
        !turned.any(|other| {
            let is_older = other.sequence() < task.sequence();
            match other.attribute {
                Attribute::HeadOfQueue => other.phase() == Phase::Executing,
                Attribute::Ordered => is_older,
                _ => is_older && task.attribute == Attribute::Ordered,
            }
        })
    }

    /// Aborts the tasks that `chosen` picks, also those whose turn has not come. Gives those that
    /// still run, to be waited for.
    pub(crate) fn abort(&self, mut chosen: impl FnMut(&Task) -> bool) -> Vec<Rc<Task>> {
        let picked: Vec<_> = {
            let tasks = self.tasks.borrow();
            // Those that were aborted before and still run are to be waited for too.
            let picked = tasks.values().filter(|task| chosen(task));
            picked.cloned().collect()
        };
        self.order
            .borrow_mut()
            .skip_waiting(|_, (_, work)| match work {
                Work::Command(task) => picked.iter().any(|other| Rc::ptr_eq(other, task)),
                _ => false,
            });
        for task in picked.iter().filter(|task| !task.is_aborted()) {
            if task.waits_for_data() {
                self.forget(task.itt);
            }
            task.abort();
            if task.phase() == Phase::Settled {
                self.remove(task);
                task.link.abandon(task);
            }
        }
        self.deliver_waiting();
        picked
    }

    /// Aborts all of a unit, or all there are. Gives them, to be waited for.
    pub(crate) fn abort_unit(&self, lun: Option<Lun>, but: Option<&Rc<Task>>) -> Vec<Rc<Task>> {
        self.abort(|task| {
            let is_spared = but.is_some_and(|but| std::ptr::eq(Rc::as_ptr(but), task));
            !is_spared && lun.is_none_or(|lun| task.lun == lun)
        })
    }

    /// Whether a task of a connection waits for data that only the initiator can send.
    pub(crate) fn waits_for_data(&self, link: &Rc<Link>) -> bool {
        let tasks = self.tasks.borrow();
        let mut own = tasks.values().filter(|task| Rc::ptr_eq(&task.link, link));
        own.any(|task| task.admitted.get() && task.waits_for_data())
    }

    /// Immediate commands that are not answered.
    pub(crate) fn immediate_tasks(&self) -> usize {
        self.tasks.borrow().len() - self.busy.get().min(self.tasks.borrow().len())
    }

    /// Whether there are tasks of a unit.
    pub(crate) fn has_tasks(&self, lun: Lun) -> bool {
        let tasks = self.tasks.borrow();
        tasks
            .values()
            .any(|task| task.lun == lun && !task.is_aborted())
    }

    /// Whether commands wait for others that have not come.
    pub(crate) fn has_gap(&self) -> bool {
        self.order.borrow().has_waiting()
    }

    /// Remembers that data for this tag is to be read and forgotten.
    pub(crate) fn forget(&self, itt: u32) {
        let mut forgotten = self.forgotten.borrow_mut();
        if forgotten.len() == FORGOTTEN_MAX {
            forgotten.pop_front();
        }
        forgotten.push_back(itt);
    }

    pub(crate) fn is_forgotten(&self, itt: u32) -> bool {
        self.forgotten.borrow().contains(&itt)
    }

    /// The tag is used anew.
    pub(crate) fn recall(&self, itt: u32) {
        let mut forgotten = self.forgotten.borrow_mut();
        if !forgotten.is_empty() {
            forgotten.retain(|&other| other != itt);
        }
    }

    /// A fresh target transfer tag.
    pub(crate) fn ttt(&self) -> u32 {
        let ttt = self.next_ttt.get();
        let next = ttt.wrapping_add(1);
        self.next_ttt.set(if next == u32::MAX { 0 } else { next });
        ttt
    }
}
