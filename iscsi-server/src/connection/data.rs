//! Data of writes on its way into the buffers of their commands.

use super::{Connection, ConnectionError};
use crate::catalog::TargetCatalog;
use crate::framing::{Head, receive_into};
use crate::pdu::{DataOut, NO_TAG, RejectReason};
use crate::task::{Refusal, Task};
use crate::transfer::{Placement, TransferError};
use ashlar_front_end::Input;
use std::rc::Rc;

impl<C: TargetCatalog> Connection<'_, C> {
    /// Takes data that was asked for or announced.
    pub(super) async fn data_out(
        &self,
        input: &mut Input,
        head: &Head,
        data: DataOut,
    ) -> Result<(), ConnectionError> {
        let Some(task) = self
            .session
            .task(data.itt)
            .filter(|task| !task.is_aborted())
        else {
            if self.session.is_forgotten(data.itt) {
                return self.skip(input, head).await;
            }
            return self
                .refuse_pdu(input, head, RejectReason::InvalidField)
                .await;
        };
        if !Rc::ptr_eq(&task.link, &self.link) {
            return Err(ConnectionError::Protocol(
                "data on another connection than its command",
            ));
        }
        if data.ttt != NO_TAG && data.lun != task.lun {
            return Err(ConnectionError::Protocol(
                "data for another logical unit than its command",
            ));
        }
        let len = u32::try_from(head.data_bytes).unwrap_or(u32::MAX);
        let placed = task.transfer.borrow_mut().data(&data, len);
        let placement = match placed {
            Ok(placement) => placement,
            Err(TransferError::Sequence) => return self.lose_data(input, head, &task).await,
            Err(error) => {
                let itt = task.itt;
                return Err(ConnectionError::Transfer { itt, error });
            }
        };
        task.receiving.set(true);
        self.receive(input, head, &task, placement).await?;
        task.receiving.set(false);
        self.asked.set(self.registry.reactor.now());
        self.advance(&task);
        Ok(())
    }

    /// Section 7.9: data that is missing ends its command. What comes of it after that is forgotten.
    async fn lose_data(
        &self,
        input: &mut Input,
        head: &Head,
        task: &Rc<Task>,
    ) -> Result<(), ConnectionError> {
        self.session.forget(task.itt);
        task.transfer.borrow_mut().give_up();
        task.refuse(Refusal::DataLost);
        self.skip(input, head).await?;
        self.advance(task);
        Ok(())
    }

    /// Receives data to its place in the task's buffer; forgets it where there is none.
    pub(super) async fn receive(
        &self,
        input: &mut Input,
        head: &Head,
        task: &Rc<Task>,
        Placement { offset, keep }: Placement,
    ) -> Result<(), ConnectionError> {
        if keep == 0 || task.buffer.borrow().is_none() {
            return self.skip(input, head).await;
        }
        let Some(buffer) = task.buffer.take() else {
            return Ok(());
        };
        let parameters = self.parameters.get();
        let place = (offset, keep, head.data_bytes);
        let (buffer, received) = self
            .rest(receive_into(input, &parameters, buffer, place))
            .await;
        let is_whole = received?;
        *task.buffer.borrow_mut() = Some(buffer);
        if !is_whole {
            // Section 7.8: the PDU is rejected, and the command ends with an error.
            task.refuse(Refusal::Damaged);
            self.reject(RejectReason::DataDigest, &head.bhs);
        }
        Ok(())
    }
}
