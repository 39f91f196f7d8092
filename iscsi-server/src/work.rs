//! What initiators want done, in the order of their commands.

use crate::pdu::{LogoutRequest, NopOut, TaskManagement, TextRequest};
use crate::task::Task;
use std::rc::Rc;

/// Something to be done when its turn has come.
pub(crate) enum Work {
    Command(Rc<Task>),
    /// With its command number.
    Management(TaskManagement, u32),
    /// With the data that is to come back.
    Nop(NopOut, Vec<u8>),
    Text(TextRequest, Vec<u8>),
    Logout(LogoutRequest),
}
