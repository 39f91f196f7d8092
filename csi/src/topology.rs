//! Where nodes are, by the labels that stores and disks have, too: `zone=a` of a node is the segment
//! `topology.csi.ashlar.io/zone: a`.
//!
//! Every node reaches every volume, wherever that lies: no volume is accessible from some nodes alone. What
//! segments are for is to place a replica near the node that is to use it.

mod node_labels;

use std::collections::{BTreeMap, HashMap};

use tonic::Status;

use crate::node_id::NodeName;
use crate::protocol as csi;
pub use node_labels::{NodeLabels, NodeLabelsError};

/// What the keys of our segments begin with.
const KEY_PREFIX: &str = "topology.csi.ashlar.io/";
/// The label that each node has: a CO takes one without any for one that cannot tell.
const HOST: &str = "host";
/// The longest part of a key, and the longest value (the specification, `Topology`).
const PART_BYTES_MAX: usize = 63;

/// Where one node is.
#[derive(Clone, Debug, Default)]
pub struct NodeTopology {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Labels that the orchestrator's own object of the node has.
    pub of_node: Option<NodeLabels>,
}

impl NodeTopology {
    /// The segments of the node.
    ///
    /// # Errors
    /// UNAVAILABLE where the orchestrator does not say what its labels are.
    pub(crate) async fn segments(&self, node: &NodeName) -> Result<csi::Topology, Status> {
        let mut labels = BTreeMap::from([(HOST.to_owned(), node.to_string())]);
        if let Some(of_node) = &self.of_node {
            let read = of_node.read(node).await;
            labels.extend(read.map_err(|error| Status::unavailable(error.to_string()))?);
        }
        labels.extend(self.labels.clone());
        let (fit, others): (BTreeMap<_, _>, BTreeMap<_, _>) = labels
            .into_iter()
            .partition(|(name, value)| is_part(name) && is_part(value));
        for (name, value) in others {
            tracing::warn!(
                name,
                value,
                "this label makes no segment of topology: it is left out"
            );
        }
        let segments = fit
            .into_iter()
            .map(|(name, value)| (format!("{KEY_PREFIX}{name}"), value));
        Ok(csi::Topology {
            segments: segments.collect(),
        })
    }
}

/// Whether a text can be the name or the value of a segment.
pub(crate) fn is_part(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let ends = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= PART_BYTES_MAX
        && ends(bytes.first())
        && ends(bytes.last())
        && bytes.iter().all(|byte| inner(*byte))
}

/// The place that a volume is to be near to, `LABEL=VALUE`, where nodes of these segments are to use it.
///
/// # Errors
/// INVALID_ARGUMENT where that is not said.
pub(crate) fn near(
    requirement: Option<&csi::TopologyRequirement>,
    label: &str,
) -> Result<String, Status> {
    let Some(requirement) = requirement else {
        return Err(Status::invalid_argument(format!(
            "`near` is `{label}`, and it is not said where the volume is to be used: give the StorageClass \
             `volumeBindingMode: WaitForFirstConsumer`"
        )));
    };
    // The first is where the CO wants it most.
    let mut wanted = requirement.preferred.iter().chain(&requirement.requisite);
    let segments: Option<&HashMap<String, String>> = wanted.next().map(|first| &first.segments);
    let value = segments.and_then(|segments| segments.get(&format!("{KEY_PREFIX}{label}")));
    match value {
        Some(value) => Ok(format!("{label}={value}")),
        None => Err(Status::invalid_argument(format!(
            "`near` is `{label}`, and the node that is to use the volume does not tell its {label}: start the \
             drivers of nodes with --topology or --topology-of-node"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topology(pairs: &[(&str, &str)]) -> csi::Topology {
        let pairs = pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        csi::Topology {
            segments: pairs.collect(),
        }
    }

    #[tokio::test]
    async fn a_node_tells_its_labels_and_its_name() {
        let node: NodeName = "worker-1.example".parse().unwrap();
        let told = |pairs: &[(&str, &str)]| NodeTopology {
            labels: topology(pairs).segments.into_iter().collect(),
            of_node: None,
        };
        let host = ("topology.csi.ashlar.io/host", "worker-1.example");
        let of_none = told(&[]).segments(&node).await.unwrap();
        assert_eq!(of_none, topology(&[host]));
        let labels = [("zone", "a"), ("rack", "7"), ("floor", "the first")];
        let expected = [
            host,
            ("topology.csi.ashlar.io/zone", "a"),
            ("topology.csi.ashlar.io/rack", "7"),
        ];
        let of_some = told(&labels).segments(&node).await.unwrap();
        assert_eq!(of_some, topology(&expected));
    }

    #[test]
    fn a_volume_is_near_where_it_is_wanted_most() {
        let zone = |zone| topology(&[("topology.csi.ashlar.io/zone", zone), ("other/zone", "x")]);
        let both = csi::TopologyRequirement {
            requisite: vec![zone("a"), zone("b")],
            preferred: vec![zone("b"), zone("a")],
        };
        assert_eq!(near(Some(&both), "zone").unwrap(), "zone=b");
        let requisite = csi::TopologyRequirement {
            preferred: Vec::new(),
            ..both.clone()
        };
        assert_eq!(near(Some(&requisite), "zone").unwrap(), "zone=a");
        for refused in [near(None, "zone"), near(Some(&both), "rack")] {
            assert_eq!(refused.unwrap_err().code(), tonic::Code::InvalidArgument);
        }
    }
}
