//! The targets that are served now and the sessions of each: one registry for all portals.
//!
//! Invariants: a target is in the registry as long as it has a session, once; its sessions have
//! different TSIHs, and no two of them the same initiator name and ISID.

use crate::catalog::{TargetCatalog, TargetInfo};
use crate::link::{Close, Link};
use crate::management::wait;
use crate::options::IscsiOptions;
use crate::parameters::SessionParameters;
use crate::pdu::Lun;
use crate::scsi::{EndTasks, Nexus, NexusId, Target, unit_number};
use crate::session::Session;
use crate::task::Task;
use ashlar_reactor::Reactor;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::pin::Pin;
use std::rc::{Rc, Weak};

/// A target and its sessions.
pub(crate) struct Served<C: TargetCatalog> {
    pub(crate) target: Rc<Target<C>>,
    name: String,
    sessions: RefCell<Vec<Rc<Session<C>>>>,
    registry: Weak<Registry<C>>,
}

impl<C: TargetCatalog> Served<C> {
    pub(crate) fn sessions(&self) -> Vec<Rc<Session<C>>> {
        self.sessions.borrow().clone()
    }

    /// A session has ended; with the last one the target is let go.
    pub(crate) fn forget(&self, nexus: NexusId) {
        let mut sessions = self.sessions.borrow_mut();
        sessions.retain(|session| session.nexus.id != nexus);
        if sessions.is_empty()
            && let Some(registry) = self.registry.upgrade()
        {
            registry.served.borrow_mut().remove(&self.name);
        }
    }

    /// Tells all sessions to close that were not told before.
    pub(crate) fn close_all(&self, why: Close) {
        for session in self.sessions() {
            session.close(why);
        }
    }

    /// Aborts the tasks of these sessions on a unit, but for one. Gives those to be waited for.
    pub(crate) fn abort(
        &self,
        lun: Option<Lun>,
        chosen: impl Fn(NexusId) -> bool,
        but: Option<&Rc<Task>>,
    ) -> Vec<(NexusId, Rc<Task>)> {
        let mut aborted = Vec::new();
        for session in self.sessions() {
            let nexus = session.nexus.id;
            if chosen(nexus) {
                let tasks = session.abort_unit(lun, but);
                aborted.extend(tasks.into_iter().map(|task| (nexus, task)));
            }
        }
        aborted
    }
}

/// Ends tasks of a target's sessions.
struct Ender<C: TargetCatalog>(Weak<Served<C>>);

impl<C: TargetCatalog> EndTasks for Ender<C> {
    fn end_tasks(&self, lun: u16, nexuses: Vec<NexusId>) -> Pin<Box<dyn Future<Output = ()>>> {
        let served = self.0.upgrade();
        Box::pin(async move {
            let Some(served) = served else { return };
            let mut ended = Vec::new();
            for session in served.sessions() {
                if nexuses.contains(&session.nexus.id) {
                    ended.extend(session.abort(|task| unit_number(task.lun) == Some(lun)));
                }
            }
            wait(ended).await;
        })
    }
}

/// How a session came to be, and who asks for it.
pub(crate) struct Newcomer<'a> {
    /// Normalised.
    pub(crate) initiator: &'a str,
    pub(crate) isid: [u8; 6],
    pub(crate) portal_group: u16,
    pub(crate) first_cmd_sn: u32,
    pub(crate) parameters: SessionParameters,
    pub(crate) cid: u16,
}

/// All targets that are served.
pub(crate) struct Registry<C: TargetCatalog> {
    pub(crate) reactor: Reactor,
    pub(crate) catalog: Rc<C>,
    pub(crate) options: IscsiOptions,
    served: RefCell<HashMap<String, Rc<Served<C>>>>,
    next_tsih: Cell<u16>,
    next_nexus: Cell<u64>,
}

impl<C: TargetCatalog> Registry<C> {
    pub(crate) fn new(reactor: &Reactor, catalog: Rc<C>, options: IscsiOptions) -> Rc<Self> {
        Rc::new(Self {
            reactor: reactor.clone(),
            catalog,
            options,
            served: RefCell::default(),
            next_tsih: Cell::new(1),
            next_nexus: Cell::new(1),
        })
    }

    pub(crate) fn served(&self, target: &str) -> Option<Rc<Served<C>>> {
        self.served.borrow().get(target).cloned()
    }

    /// The session of an initiator port at a target.
    pub(crate) fn session(
        &self,
        target: &str,
        initiator: &str,
        isid: [u8; 6],
    ) -> Option<Rc<Session<C>>> {
        let sessions = self.served(target)?.sessions();
        let mut sessions = sessions.into_iter();
        sessions.find(|session| session.nexus.initiator == initiator && session.nexus.isid == isid)
    }

    /// Begins a session with its first connection. There must be none of the same initiator port.
    pub(crate) fn begin(
        self: &Rc<Self>,
        info: &TargetInfo,
        newcomer: &Newcomer<'_>,
    ) -> (Rc<Session<C>>, Rc<Link>) {
        let served = self.serve(info);
        let nexus = Nexus {
            id: NexusId(self.next_nexus.get()),
            initiator: newcomer.initiator.to_owned(),
            isid: newcomer.isid,
            target: info.name.clone(),
            portal_group: newcomer.portal_group,
        };
        self.next_nexus.set(self.next_nexus.get() + 1);
        served.target.connect(&nexus);
        let window = self.options.limits.requests_in_flight_max.max(1);
        let window = u32::try_from(window).unwrap_or(u32::MAX).min(WINDOW_MAX);
        let session = Session::new(
            Rc::clone(&served),
            nexus,
            self.tsih(&served),
            newcomer.parameters,
            (newcomer.first_cmd_sn, window),
        );
        served.sessions.borrow_mut().push(Rc::clone(&session));
        let link = Link::new(newcomer.cid);
        session.join(&link);
        (session, link)
    }

    fn serve(self: &Rc<Self>, info: &TargetInfo) -> Rc<Served<C>> {
        let mut all = self.served.borrow_mut();
        if let Some(served) = all.get(&info.name) {
            served.target.update(&info.units);
            return Rc::clone(served);
        }
        let catalog = Rc::clone(&self.catalog);
        let served = Rc::new(Served {
            target: Target::new(&self.reactor, catalog, &info.name, &info.units),
            name: info.name.clone(),
            sessions: RefCell::default(),
            registry: Rc::downgrade(self),
        });
        let ender: Rc<dyn EndTasks> = Rc::new(Ender(Rc::downgrade(&served)));
        served.target.set_ender(&ender);
        all.insert(info.name.clone(), Rc::clone(&served));
        served
    }

    /// A TSIH that no session of the target has.
    fn tsih(&self, served: &Served<C>) -> u16 {
        let sessions = served.sessions.borrow();
        loop {
            let tsih = self.next_tsih.get();
            self.next_tsih.set(tsih.checked_add(1).unwrap_or(1));
            if !sessions.iter().any(|session| session.tsih == tsih) {
                return tsih;
            }
        }
    }
}

/// Most commands of a session that wait or are carried out.
const WINDOW_MAX: u32 = 4096;
