//! A conductor: the cluster as it sees it, its part among the conductors, its metadata and its API.

use std::pin::Pin;

use ashlar_conductor::{Gauges, Observer, Tally};
use ashlar_proto::api::{ClusterStatus, Health};

use super::Source;
use super::exposition::Family;

/// The conductor of this process.
pub struct ConductorSource(Observer);

impl ConductorSource {
    /// As it can be observed.
    pub fn new(observer: Observer) -> Self {
        Self(observer)
    }
}

impl Source for ConductorSource {
    fn collect(&self) -> Pin<Box<dyn Future<Output = Vec<Family>> + Send + '_>> {
        Box::pin(async {
            let Some(gauges) = self.0.gauges() else {
                return Vec::new();
            };
            let mut families = of_lead(&gauges);
            // What a follower knows of the cluster is of the metadata alone: the leader tells.
            if gauges.leads {
                families.extend(of_cluster(&gauges.status));
            }
            families.push(times(
                "ashlar_conductor_commit_duration_seconds",
                "How long transactions of metadata took until they were durable.",
                &gauges.commits,
            ));
            families.push(times(
                "ashlar_conductor_request_duration_seconds",
                "How long requests of the API took until their answer began, waits included.",
                &gauges.requests,
            ));
            families
        })
    }
}

fn times(name: &'static str, help: &'static str, tally: &Tally) -> Family {
    let mut family = Family::histogram(name, help);
    let buckets = tally.buckets().map(|(bound, count)| {
        let bound = bound.map(|bound| bound.as_secs_f64());
        (bound, count)
    });
    family.push_buckets(&[], buckets, tally.sum().as_secs_f64());
    family
}

fn gauge(name: &'static str, help: &'static str, value: u64) -> Family {
    let mut family = Family::gauge(name, help);
    family.push(&[], value);
    family
}

fn of_lead(gauges: &Gauges) -> Vec<Family> {
    let mut families = vec![
        gauge(
            "ashlar_conductor_leads",
            "1 if this conductor leads.",
            u64::from(gauges.leads),
        ),
        gauge(
            "ashlar_conductor_leader_known",
            "1 if this conductor leads or knows who does.",
            u64::from(gauges.leader_known),
        ),
        gauge(
            "ashlar_conductor_revision",
            "The revision of the metadata that this conductor has applied.",
            gauges.status.revision.0,
        ),
    ];
    if let Some(term) = gauges.term {
        let help = "The term in which this conductor leads.";
        families.push(gauge("ashlar_conductor_term", help, term));
    }
    let mut failed = Family::counter(
        "ashlar_conductor_commits_failed_total",
        "Transactions of metadata that failed, or were those of a deposed leader.",
    );
    failed.push(&[], gauges.commits_failed);
    let mut refused = Family::counter(
        "ashlar_conductor_requests_failed_total",
        "Requests of the API that were answered with a status of 500 or more.",
    );
    refused.push(&[], gauges.requests_failed);
    families.push(failed);
    families.push(refused);
    families
}

fn of_cluster(status: &ClusterStatus) -> Vec<Family> {
    let mut families = vec![health(status)];
    families.push(split(
        "ashlar_cluster_nodes",
        "Store nodes by state.",
        &[
            ("up", status.nodes_up),
            ("down", status.nodes.saturating_sub(status.nodes_up)),
        ],
    ));
    let sound = status.disks.saturating_sub(status.disks_failed);
    families.push(split(
        "ashlar_cluster_disks",
        "Disks of all nodes by state.",
        &[
            ("serving", sound.saturating_sub(status.disks_ailing)),
            ("ailing", status.disks_ailing),
            ("failed", status.disks_failed),
        ],
    ));
    let ill = status.volumes_degraded + status.volumes_unavailable;
    families.push(split(
        "ashlar_cluster_volumes",
        "Volumes by health.",
        &[
            ("healthy", status.volumes.saturating_sub(ill)),
            ("degraded", status.volumes_degraded),
            ("unavailable", status.volumes_unavailable),
        ],
    ));
    families.push(replicas(status));
    families.extend(space(status));
    families
}

fn health(status: &ClusterStatus) -> Family {
    let name = match status.health {
        Health::Healthy => "healthy",
        Health::Degraded => "degraded",
        Health::Unavailable => "unavailable",
    };
    let all = ["healthy", "degraded", "unavailable"];
    let states = all.map(|state| (state, u32::from(state == name)));
    let help = "The worst health of any volume: 1 at that one.";
    split("ashlar_cluster_health", help, &states)
}

fn replicas(status: &ClusterStatus) -> Family {
    let healing = &status.healing;
    split(
        "ashlar_cluster_replicas",
        "Replicas that are not as they should be, by what becomes of them.",
        &[
            ("out_of_sync", healing.out_of_sync),
            ("rebuilding", healing.rebuilding),
            ("queued", healing.queued),
            ("without_place", healing.without_place),
            ("draining", healing.draining),
            ("away", healing.away),
        ],
    )
}

fn space(status: &ClusterStatus) -> Vec<Family> {
    let space = &status.space;
    let rows = [
        (
            "ashlar_cluster_usable_bytes",
            "Bytes of all disks that volumes can use.",
            space.capacity_bytes,
        ),
        (
            "ashlar_cluster_used_bytes",
            "Bytes of all disks that live blocks and their map take.",
            space.used_bytes,
        ),
        (
            "ashlar_cluster_provisioned_bytes",
            "Sizes of all volumes times their replicas.",
            space.provisioned_bytes,
        ),
        (
            "ashlar_cluster_reserved_bytes",
            "Bytes that are kept for volumes with reservations.",
            space.reserved_bytes,
        ),
    ];
    rows.map(|(name, help, bytes)| gauge(name, help, bytes.get()))
        .into()
}

fn split(name: &'static str, help: &'static str, states: &[(&str, u32)]) -> Family {
    let mut family = Family::gauge(name, help);
    for (state, count) in states {
        family.push(&[("state", state)], u64::from(*count));
    }
    family
}
