//! Calls about long operations, and about labels.

use std::time::Duration;

use ashlar_proto::DiskId;
use ashlar_proto::api::{CancelTask, Disk, LabelDisk, LabelVolume, Task, TaskState, Volume};
use reqwest::Method;

use super::{ApiClient, ApiError, json, send, waiting};

/// How long one question for the end of a task waits.
const TASK_POLL: Duration = Duration::from_secs(20);

impl ApiClient {
    /// `GET /v1/tasks/{id}`: as it stands once it has ended or the wait is over.
    pub async fn task(&self, id: &str, wait: Duration) -> Result<Task, ApiError> {
        let get = waiting(
            self.request(Method::GET, &["tasks", id]),
            self.poll_wait(wait),
        );
        json(send(get, &self.base).await?, &self.base).await
    }

    /// Waits until a task has ended, however long that takes.
    pub async fn task_ended(&self, id: &str) -> Result<Task, ApiError> {
        loop {
            let task = self.task(id, TASK_POLL).await?;
            if task.state != TaskState::Running {
                return Ok(task);
            }
        }
    }

    /// `POST /v1/tasks/{id}/cancel`.
    pub async fn cancel_task(&self, id: &str) -> Result<Task, ApiError> {
        self.post(&["tasks", id, "cancel"], &CancelTask {}).await
    }

    /// `POST /v1/volumes/{name}/label`.
    pub async fn label_volume(
        &self,
        name: &str,
        request: &LabelVolume,
    ) -> Result<Volume, ApiError> {
        self.post(&["volumes", name, "label"], request).await
    }

    /// `POST /v1/disks/{disk}/label`.
    pub async fn label_disk(&self, disk: DiskId, request: &LabelDisk) -> Result<Disk, ApiError> {
        let disk = disk.to_string();
        self.post(&["disks", &disk, "label"], request).await
    }
}
