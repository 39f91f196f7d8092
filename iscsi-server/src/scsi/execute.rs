//! One command on one logical unit: whether it may be carried out now, and who does it.
//!
//! In this order (SAM-5 section 5.3.3, SPC-4 section 4.2.1): a unit attention is told; what a
//! sanitize operation keeps out; what is wrong with the CDB; what the state of the port does not let
//! pass; what a reservation forbids; then the command.

use super::alua;
use super::capacity;
use super::cdb::{Command, ModeSense};
use super::opcodes::Access;
use super::sense::{Key, Refusal, Sense, code};
use super::target::{Answer, Planned, Target};
use super::unit::Unit;
use super::{Nexus, inquiry, log, luns, mode, report, vpd};
use crate::catalog::TargetCatalog;
use ashlar_client::BlockDevice;
use ashlar_reactor::Buffer;
use std::rc::Rc;

/// A command on its way: through which nexus, to which unit.
pub(super) struct Call<'a, C: TargetCatalog> {
    pub(super) target: &'a Target<C>,
    pub(super) unit: &'a Rc<Unit<C>>,
    pub(super) nexus: &'a Nexus,
}

/// What a command gives, or is refused with.
pub(super) type Done = Result<Answer, Refusal>;

impl<C: TargetCatalog> Call<'_, C> {
    /// Carries a planned command out.
    pub(super) async fn run(&self, planned: &Planned, data: Option<Buffer>) -> Done {
        let command = self.gate(planned).await?;
        if command.writes()
            && let Some(protected) = self.unit.write_protection()
        {
            return Err(protected.into());
        }
        let data = checked_data(planned, &command, data);
        match command {
            Command::Read { blocks } => self.read(blocks).await,
            Command::Write { blocks, durable } => self.write(blocks, durable, data).await,
            Command::WriteAndVerify { blocks, check } => {
                self.write_and_verify(blocks, check, data).await
            }
            Command::Verify { blocks, check } => self.verify(blocks, check, data).await,
            Command::PreFetch { blocks } => self.pre_fetch(blocks).await,
            Command::SynchronizeCache { blocks, immediate } => {
                self.synchronize(blocks, immediate).await
            }
            Command::StartStop { start, no_flush } => self.start_stop(start, no_flush).await,
            Command::CompareAndWrite { blocks, durable } => {
                self.compare_and_write(blocks, durable, data).await
            }
            Command::OrWrite { blocks, durable } => self.or_write(blocks, durable, data).await,
            Command::WriteSame { blocks, unmap, .. } => self.write_same(blocks, unmap, data).await,
            Command::Unmap { .. } => self.unmap(data).await,
            Command::GetLbaStatus { lba, allocation } => self.lba_status(lba, allocation).await,
            Command::Sanitize { kind, immediate } => self.sanitize(kind, immediate, data).await,
            Command::ExtendedCopy { .. } => self.extended_copy(data).await,
            command => self.manage(command, data).await,
        }
    }

    /// Commands that leave the medium alone.
    async fn manage(&self, command: Command, data: Given) -> Done {
        match command {
            Command::TestUnitReady => {
                let device = self.unit.device().await?;
                self.unit.blocks(&device.geometry());
                Ok(Answer::default())
            }
            Command::PreventAllow { .. } | Command::SendDiagnostic => Ok(Answer::default()),
            Command::ModeSelect { long, .. } => self.mode_select(long, &data?).await,
            Command::SetGroups { .. } => self.set_groups(&data?).await,
            Command::PersistentOut {
                action, scope_type, ..
            } => self.persistent_out(action, scope_type, &data?).await,
            Command::Reserve => self.reserve().await,
            Command::Release => Ok(self.release()),
            command => {
                let reply = self.describe(command).await?;
                Ok(self.reply(reply, command.allocation()))
            }
        }
    }

    /// Commands whose outcome is a reply.
    async fn describe(&self, command: Command) -> Result<Vec<u8>, Refusal> {
        Ok(match command {
            Command::RequestSense { descriptor, .. } => self.request_sense(descriptor),
            Command::Inquiry { page: None, .. } => inquiry::standard(true),
            Command::Inquiry {
                page: Some(page), ..
            } => vpd::page(page, self.unit.id(), self.nexus)?,
            Command::ReportLuns { select, .. } => self.report_luns(select),
            Command::ReadCapacity10 => capacity::read_capacity_10(self.unit.capacity().await?),
            Command::ReadCapacity16 { .. } => {
                capacity::read_capacity_16(self.unit.capacity().await?)
            }
            Command::ModeSense(asked) => self.mode_sense(&asked).await?,
            Command::LogSense { page, subpage, .. } => log::sense(page, subpage)?,
            Command::PersistentIn { action, .. } => self.persistent_in(action).await?,
            Command::ReportOpcodes(asked) => report::opcodes(&asked)?,
            Command::ReportTaskManagement { extended, .. } => report::task_management(extended),
            Command::ReportGroups { extended, .. } => {
                let groups = self.unit.groups(self.nexus.portal_group);
                alua::report(&groups, self.unit.cause(), extended)
            }
            Command::ReportIdentifying { kind, .. } => report::identifying(kind),
            Command::ReportTimestamp { .. } => {
                report::timestamp(self.target.reactor.wall_clock_ms())
            }
            Command::ReadDefectData { long, lists, .. } => report::defects(long, lists),
            Command::CopyStatus { list, .. } => self.copy_status(list)?,
            Command::CopyParameters { .. } => super::copy::operating_parameters(),
            _ => return Err(Sense::illegal(code::INVALID_OPERATION_CODE).into()),
        })
    }

    pub(super) fn reply(&self, bytes: Vec<u8>, allocation: u32) -> Answer {
        Answer {
            data_in: self.target.reply(bytes, allocation),
            ..Answer::default()
        }
    }

    /// The command, if nothing stands in its way.
    async fn gate(&self, planned: &Planned) -> Result<Command, Refusal> {
        // INQUIRY, REPORT LUNS and REQUEST SENSE are told without one (SAM-5 section 5.14.1).
        let opcode = planned.row.map(|row| row.opcode);
        let passes = matches!(opcode, Some(0x12 | 0xa0 | 0x03));
        if !passes && let Some(attention) = self.unit.take_attention(self.nexus.id) {
            return Err(attention.into());
        }
        let is_report = matches!(opcode, Some(0xa3 | 0x5e));
        if self.unit.sanitizing.get().is_some() && !passes && !is_report {
            return Err(Sense::not_ready(code::SANITIZE_IN_PROGRESS).into());
        }
        let command = planned.command?;
        let Some(row) = planned.row else {
            return Err(Sense::illegal(code::INVALID_OPERATION_CODE).into());
        };
        let access = row.access(&command);
        if !row.standby {
            // What is known of reservations here may be old as long as another server serves the unit.
            if let Some(refusal) = self.unit.standby() {
                return Err(refusal.into());
            }
            if matches!(access, Access::Read | Access::Write) {
                self.unit.device().await?;
            }
        }
        self.check_reservations(access).await?;
        Ok(command)
    }

    async fn check_reservations(&self, access: Access) -> Result<(), Refusal> {
        if access == Access::Free {
            return Ok(());
        }
        let reserved_by = self.unit.reserved_by.get();
        if reserved_by.is_some_and(|holder| holder != self.nexus.id) {
            return Err(Refusal::Conflict);
        }
        let permits = match access {
            Access::Free | Access::Query => return Ok(()),
            Access::Read | Access::Write => self.unit.permits(self.nexus).await?,
        };
        let may = match access {
            Access::Write => permits.write,
            _ => permits.read,
        };
        if may { Ok(()) } else { Err(Refusal::Conflict) }
    }

    fn request_sense(&self, descriptor: bool) -> Vec<u8> {
        let pending = self.unit.take_attention(self.nexus.id);
        let sanitizing = self.unit.sanitizing.get();
        let sense = match (pending, sanitizing) {
            (Some(attention), _) => attention,
            (None, Some(_)) => Sense::not_ready(code::SANITIZE_IN_PROGRESS),
            (None, None) => Sense::new(Key::NoSense, code::NONE),
        };
        sense.encode(descriptor)
    }

    fn report_luns(&self, select: luns::Select) -> Vec<u8> {
        for unit in self.target.units() {
            unit.clear_attention(self.nexus.id, code::LUNS_CHANGED);
        }
        luns::report(select, self.target.unit_numbers().into_iter())
    }

    /// The capacity is told if it can be had: mode pages are there without the medium.
    async fn mode_sense(&self, asked: &ModeSense) -> Result<Vec<u8>, Refusal> {
        let blocks = if asked.no_block {
            0
        } else {
            self.unit.capacity().await.unwrap_or(0)
        };
        let protected = self.unit.write_protection().is_some();
        Ok(mode::sense(asked, self.unit.mode.get(), blocks, protected)?)
    }

    async fn mode_select(&self, long: bool, list: &[u8]) -> Done {
        let blocks = match self.unit.blocks_known() {
            0 => self.unit.capacity().await.unwrap_or(0),
            known => known,
        };
        let before = self.unit.mode.get();
        let after = mode::select(list, long, before, blocks)?;
        if before != after {
            self.unit.mode.set(after);
            let by = Some(self.nexus.id);
            self.unit
                .raise_for_others(by, code::MODE_PARAMETERS_CHANGED);
        }
        Ok(Answer::default())
    }

    /// Goes on to its end even where its task is aborted: what was taken is served.
    async fn set_groups(&self, list: &[u8]) -> Done {
        let own = self.nexus.portal_group;
        if alua::parse_set(list, own, &self.unit.groups(own))? {
            let (unit, by) = (Rc::clone(self.unit), self.nexus.id);
            let activate = async move { unit.activate(by, true).await };
            self.target.reactor.spawn(activate).await?;
        }
        Ok(Answer::default())
    }
}

/// The data of a command as long as it must be, or what the command is refused with.
pub(super) type Given = Result<Data, Refusal>;

/// Data-Out; derefs to its bytes, none where there were none.
#[derive(Debug)]
pub(super) struct Data(Option<Buffer>);

impl Data {
    /// Keeps whole blocks.
    fn keep_blocks(&mut self) {
        let block_bytes = usize::try_from(capacity::BLOCK_BYTES).unwrap_or(1);
        let len = self.len() / block_bytes * block_bytes;
        if let Some(buffer) = &mut self.0 {
            buffer.truncate(len);
        }
        if len == 0 {
            self.0 = None;
        }
    }

    /// The buffer, where there is one.
    pub(super) fn into_buffer(self) -> Option<Buffer> {
        self.0
    }
}

impl std::ops::Deref for Data {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}

/// Data that is not as long as the CDB says. Of a write that is offered less, the whole blocks that
/// came are written, and the residual tells of the rest (FCP-4 section 9.4.2 a, as initiators of
/// iSCSI expect); any other command needs all of its data, and does nothing then.
fn checked_data(planned: &Planned, command: &Command, data: Option<Buffer>) -> Given {
    let mut data = Data(data);
    let offered = planned.offered_bytes;
    let more = offered.is_some_and(|offered| offered > planned.data_out_bytes);
    if more && command.data_out_exact() {
        return Err(Sense::illegal(code::INVALID_FIELD_IN_CDB).into());
    }
    if data.len() as u64 == planned.data_out_bytes {
        return Ok(data);
    }
    if !command.data_out_partial() || data.len() as u64 > planned.data_out_bytes {
        return Err(Sense::illegal(code::INVALID_INFORMATION_UNIT).into());
    }
    data.keep_blocks();
    Ok(data)
}
