//! The labels that Kubernetes has of a node: `GET /api/v1/nodes/NAME`, as the pod's service account.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use ashlar_api_client::root_cause;
use serde::Deserialize;

use crate::node_id::NodeName;

/// Where a pod finds what its service account shows.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// How long an answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Which labels of a node are read, and from where.
#[derive(Clone, Debug)]
pub struct NodeLabels {
    /// What stores call a label, and the label of the node.
    keys: BTreeMap<String, String>,
    /// The API server, without a path.
    server: String,
    /// Where the token and the authority's certificate are.
    account: PathBuf,
}

/// The labels of a node cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum NodeLabelsError {
    /// This is no pod.
    #[error(
        "this process is in no pod of Kubernetes (KUBERNETES_SERVICE_HOST is not set): say where the node is by \
         --topology"
    )]
    NoPod,
    /// A file of the service account cannot be read.
    #[error("the service account's {} cannot be read: set automountServiceAccountToken", .path.display())]
    Account {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The API server cannot be asked.
    #[error("Kubernetes does not say which labels the node has: {0}")]
    Unreachable(String),
    /// It refuses.
    #[error(
        "Kubernetes does not say which labels node `{node}` has ({status}): the service account needs the \
         right to get nodes, and --node-id the node's name"
    )]
    Refused {
        /// The node.
        node: String,
        /// The status of HTTP.
        status: u16,
    },
}

#[derive(Deserialize)]
struct Node {
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

impl NodeLabels {
    /// Those of the pod's cluster: what stores call a label, and the label of the node that it is.
    ///
    /// # Errors
    /// [`NodeLabelsError::NoPod`].
    pub fn of_pod(keys: BTreeMap<String, String>) -> Result<Self, NodeLabelsError> {
        let var = |name| std::env::var(name).ok().filter(|text| !text.is_empty());
        let host = var("KUBERNETES_SERVICE_HOST").ok_or(NodeLabelsError::NoPod)?;
        let port = var("KUBERNETES_SERVICE_PORT").unwrap_or_else(|| "443".to_owned());
        let host = if host.contains(':') {
            format!("[{host}]")
        } else {
            host
        };
        Ok(Self {
            keys,
            server: format!("https://{host}:{port}"),
            account: ACCOUNT.into(),
        })
    }

    /// The labels of a node that are to be read and that it has.
    ///
    /// # Errors
    /// [`NodeLabelsError`].
    pub(super) async fn read(
        &self,
        node: &NodeName,
    ) -> Result<BTreeMap<String, String>, NodeLabelsError> {
        let token = self.file("token")?;
        let unreachable = |error: &reqwest::Error| NodeLabelsError::Unreachable(root_cause(error));
        let mut client = reqwest::Client::builder().timeout(ANSWER_MAX);
        if self.server.starts_with("https:") {
            let authority = self.file("ca.crt")?;
            let authority = reqwest::Certificate::from_pem_bundle(authority.as_bytes());
            let authority = authority.map_err(|error| unreachable(&error))?;
            client = client.tls_certs_only(authority);
        }
        let client = client.build().map_err(|error| unreachable(&error))?;
        let asked = client
            .get(format!("{}/api/v1/nodes/{node}", self.server))
            .bearer_auth(token.trim())
            .send();
        let answer = asked.await.map_err(|error| unreachable(&error))?;
        if !answer.status().is_success() {
            return Err(NodeLabelsError::Refused {
                node: node.to_string(),
                status: answer.status().as_u16(),
            });
        }
        let found: Node = answer.json().await.map_err(|error| unreachable(&error))?;
        let labels = found.metadata.labels;
        let mut told = BTreeMap::new();
        for (name, key) in &self.keys {
            match labels.get(key).filter(|value| !value.is_empty()) {
                Some(value) => drop(told.insert(name.clone(), value.clone())),
                None => tracing::warn!(%node, label = key, "the node has no such label"),
            }
        }
        Ok(told)
    }

    fn file(&self, name: &str) -> Result<String, NodeLabelsError> {
        let path = self.account.join(name);
        std::fs::read_to_string(&path).map_err(|source| NodeLabelsError::Account { path, source })
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    const NODE: &str = r#"{"kind":"Node","metadata":{"name":"w","labels":{
        "kubernetes.io/hostname":"w","topology.kubernetes.io/zone":"eu-1a","empty":""}}}"#;

    /// Answers one request, and gives what it was.
    async fn server(
        status: &'static str,
        body: &'static str,
    ) -> (String, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("http://{}", listener.local_addr().unwrap());
        let asked = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let length = socket.read(&mut request).await.unwrap();
            let length_of_body = body.len();
            let head = format!(
                "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length_of_body}\r\n\r\n"
            );
            let answer = head + body;
            socket.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&request[..length]).into_owned()
        });
        (server, asked)
    }

    fn labels(server: &str, account: &std::path::Path) -> NodeLabels {
        let keys = [
            ("zone", "topology.kubernetes.io/zone"),
            ("region", "topology.kubernetes.io/region"),
            ("rack", "empty"),
        ];
        let keys = keys.map(|(name, key)| (name.to_owned(), key.to_owned()));
        NodeLabels {
            keys: keys.into(),
            server: server.to_owned(),
            account: account.to_owned(),
        }
    }

    #[tokio::test]
    async fn labels_are_read_as_the_service_account() {
        let account = tempfile::tempdir().unwrap();
        let node: NodeName = "w".parse().unwrap();
        let (server, asked) = server("200 OK", NODE).await;
        let of = labels(&server, account.path());
        let refused = of.read(&node).await.unwrap_err();
        assert!(
            matches!(refused, NodeLabelsError::Account { .. }),
            "{refused}"
        );
        std::fs::write(account.path().join("token"), "secret\n").unwrap();
        let read = of.read(&node).await.unwrap();
        assert_eq!(
            read,
            BTreeMap::from([("zone".to_owned(), "eu-1a".to_owned())])
        );
        let request = asked.await.unwrap();
        assert!(request.starts_with("GET /api/v1/nodes/w "), "{request}");
        assert!(
            request.contains("authorization: Bearer secret\r\n"),
            "{request}"
        );
        let unreachable = of.read(&node).await.unwrap_err();
        assert!(matches!(unreachable, NodeLabelsError::Unreachable(_)));
    }

    #[tokio::test]
    async fn a_refusal_says_what_is_needed() {
        let account = tempfile::tempdir().unwrap();
        std::fs::write(account.path().join("token"), "secret").unwrap();
        let (server, _asked) = server("403 Forbidden", "{}").await;
        let of = labels(&server, account.path());
        let refused = of.read(&"w".parse().unwrap()).await.unwrap_err();
        assert!(
            matches!(refused, NodeLabelsError::Refused { status: 403, .. }),
            "{refused}"
        );
    }
}
