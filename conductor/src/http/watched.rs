//! What can be listed and watched, and how each kind is found.
//!
//! Invariant: the keys of items are in the order in which they are listed, and an item keeps its key for
//! as long as it is there.

use ashlar_proto::api::{DeniedClient, Disk, IscsiServer, Node, Snapshot, Target, Task, Volume};
use serde::Serialize;

use super::page::Filter;
use crate::cluster::View;
use crate::membership::Moment;
use crate::row::AnyRow;
use crate::state::Subject;

/// Items of a list.
pub(super) type Items<'a, T> = Box<dyn Iterator<Item = T> + 'a>;

/// See the module.
pub(super) trait Watched: Serialize + Send + Sync + Sized + 'static {
    /// Whether it looks otherwise where rows change that are not its own.
    const IS_SNAPSHOT: bool = false;

    /// All of them, in order.
    fn all<'a>(view: &'a View, at: Moment, filter: &'a Filter) -> Items<'a, Self>;

    /// By what it is ordered.
    fn key(&self) -> String;

    /// Whether it is asked for.
    fn is_selected(&self, filter: &Filter) -> bool;

    /// Whether it is the business of who asks; what is of no project is that of whoever got so far.
    fn is_seen(&self, _: &Filter) -> bool {
        true
    }

    /// The item, if the subject is one of these.
    fn find(view: &View, at: Moment, subject: &Subject) -> Option<Self>;

    /// The item as a removed row last said it was.
    fn removed(view: &View, row: AnyRow) -> Option<Self>;

    /// Those that are asked for beyond a key, in order.
    fn after<'a>(
        view: &'a View,
        at: Moment,
        after: Option<&'a str>,
        filter: &'a Filter,
    ) -> Items<'a, Self> {
        let is_next = move |item: &Self| after.is_none_or(|after| item.key().as_str() > after);
        let all = Self::all(view, at, filter).filter(is_next);
        Box::new(all.filter(move |item| item.is_seen(filter) && item.is_selected(filter)))
    }
}

fn begins(name: &str, filter: &Filter) -> bool {
    let prefix = filter.prefix.as_deref().unwrap_or_default();
    name.starts_with(prefix)
}

impl Watched for Volume {
    fn all<'a>(view: &'a View, at: Moment, filter: &'a Filter) -> Items<'a, Self> {
        Self::after(view, at, None, filter)
    }

    fn key(&self) -> String {
        self.id.to_string()
    }

    fn is_selected(&self, filter: &Filter) -> bool {
        let labels = filter.labels.as_ref();
        begins(&self.name, filter) && labels.is_none_or(|labels| labels.selects(&self.labels))
    }

    fn is_seen(&self, filter: &Filter) -> bool {
        filter.sees(&self.name)
    }

    fn find(view: &View, _: Moment, subject: &Subject) -> Option<Self> {
        match subject {
            Subject::Volume(id) => view.state.volume(*id),
            _ => None,
        }
    }

    fn removed(_: &View, row: AnyRow) -> Option<Self> {
        match row {
            AnyRow::Volume(row) => Some(crate::state::ClusterState::empty().show_removed(&row)),
            _ => None,
        }
    }

    /// There may be very many: those that are not asked for are passed over as rows.
    fn after<'a>(
        view: &'a View,
        _: Moment,
        after: Option<&'a str>,
        filter: &'a Filter,
    ) -> Items<'a, Self> {
        let labels = filter.labels.as_ref();
        let after = after.map(|key| key.parse().unwrap_or_default());
        let rows = view.state.volumes_after(after).filter(move |row| {
            filter.sees(&row.name)
                && begins(&row.name, filter)
                && labels.is_none_or(|labels| labels.selects(&row.labels))
        });
        Box::new(rows.map(move |row| view.state.show_volume(row, false)))
    }
}

impl Watched for Node {
    fn all<'a>(view: &'a View, at: Moment, _: &'a Filter) -> Items<'a, Self> {
        Box::new(view.state.nodes(&view.live, at).into_iter())
    }

    fn key(&self) -> String {
        format!("{:016x}", self.id.get())
    }

    fn is_selected(&self, filter: &Filter) -> bool {
        let labels = filter.labels.as_ref();
        begins(&self.name, filter) && labels.is_none_or(|labels| labels.selects(&self.labels))
    }

    fn find(view: &View, at: Moment, subject: &Subject) -> Option<Self> {
        match subject {
            Subject::Node(id) => view.state.node(*id, &view.live, at),
            _ => None,
        }
    }

    fn removed(_: &View, row: AnyRow) -> Option<Self> {
        match row {
            AnyRow::Node(row) => Some(crate::state::removed_node(row)),
            _ => None,
        }
    }
}

impl Watched for Disk {
    fn all<'a>(view: &'a View, _: Moment, _: &'a Filter) -> Items<'a, Self> {
        Box::new(view.state.disks(&view.live).into_iter())
    }

    fn key(&self) -> String {
        self.report.id.to_string()
    }

    /// A disk goes by the name of its node, and by the labels that it has itself.
    fn is_selected(&self, filter: &Filter) -> bool {
        let labels = filter.labels.as_ref();
        begins(&self.node_name, filter) && labels.is_none_or(|labels| labels.selects(&self.labels))
    }

    fn find(view: &View, _: Moment, subject: &Subject) -> Option<Self> {
        match subject {
            Subject::Disk(id) => view.state.disk(*id, &view.live),
            _ => None,
        }
    }

    fn removed(view: &View, row: AnyRow) -> Option<Self> {
        match row {
            AnyRow::Disk(row) => Some(view.state.removed_disk(row)),
            _ => None,
        }
    }
}

impl Watched for Snapshot {
    const IS_SNAPSHOT: bool = true;

    fn all<'a>(view: &'a View, _: Moment, filter: &'a Filter) -> Items<'a, Self> {
        match &filter.volume {
            // Who asks for those of a volume that is not there is refused before.
            Some(volume) => {
                let some = view.state.snapshots_of(volume, filter.deleted);
                Box::new(some.unwrap_or_default().into_iter())
            }
            None => Box::new(view.state.snapshots(filter.deleted).into_iter()),
        }
    }

    fn key(&self) -> String {
        format!("{}/{:08x}", self.volume, self.layer.get())
    }

    fn is_selected(&self, filter: &Filter) -> bool {
        let of = filter.volume.as_ref();
        begins(&self.name, filter)
            && (filter.deleted || !self.deleted)
            && of.is_none_or(|volume| *volume == self.volume_name)
    }

    fn is_seen(&self, filter: &Filter) -> bool {
        filter.sees(&self.volume_name)
    }

    fn find(view: &View, _: Moment, subject: &Subject) -> Option<Self> {
        match subject {
            Subject::Snapshot(volume, layer) => view.state.snapshot_at(*volume, *layer),
            _ => None,
        }
    }

    fn removed(view: &View, row: AnyRow) -> Option<Self> {
        match row {
            AnyRow::Snapshot(row) => Some(view.state.removed_snapshot(row)),
            _ => None,
        }
    }
}

impl Watched for Target {
    fn all<'a>(view: &'a View, _: Moment, _: &'a Filter) -> Items<'a, Self> {
        Box::new(view.state.targets().into_iter())
    }

    fn key(&self) -> String {
        self.name.to_string()
    }

    fn is_selected(&self, filter: &Filter) -> bool {
        begins(self.name.as_str(), filter)
    }

    fn find(view: &View, _: Moment, subject: &Subject) -> Option<Self> {
        match subject {
            Subject::Target(name) => view.state.target(name).ok(),
            _ => None,
        }
    }

    fn removed(view: &View, row: AnyRow) -> Option<Self> {
        match row {
            AnyRow::Target(row) => Some(view.state.show_target(&row)),
            _ => None,
        }
    }
}

impl Watched for IscsiServer {
    fn all<'a>(view: &'a View, _: Moment, _: &'a Filter) -> Items<'a, Self> {
        Box::new(view.state.servers().into_iter())
    }

    fn key(&self) -> String {
        format!("{:04x}", self.group.get())
    }

    fn is_selected(&self, filter: &Filter) -> bool {
        begins(&self.name, filter)
    }

    fn find(view: &View, _: Moment, subject: &Subject) -> Option<Self> {
        match subject {
            Subject::Server(group) => view.state.server(*group),
            _ => None,
        }
    }

    fn removed(_: &View, row: AnyRow) -> Option<Self> {
        match row {
            AnyRow::Server(row) => Some(row.show()),
            _ => None,
        }
    }
}

impl Watched for DeniedClient {
    fn all<'a>(view: &'a View, _: Moment, _: &'a Filter) -> Items<'a, Self> {
        Box::new(view.state.denied().into_iter())
    }

    fn key(&self) -> String {
        self.client.clone()
    }

    fn is_selected(&self, filter: &Filter) -> bool {
        begins(&self.client, filter)
    }

    fn find(view: &View, _: Moment, subject: &Subject) -> Option<Self> {
        match subject {
            Subject::Denied(client) => view.state.denied_client(client),
            _ => None,
        }
    }

    fn removed(_: &View, row: AnyRow) -> Option<Self> {
        match row {
            AnyRow::Denied(row) => Some(row.show()),
            _ => None,
        }
    }
}

/// Tasks are listed only: they change without a row.
impl Watched for Task {
    fn all<'a>(view: &'a View, _: Moment, _: &'a Filter) -> Items<'a, Self> {
        Box::new(view.live.tasks.tasks().into_iter())
    }

    fn key(&self) -> String {
        self.id.clone()
    }

    fn is_selected(&self, filter: &Filter) -> bool {
        begins(&self.id, filter)
    }

    fn find(_: &View, _: Moment, _: &Subject) -> Option<Self> {
        None
    }

    fn removed(_: &View, _: AnyRow) -> Option<Self> {
        None
    }
}
