//! The gRPC server on a Unix socket, as the specification asks of plugins.

use std::future::Future;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ashlar_api_client::ApiClient;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{Instant, sleep};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use crate::attacher::Attacher;
use crate::controller::ControllerService;
use crate::group::GroupService;
use crate::identity::IdentityService;
use crate::node::NodeService;
use crate::node_id::NodeName;
use crate::protocol::controller_server::ControllerServer;
use crate::protocol::group_controller_server::GroupControllerServer;
use crate::protocol::identity_server::IdentityServer;
use crate::protocol::node_server::NodeServer;
use crate::protocol::snapshot_metadata_server::SnapshotMetadataServer;
use crate::snapshot_metadata::{BlockMaps, SnapshotMetadataService};
use crate::topology::NodeTopology;

/// How long a socket may be open after its process was killed.
const DYING_MAX: Duration = Duration::from_secs(2);

/// The pause between looks at it.
const DYING_LOOK: Duration = Duration::from_millis(50);

/// What the driver serves.
#[derive(Clone, Debug)]
pub struct DriverOptions {
    /// The path of the socket.
    pub socket: PathBuf,
    /// What a controller needs, where there is to be one.
    pub controller: Option<ControllerOptions>,
    /// The host, where there is to be a node service.
    pub node: Option<NodeOptions>,
}

/// What the services of a controller go by.
#[derive(Clone, Debug)]
pub struct ControllerOptions {
    /// The conductor.
    pub api: ApiClient,
    /// Who reads the maps of snapshots.
    pub maps: Arc<dyn BlockMaps>,
}

/// The host of a node service.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// What it is called.
    pub name: NodeName,
    /// How it attaches volumes.
    pub attacher: Arc<dyn Attacher>,
    /// Where it is.
    pub topology: NodeTopology,
    /// A directory that is this driver's alone; it need not outlive the machine.
    pub state: PathBuf,
}

/// The driver cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Something that is no socket has the path.
    #[error("{} is there and no socket: choose another --endpoint", .path.display())]
    Taken {
        /// The path.
        path: PathBuf,
    },
    /// Another driver serves there.
    #[error("another process serves at {}: stop it first", .path.display())]
    Served {
        /// The path.
        path: PathBuf,
    },
    /// The socket cannot be made.
    #[error("cannot listen at {}", .path.display())]
    Listen {
        /// The path.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// gRPC failed.
    #[error("the gRPC server failed")]
    Serve(#[from] tonic::transport::Error),
}

/// Serves until `stop`, and lets the calls that are under way end.
///
/// # Errors
/// A socket that cannot be had.
pub async fn serve(
    options: DriverOptions,
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let listener = listen(&options.socket).await?;
    let identity = IdentityService {
        api: options.controller.as_ref().map(|one| one.api.clone()),
    };
    let (controller, maps) = match options.controller {
        Some(one) => (
            Some(Arc::new(ControllerService::new(one.api))),
            Some(one.maps),
        ),
        None => (None, None),
    };
    let metadata = controller.clone().zip(maps).map(|(controller, maps)| {
        SnapshotMetadataServer::new(SnapshotMetadataService::new(controller, maps))
    });
    let group = controller
        .clone()
        .map(|controller| GroupControllerServer::new(GroupService { controller }));
    let node = options
        .node
        .map(|node| NodeServer::new(NodeService::new(node)));
    let served = Server::builder()
        .add_service(IdentityServer::new(identity))
        .add_optional_service(controller.map(ControllerServer::from_arc))
        .add_optional_service(group)
        .add_optional_service(metadata)
        .add_optional_service(node)
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), stop)
        .await;
    let _ = std::fs::remove_file(&options.socket);
    Ok(served?)
}

/// Listens, in the place of a socket that a dead process left.
async fn listen(path: &Path) -> Result<UnixListener, ServeError> {
    let path = path.to_owned();
    if let Ok(found) = std::fs::symlink_metadata(&path) {
        if !found.file_type().is_socket() {
            return Err(ServeError::Taken { path });
        }
        if is_served(&path).await {
            return Err(ServeError::Served { path });
        }
        let _ = std::fs::remove_file(&path);
    }
    UnixListener::bind(&path).map_err(|source| ServeError::Listen { path, source })
}

/// Whether a process listens there and goes on doing so. One that was killed while it started a program
/// leaves its sockets open in the child until that program runs.
async fn is_served(path: &Path) -> bool {
    let end = Instant::now() + DYING_MAX;
    while UnixStream::connect(path).await.is_ok() {
        if Instant::now() >= end {
            return true;
        }
        sleep(DYING_LOOK).await;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_of_a_dead_process_is_replaced_and_that_of_a_live_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("csi.sock");
        let first = listen(&path).await.unwrap();
        assert!(matches!(
            listen(&path).await,
            Err(ServeError::Served { .. })
        ));
        drop(first);
        listen(&path).await.unwrap();
        let file = directory.path().join("file");
        std::fs::write(&file, "kept").unwrap();
        assert!(matches!(listen(&file).await, Err(ServeError::Taken { .. })));
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "kept");
    }
}
