//! Text requests of a normal session.

use super::Connection;
use super::jobs::Job;
use crate::catalog::TargetCatalog;
use crate::discovery::{TextFault, TextStep, declared_segment};
use crate::framing::Segment;
use crate::pdu::{Lun, NO_TAG, RejectReason, Response, TextRequest};

impl<C: TargetCatalog> Connection<'_, C> {
    pub(super) fn begin_text(&self, request: &TextRequest, data: &[u8]) {
        let step = self
            .text
            .borrow_mut()
            .take(request, data, self.session.ttt());
        let (itt, lun) = (request.itt, request.lun);
        match step {
            Ok(TextStep::Ask(ttt)) => self.put_text(itt, lun, &[], ttt),
            Ok(TextStep::SendOn) => self.send_text(itt, lun),
            Ok(TextStep::Answer(keys)) => {
                if let Some(len) = declared_segment(&keys) {
                    let mut parameters = self.parameters.get();
                    parameters.send_segment_max = len;
                    self.parameters.set(parameters);
                }
                self.put_job(Job::Text { itt, lun, keys });
            }
            Err(fault) => self.finish_text(itt, lun, Err(fault)),
        }
    }

    pub(super) fn finish_text(&self, itt: u32, lun: Lun, answer: Result<Vec<u8>, TextFault>) {
        match answer {
            Ok(answer) => {
                self.text.borrow_mut().begin(answer);
                self.send_text(itt, lun);
            }
            Err(fault) => {
                let reason = match fault {
                    TextFault::Protocol => RejectReason::Protocol,
                    TextFault::Unavailable => RejectReason::OutOfResources,
                };
                let mut bhs = [0; crate::pdu::BHS_BYTES];
                bhs[0] = crate::pdu::opcode::TEXT;
                crate::pdu::put32(&mut bhs, 16, itt);
                self.reject(reason, &bhs);
            }
        }
    }

    fn send_text(&self, itt: u32, lun: Lun) {
        let len = self.parameters.get().send_segment_max;
        let piece = self.text.borrow_mut().piece(len, self.session.ttt());
        self.put_text(itt, lun, &piece.bytes, piece.ttt);
    }

    fn put_text(&self, itt: u32, lun: Lun, bytes: &[u8], ttt: u32) {
        let is_final = ttt == NO_TAG;
        let response = Response::Text {
            itt,
            ttt,
            lun,
            is_final,
            continues: !is_final && !bytes.is_empty(),
        };
        self.say(&response, &Segment::Bytes(bytes));
    }
}
