//! Receives PDUs: checks them, and puts what has a number into the order of the session.

use super::{CHATTER_BYTES_MAX, Connection, ConnectionError, EXTRA_JOBS_MAX, End};
use crate::catalog::TargetCatalog;
use crate::framing::{FramingError, Head, receive_data, receive_head, skip_data};
use crate::pdu::{
    Attribute, Fault, NO_TAG, NopOut, RejectReason, Request, ScsiCommand, TextRequest, cmd_sn,
    is_immediate, opcode, parse_additional,
};
use crate::task::{Refusal, Task};
use crate::transfer::{Bounds, Transfer};
use crate::work::Work;
use ashlar_front_end::{Input, TransportError};
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::task::Poll;

/// Longest data segment of a text request.
const TEXT_BYTES_MAX: usize = 16 << 10;

/// What becomes of something that has a command number.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    Taken,
    Ignored,
    /// There are too many immediate ones.
    Refused,
}

impl<C: TargetCatalog> Connection<'_, C> {
    /// Receives until the initiator goes away.
    pub(super) async fn read(&self, input: &mut Input) -> Result<End, ConnectionError> {
        loop {
            // An initiator that does not read answers is not read any more.
            poll_fn(|_| match self.chatter.get() < CHATTER_BYTES_MAX {
                true => Poll::Ready(()),
                false => Poll::Pending,
            })
            .await;
            let parameters = self.parameters.get();
            let head = match receive_head(input, &parameters).await {
                Err(FramingError::Transport(TransportError::Closed))
                    if input.available().is_empty() =>
                {
                    return Ok(End::Vanished);
                }
                head => head?,
            };
            self.heard.set(self.registry.reactor.now());
            self.moved();
            self.request(input, head).await?;
            self.changed();
        }
    }

    /// A receive that is to end within a bound.
    pub(super) async fn rest<T>(&self, receive: impl Future<Output = T>) -> T {
        self.reading_since.set(Some(self.registry.reactor.now()));
        let received = self.transfer(receive).await;
        self.reading_since.set(None);
        received
    }

    pub(super) async fn skip(&self, input: &mut Input, head: &Head) -> Result<(), ConnectionError> {
        let parameters = self.parameters.get();
        Ok(self
            .rest(skip_data(input, &parameters, head.data_bytes))
            .await?)
    }

    /// Refuses a PDU whose data is still to come. Its command number counts as used.
    pub(super) async fn refuse_pdu(
        &self,
        input: &mut Input,
        head: &Head,
        reason: RejectReason,
    ) -> Result<(), ConnectionError> {
        self.skip(input, head).await?;
        let is_numbered = matches!(
            head.bhs[0] & 0x3f,
            opcode::NOP_OUT
                | opcode::SCSI_COMMAND
                | opcode::TASK_MANAGEMENT
                | opcode::TEXT
                | opcode::LOGOUT
        );
        if is_numbered && !is_immediate(&head.bhs) {
            self.session.skip(cmd_sn(&head.bhs));
        }
        self.reject(reason, &head.bhs);
        Ok(())
    }

    async fn request(&self, input: &mut Input, head: Head) -> Result<(), ConnectionError> {
        let request = match Request::parse(&head.bhs) {
            Ok(request) => request,
            Err(Fault::Opcode) => {
                return self
                    .refuse_pdu(input, &head, RejectReason::NotSupported)
                    .await;
            }
            Err(Fault::Field) => {
                return self
                    .refuse_pdu(input, &head, RejectReason::InvalidField)
                    .await;
            }
        };
        match request {
            Request::DataOut(data) => return self.data_out(input, &head, data).await,
            // Section 11.16: at recovery level 0 there is nothing to be asked for again.
            Request::Snack => return self.refuse_pdu(input, &head, RejectReason::Snack).await,
            Request::Login(_) => {
                self.reject(RejectReason::Protocol, &head.bhs);
                return Err(ConnectionError::Protocol("login request after the login"));
            }
            _ => {}
        }
        match self.turn(&request, &head) {
            Turn::Taken => self.take(input, &head, request).await,
            Turn::Ignored => self.skip(input, &head).await,
            Turn::Refused => {
                let reason = RejectReason::TooManyImmediate;
                self.refuse_pdu(input, &head, reason).await
            }
        }
    }

    /// Whether something that has a command number may come now.
    fn turn(&self, request: &Request, head: &Head) -> Turn {
        let is_now = is_immediate(&head.bhs);
        let is_crowded = self.jobs_running.get() + self.jobs.borrow().len() >= self.jobs_max()
            || self.session.immediate_tasks() >= EXTRA_JOBS_MAX;
        let turn = match is_now {
            true if is_crowded => Turn::Refused,
            // Section 4.2.2.1: what lies outside the window is ignored without a word.
            false if !self.session.may_come(cmd_sn(&head.bhs)) => Turn::Ignored,
            _ => Turn::Taken,
        };
        if turn != Turn::Taken
            && let Request::Command(command) = request
            && !command.is_final
        {
            self.session.forget(command.itt);
        }
        turn
    }

    async fn take(
        &self,
        input: &mut Input,
        head: &Head,
        request: Request,
    ) -> Result<(), ConnectionError> {
        match request {
            Request::Command(command) => self.command(input, head, &command).await,
            Request::NopOut(nop) => self.nop_out(input, head, nop).await,
            Request::Text(text) => self.text(input, head, text).await,
            Request::Management(request) => {
                self.skip(input, head).await?;
                self.arrive(head, Work::Management(request, cmd_sn(&head.bhs)));
                Ok(())
            }
            Request::Logout(request) => {
                self.skip(input, head).await?;
                self.arrive(head, Work::Logout(request));
                Ok(())
            }
            Request::DataOut(_) | Request::Snack | Request::Login(_) => Ok(()),
        }
    }

    /// Jobs that leave room for those that have their turn.
    fn jobs_max(&self) -> usize {
        self.registry.options.limits.requests_in_flight_max.max(1) + EXTRA_JOBS_MAX
    }

    /// Puts something into the order of commands. False if it is ignored.
    fn arrive(&self, head: &Head, work: Work) -> bool {
        if is_immediate(&head.bhs) {
            self.link.deliver(work);
            return true;
        }
        self.session.arrive(cmd_sn(&head.bhs), &self.link, work)
    }

    async fn nop_out(
        &self,
        input: &mut Input,
        head: &Head,
        nop: NopOut,
    ) -> Result<(), ConnectionError> {
        let parameters = self.parameters.get();
        let data = self
            .rest(receive_data(input, &parameters, head.data_bytes))
            .await?;
        let Some(mut data) = data else {
            // Its number stays free: it may come again.
            self.reject(RejectReason::DataDigest, &head.bhs);
            return Ok(());
        };
        if nop.ttt != NO_TAG {
            self.pinged.set(None);
        }
        if nop.itt == NO_TAG {
            return Ok(());
        }
        let number = cmd_sn(&head.bhs);
        if !is_immediate(&head.bhs) && !self.session.is_undisturbed(number) {
            // It waits for its turn, without the memory that its data would take.
            data = Vec::new();
        }
        self.arrive(head, Work::Nop(nop, data));
        Ok(())
    }

    async fn text(
        &self,
        input: &mut Input,
        head: &Head,
        request: TextRequest,
    ) -> Result<(), ConnectionError> {
        if head.data_bytes > TEXT_BYTES_MAX {
            return self.refuse_pdu(input, head, RejectReason::Protocol).await;
        }
        let parameters = self.parameters.get();
        let data = self
            .rest(receive_data(input, &parameters, head.data_bytes))
            .await?;
        match data {
            Some(data) => {
                self.arrive(head, Work::Text(request, data));
            }
            None => self.reject(RejectReason::DataDigest, &head.bhs),
        }
        Ok(())
    }

    async fn command(
        &self,
        input: &mut Input,
        head: &Head,
        command: &ScsiCommand,
    ) -> Result<(), ConnectionError> {
        self.check_unsolicited(head, command)?;
        let Some(additional) = parse_additional(&head.additional) else {
            return self
                .refuse_pdu(input, head, RejectReason::InvalidField)
                .await;
        };
        let target = &self.session.served.target;
        let mut planned = if additional.cdb_rest.is_empty() {
            target.plan(command.lun, &command.cdb)
        } else {
            let cdb = [&command.cdb[..], &additional.cdb_rest].concat();
            target.plan(command.lun, &cdb)
        };
        let expected = if command.writes {
            command.expected_bytes
        } else {
            0
        };
        planned.offer(expected.into());
        let wanted = u32::try_from(planned.data_out_bytes)
            .unwrap_or(u32::MAX)
            .min(expected);
        let immediate = u32::try_from(head.data_bytes).unwrap_or(u32::MAX);
        let transfer = Transfer::new(self.bounds(), wanted, expected, immediate, command.is_final)
            .map_err(|error| ConnectionError::Transfer {
                itt: command.itt,
                error,
            })?;
        let is_now = is_immediate(&head.bhs);
        let task = Task::new(command, is_now, planned, transfer, Rc::clone(&self.link));
        let task = Rc::new(task);
        if !self.session.add(&task) {
            return self
                .refuse_pdu(input, head, RejectReason::TaskInProgress)
                .await;
        }
        self.session.recall(task.itt);
        if command.reads && command.writes {
            self.refuse_unadmitted(&task, Refusal::Bidirectional);
        } else if command.attribute == Attribute::Aca {
            self.refuse_unadmitted(&task, Refusal::Attribute);
        } else if wanted > 0 && (immediate > 0 || !command.is_final) {
            let may_wait = is_now || self.session.is_undisturbed(cmd_sn(&head.bhs));
            self.admit_for_data(&task, may_wait).await;
        }
        if immediate > 0 {
            let placement = task.transfer.borrow().immediate();
            self.receive(input, head, &task, placement).await?;
        }
        self.enlist(head, &task);
        Ok(())
    }

    /// Section 13.10 and 13.11: unsolicited data only as it was agreed on.
    fn check_unsolicited(&self, head: &Head, command: &ScsiCommand) -> Result<(), ConnectionError> {
        let session = &self.session.parameters;
        if head.data_bytes > 0 && !(command.writes && session.immediate_data) {
            return Err(ConnectionError::Protocol(
                "immediate data that was not agreed on",
            ));
        }
        if !command.is_final && session.initial_r2t {
            return Err(ConnectionError::Protocol(
                "unsolicited data that was not agreed on",
            ));
        }
        Ok(())
    }

    fn bounds(&self) -> Bounds {
        let session = &self.session.parameters;
        Bounds {
            burst_max: session.burst_max,
            first_burst_max: session.first_burst_max,
            outstanding_max: session.outstanding_r2t_max,
        }
    }

    /// Puts a task, whose immediate data is there, into the order of commands.
    fn enlist(&self, head: &Head, task: &Rc<Task>) {
        if task.is_aborted() {
            // Before its turn: the number is used, and nothing comes of it.
            if !task.immediate {
                self.session.skip(cmd_sn(&head.bhs));
            }
        } else if !self.arrive(head, Work::Command(Rc::clone(task))) {
            // Another one of this number came meanwhile.
            self.session
                .abort(|other| std::ptr::eq(Rc::as_ptr(task), other));
        }
    }
}
