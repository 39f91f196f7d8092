//! Projects: what their volumes add up to, and how much that may be.
//!
//! Invariant: a volume is made, or grows, only in a transaction that compares the row of its project, so
//! no two of them pass a quota together.

use std::collections::BTreeMap;

use ashlar_proto::ByteCount;
use ashlar_proto::api::{CreateProject, Project, SetQuota};
use ashlar_proto::volume_name::{DEFAULT_PROJECT, project_of};

use super::{ClusterState, Plan};
use crate::meta::Change;
use crate::refusal::{AccessRefusal, InvalidRequest, Refusal, check_name};
use crate::row::{AnyRow, ProjectRow, VolumeRow, project_key};

/// Most projects.
const PROJECTS_MAX: usize = 4096;

/// What the volumes of a project add up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Usage {
    bytes: u64,
    volumes: u64,
}

/// The projects.
#[derive(Clone, Debug, Default)]
pub(crate) struct Projects {
    rows: BTreeMap<String, ProjectRow>,
    /// Of projects that have volumes.
    used: BTreeMap<String, Usage>,
}

impl Projects {
    pub(super) fn put(&mut self, row: ProjectRow) {
        self.rows.insert(row.name.clone(), row);
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.rows.remove(name);
    }

    /// A volume's row is another now.
    pub(super) fn count(&mut self, before: Option<&VolumeRow>, after: Option<&VolumeRow>) {
        if let Some(row) = before {
            let project = project_of(&row.name);
            let used = self.used.entry(project.to_owned()).or_default();
            used.bytes = used.bytes.saturating_sub(counted(row));
            used.volumes = used.volumes.saturating_sub(1);
            if used.volumes == 0 {
                self.used.remove(project);
            }
        }
        if let Some(row) = after {
            let used = self.used.entry(project_of(&row.name).to_owned());
            let used = used.or_default();
            used.bytes = used.bytes.saturating_add(counted(row));
            used.volumes += 1;
        }
    }

    fn used(&self, project: &str) -> Usage {
        self.used.get(project).copied().unwrap_or_default()
    }

    fn show(&self, row: &ProjectRow) -> Project {
        let used = self.used(&row.name);
        Project {
            name: row.name.clone(),
            quota_bytes: row.quota_bytes,
            quota_volumes: row.quota_volumes,
            bytes: ByteCount::new(used.bytes),
            volumes: used.volumes,
        }
    }
}

/// What a volume counts for: its size, or the one that it grows to.
fn counted(row: &VolumeRow) -> u64 {
    row.size_bytes.max(row.grows_to.unwrap_or_default()).get()
}

impl ClusterState {
    /// All projects, by name; that of plain names among them.
    pub(crate) fn projects(&self) -> Vec<Project> {
        let mut rows = self.projects.rows.clone();
        let plain = rows.entry(DEFAULT_PROJECT.to_owned());
        plain.or_insert_with(|| row_without_quota(DEFAULT_PROJECT));
        rows.values().map(|row| self.projects.show(row)).collect()
    }

    /// Refuses a volume that is made, or changed from `before`, beyond the quotas of its project, or in
    /// none that there is.
    pub(super) fn check_quota(
        &self,
        name: &str,
        before: Option<&VolumeRow>,
        after: &VolumeRow,
    ) -> Result<(), AccessRefusal> {
        let project = project_of(name).to_owned();
        let Some(row) = self.projects.rows.get(&project) else {
            if project == DEFAULT_PROJECT || before.is_some() {
                return Ok(());
            }
            return Err(AccessRefusal::NoProject { project });
        };
        let used = self.projects.used(&project);
        if let Some(quota) = row.quota_volumes
            && before.is_none()
            && used.volumes >= quota
        {
            return Err(AccessRefusal::QuotaVolumes { project, quota });
        }
        let more = counted(after).saturating_sub(before.map_or(0, counted));
        match row.quota_bytes {
            Some(quota) if more > 0 && used.bytes.saturating_add(more) > quota.get() => {
                Err(AccessRefusal::QuotaBytes {
                    project,
                    used: ByteCount::new(used.bytes),
                    quota,
                    more: ByteCount::new(more),
                })
            }
            _ => Ok(()),
        }
    }

    /// A new project.
    pub(crate) fn plan_project_create(
        &self,
        request: &CreateProject,
    ) -> Result<Plan<Project>, Refusal> {
        check_name(&request.name)?;
        let project = request.name.clone();
        if project == DEFAULT_PROJECT {
            return Err(AccessRefusal::DefaultProject { project }.into());
        }
        if self.projects.rows.contains_key(&project) {
            return Err(AccessRefusal::ProjectExists { project }.into());
        }
        if self.projects.rows.len() >= PROJECTS_MAX {
            let (field, most) = ("projects", PROJECTS_MAX);
            return Err(InvalidRequest::TooMany { field, most }.into());
        }
        Ok(self.put_project(ProjectRow {
            name: project,
            quota_bytes: request.quota_bytes,
            quota_volumes: request.quota_volumes,
        }))
    }

    /// Other quotas.
    pub(crate) fn plan_project_quota(
        &self,
        name: &str,
        request: &SetQuota,
    ) -> Result<Plan<Project>, Refusal> {
        if name != DEFAULT_PROJECT {
            self.require_project(name)?;
        }
        let row = ProjectRow {
            name: name.to_owned(),
            quota_bytes: request.quota_bytes,
            quota_volumes: request.quota_volumes,
        };
        let is_as_before = self.projects.rows.get(name) == Some(&row);
        let mut plan = self.put_project(row);
        if is_as_before {
            plan.changes.clear();
        }
        Ok(plan)
    }

    /// Ends a project that has no volumes.
    pub(crate) fn plan_project_delete(&self, name: &str) -> Result<Plan<()>, Refusal> {
        let project = name.to_owned();
        if name == DEFAULT_PROJECT {
            return Err(AccessRefusal::DefaultProject { project }.into());
        }
        self.require_project(name)?;
        let volumes = self.projects.used(name).volumes;
        if volumes > 0 {
            return Err(AccessRefusal::ProjectInUse { project, volumes }.into());
        }
        let key = project_key(name);
        Ok(Plan {
            reads: Vec::new(),
            changes: vec![Change::Delete { key }],
            answer: (),
        })
    }

    /// The project of that name.
    pub(crate) fn show_project(&self, name: &str) -> Result<Project, AccessRefusal> {
        Ok(self.projects.show(self.require_project(name)?))
    }

    fn require_project(&self, name: &str) -> Result<&ProjectRow, AccessRefusal> {
        let row = self.projects.rows.get(name);
        row.ok_or_else(|| AccessRefusal::NoProject {
            project: name.chars().take(80).collect(),
        })
    }

    fn put_project(&self, row: ProjectRow) -> Plan<Project> {
        let answer = self.projects.show(&row);
        Plan {
            reads: Vec::new(),
            changes: vec![AnyRow::Project(row).put()],
            answer,
        }
    }
}

fn row_without_quota(name: &str) -> ProjectRow {
    ProjectRow {
        name: name.to_owned(),
        quota_bytes: None,
        quota_volumes: None,
    }
}

#[cfg(test)]
mod tests;
