//! Somebody who asks for something, as the gate has found out.

use std::fmt;

use ashlar_proto::api::{Role, WhoAmI};
use ashlar_proto::volume_name::project_of;

use super::routes::Need;
use crate::refusal::AccessRefusal;

/// By what a caller has shown who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Means {
    /// By nothing: nobody has to.
    Open,
    /// It is of the conductor's process.
    Process,
    /// It is on this machine.
    Loopback,
    /// A key of that id.
    Key(String),
    /// A token of that `jti`.
    Token(String),
    /// A certificate of this cluster.
    Certificate,
}

impl fmt::Display for Means {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open => f.write_str("open"),
            Self::Process => f.write_str("process"),
            Self::Loopback => f.write_str("loopback"),
            Self::Key(id) => write!(f, "key {id}"),
            Self::Token(id) => write!(f, "token {id}"),
            Self::Certificate => f.write_str("certificate"),
        }
    }
}

/// A caller: the request extension that handlers find.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    /// A user's name, a node's, or what stands for nobody in particular.
    pub(crate) name: String,
    pub(crate) means: Means,
    pub(crate) role: Role,
    /// Where; everywhere, if `None`.
    pub(crate) projects: Option<Vec<String>>,
}

impl Caller {
    /// Who is let in without saying who it is.
    pub(crate) fn free(means: Means) -> Self {
        Self {
            name: "local".to_owned(),
            means,
            role: Role::Admin,
            projects: None,
        }
    }

    /// A node that has shown a certificate of this cluster.
    pub(crate) fn node(name: String, role: Role) -> Self {
        Self {
            name,
            means: Means::Certificate,
            role,
            projects: None,
        }
    }

    /// Whether volumes of that name are its business.
    pub(crate) fn sees(&self, volume: &str) -> bool {
        let project = project_of(volume);
        let projects = self.projects.as_ref();
        projects.is_none_or(|projects| projects.iter().any(|some| some == project))
    }

    /// Whether a project is its business.
    pub(crate) fn sees_project(&self, project: &str) -> bool {
        let projects = self.projects.as_ref();
        projects.is_none_or(|projects| projects.iter().any(|some| some == project))
    }

    /// Refuses what its role does not reach.
    pub(crate) fn require(&self, need: Need) -> Result<(), AccessRefusal> {
        if need.is_met_by(self.role) {
            return Ok(());
        }
        Err(AccessRefusal::Role {
            who: self.name.clone(),
            role: self.role.name(),
            needed: need.word(),
        })
    }

    /// Refuses a volume of a project that is none of its.
    pub(crate) fn require_volume(&self, volume: &str) -> Result<(), AccessRefusal> {
        if self.sees(volume) {
            return Ok(());
        }
        Err(AccessRefusal::OtherProject {
            who: self.name.clone(),
            project: project_of(volume).chars().take(80).collect(),
        })
    }

    /// Refuses who may do things in some projects only.
    pub(crate) fn require_whole(&self) -> Result<(), AccessRefusal> {
        match self.projects {
            None => Ok(()),
            Some(_) => Err(AccessRefusal::NotWhole {
                who: self.name.clone(),
            }),
        }
    }

    /// As the API tells it.
    pub(crate) fn show(&self) -> WhoAmI {
        WhoAmI {
            name: self.name.clone(),
            means: self.means.to_string(),
            role: self.role,
            projects: self.projects.clone(),
        }
    }
}
