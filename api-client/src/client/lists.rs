//! Lists, page by page.
//!
//! A list has the revision of its first page: a watch from there tells of all that has changed since,
//! whatever changed while the others were read.

use std::collections::BTreeMap;

use ashlar_proto::api::{
    DeniedClient, Disk, IscsiServer, List, Node, Snapshot, Target, Task, Volume,
};
use reqwest::Method;
use serde::de::DeserializeOwned;

use super::{ApiClient, ApiError, json, send};

/// Items of one page.
const PAGE_ITEMS: u32 = 2000;

/// Which volumes of a list are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VolumeFilter {
    /// Those alone whose names begin so.
    pub prefix: Option<String>,
    /// Those alone whose labels are so: `NAME=VALUE`, `NAME!=VALUE`, `NAME` or `!NAME`, with commas
    /// between.
    pub labels: Option<String>,
}

type Query<'a> = BTreeMap<&'a str, String>;

impl ApiClient {
    /// `GET /v1/volumes`: all of them.
    pub async fn volumes(&self) -> Result<List<Volume>, ApiError> {
        self.volumes_selected(&VolumeFilter::default()).await
    }

    /// `GET /v1/volumes`: some of them.
    pub async fn volumes_selected(&self, filter: &VolumeFilter) -> Result<List<Volume>, ApiError> {
        let mut query = Query::new();
        query.extend(filter.prefix.clone().map(|prefix| ("prefix", prefix)));
        query.extend(filter.labels.clone().map(|labels| ("labels", labels)));
        self.all(&["volumes"], query).await
    }

    /// `GET /v1/nodes`.
    pub async fn nodes(&self) -> Result<List<Node>, ApiError> {
        self.all(&["nodes"], Query::new()).await
    }

    /// `GET /v1/disks`: all of them.
    pub async fn disks(&self) -> Result<List<Disk>, ApiError> {
        self.disks_selected(None).await
    }

    /// `GET /v1/disks`: those alone whose own labels are so, as [`VolumeFilter::labels`] says it.
    pub async fn disks_selected(&self, labels: Option<&str>) -> Result<List<Disk>, ApiError> {
        let labels = labels.map(|labels| ("labels", labels.to_owned()));
        self.all(&["disks"], labels.into_iter().collect()).await
    }

    /// `GET /v1/snapshots`, or those of one volume.
    pub async fn snapshots(
        &self,
        volume: Option<&str>,
        deleted: bool,
    ) -> Result<List<Snapshot>, ApiError> {
        let path: &[&str] = match volume {
            Some(volume) => &["volumes", volume, "snapshots"],
            None => &["snapshots"],
        };
        self.all(path, Query::from([("deleted", deleted.to_string())]))
            .await
    }

    /// `GET /v1/clients/denied`.
    pub async fn denied_clients(&self) -> Result<List<DeniedClient>, ApiError> {
        self.all(&["clients", "denied"], Query::new()).await
    }

    /// `GET /v1/targets`.
    pub async fn targets(&self) -> Result<List<Target>, ApiError> {
        self.all(&["targets"], Query::new()).await
    }

    /// `GET /v1/iscsi/servers`.
    pub async fn servers(&self) -> Result<List<IscsiServer>, ApiError> {
        self.all(&["iscsi", "servers"], Query::new()).await
    }

    /// `GET /v1/tasks`.
    pub async fn tasks(&self) -> Result<List<Task>, ApiError> {
        self.all(&["tasks"], Query::new()).await
    }

    async fn all<T: DeserializeOwned>(
        &self,
        path: &[&str],
        mut query: Query<'_>,
    ) -> Result<List<T>, ApiError> {
        query.insert("limit", PAGE_ITEMS.to_string());
        let mut list: Option<List<T>> = None;
        loop {
            let get = self.request(Method::GET, path).query(&query);
            let page: List<T> = json(send(get, &self.base).await?, &self.base).await?;
            let next = page.next.clone();
            let all = match list.take() {
                None => page,
                Some(mut all) => {
                    all.items.extend(page.items);
                    all
                }
            };
            let Some(token) = next else {
                return Ok(List { next: None, ..all });
            };
            query.insert("continue", token);
            list = Some(all);
        }
    }
}
