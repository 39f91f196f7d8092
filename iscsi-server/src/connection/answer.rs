//! Answers to commands: data, status, sense data and residuals (RFC 7143 sections 11.4 and 11.7).
//!
//! Data leaves from the buffers that the device gave. The status of a read that went well rides
//! on its last data PDU.

use super::Connection;
use crate::catalog::TargetCatalog;
use crate::framing::Segment;
use crate::pdu::{DataIn, Residual, Response, ScsiResponse};
use crate::scsi::{Outcome, Status};
use crate::task::{Refusal, Task};
use ashlar_reactor::SharedBuffer;
use std::rc::Rc;

/// Bytes of fixed format sense data (SPC-4 section 4.5.3).
const SENSE_BYTES: usize = 18;

impl<C: TargetCatalog> Connection<'_, C> {
    /// Answers a command that was carried out.
    pub(super) fn answer(&self, task: &Rc<Task>, outcome: Outcome) {
        let total: u64 = outcome.data_in.iter().map(|piece| piece.len() as u64).sum();
        let room = if task.reads { task.expected_bytes } else { 0 };
        let len = total.min(room.into());
        let actual = if task.writes {
            task.data_out_bytes
        } else {
            total
        };
        let residual = Residual::between(task.expected_bytes, actual);
        let status = outcome.status as u8;
        let rides = outcome.status == Status::Good && outcome.sense.is_empty() && len > 0;
        let sent = self.data_in(
            task,
            &outcome.data_in,
            len,
            rides.then_some((status, residual)),
        );
        if !rides {
            let exp_data_sn = sent + task.transfer.borrow().solicitations();
            let response = ScsiResponse {
                itt: task.itt,
                status,
                residual,
                exp_data_sn,
            };
            self.status(response, &outcome.sense);
        }
        self.account(task);
    }

    /// Answers a command that was not carried out.
    pub(super) fn refuse(&self, task: &Rc<Task>) {
        let refusal = task.refusal.get().unwrap_or(Refusal::TaskSetFull);
        let sense = refusal.sense().map(fixed_sense);
        let status = if sense.is_some() {
            Status::CheckCondition
        } else {
            Status::TaskSetFull
        };
        let response = ScsiResponse {
            itt: task.itt,
            status: status as u8,
            residual: Residual::between(task.expected_bytes, 0),
            exp_data_sn: task.transfer.borrow().solicitations(),
        };
        self.status(response, sense.as_ref().map_or(&[], |sense| sense));
        task.buffer.take();
        self.account(task);
    }

    /// The task's memory is given back once its answer was sent.
    fn account(&self, task: &Task) {
        if task.admitted.replace(false) {
            self.outbox.borrow_mut().finish(task.cost.get());
        }
    }

    fn status(&self, response: ScsiResponse, sense: &[u8]) {
        if sense.is_empty() {
            return self.say(&Response::Scsi(response), &Segment::NONE);
        }
        // Section 11.4.7: the length comes before the sense data.
        let len = u16::try_from(sense.len()).unwrap_or(0);
        let mut data = len.to_be_bytes().to_vec();
        data.extend_from_slice(&sense[..usize::from(len)]);
        self.say(&Response::Scsi(response), &Segment::Bytes(&data));
    }

    /// Sends the first `len` bytes of `pieces`, with the status if there is one to ride on the
    /// last PDU. Gives how many PDUs that took.
    fn data_in(
        &self,
        task: &Task,
        pieces: &[SharedBuffer],
        len: u64,
        status: Option<(u8, Residual)>,
    ) -> u32 {
        let segment_max = self.parameters.get().send_segment_max as u64;
        let burst_max = u64::from(self.session.parameters.burst_max);
        let (mut offset, mut data_sn) = (0, 0);
        let mut cursor = Cursor::new(pieces);
        let mut parts = Vec::new();
        while offset < len {
            let burst_left = burst_max - offset % burst_max;
            let take = segment_max.min(burst_left).min(len - offset);
            let end = offset + take;
            cursor.take(take, &mut parts);
            let is_last = end == len;
            let data = DataIn {
                is_final: is_last || end.is_multiple_of(burst_max),
                itt: task.itt,
                data_sn,
                offset: u32::try_from(offset).unwrap_or(u32::MAX),
                status: status.filter(|_| is_last),
            };
            self.say(&Response::DataIn(data), &Segment::Shared(&parts));
            parts.clear();
            (offset, data_sn) = (end, data_sn + 1);
        }
        data_sn
    }
}

/// Current sense data in the fixed format.
fn fixed_sense((key, code, qualifier): (u8, u8, u8)) -> [u8; SENSE_BYTES] {
    let mut sense = [0; SENSE_BYTES];
    sense[0] = 0x70;
    sense[2] = key;
    sense[7] = 10;
    sense[12] = code;
    sense[13] = qualifier;
    sense
}

/// Walks over pieces.
struct Cursor<'a> {
    pieces: &'a [SharedBuffer],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn new(pieces: &'a [SharedBuffer]) -> Self {
        Self { pieces, at: 0 }
    }

    /// Appends the next `len` bytes, sharing their memory; fewer where they end.
    fn take(&mut self, len: u64, parts: &mut Vec<SharedBuffer>) {
        let mut left = len;
        while let Some((piece, rest)) = self.pieces.split_first().filter(|_| left > 0) {
            let here = piece.len() - self.at;
            let take = usize::try_from(left).map_or(here, |left| left.min(here));
            if take > 0 {
                parts.push(piece.slice(self.at..self.at + take));
            }
            left -= take as u64;
            self.at += take;
            if self.at == piece.len() {
                (self.pieces, self.at) = (rest, 0);
            }
        }
    }
}
