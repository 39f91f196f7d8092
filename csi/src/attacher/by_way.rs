//! Several ways at once: which one a volume takes its StorageClass says (`attach`).

use std::path::PathBuf;
use std::sync::Arc;

use tonic::Status;

use super::{Attach, Attacher, Export};
use crate::handle::VolumeHandle;

/// Attachers by what they are for; the first one is for volumes of which nothing is said.
#[derive(Debug)]
pub struct ByWay {
    ways: Vec<(Attach, Arc<dyn Attacher>)>,
}

impl ByWay {
    /// Of these.
    #[must_use]
    pub fn new(ways: Vec<(Attach, Arc<dyn Attacher>)>) -> Self {
        Self { ways }
    }
}

#[tonic::async_trait]
impl Attacher for ByWay {
    async fn attach(&self, export: &Export) -> Result<PathBuf, Status> {
        let fits = |way: &Attach| export.attach.is_none_or(|wanted| wanted == *way);
        let mut ways = self.ways.iter();
        match ways.find(|(way, _)| fits(way)) {
            Some((_, attacher)) => attacher.attach(export).await,
            None => {
                let wanted = export.attach.unwrap_or_default();
                Err(Status::failed_precondition(format!(
                    "volume `{}` is to be attached by {wanted}, and this node does not: start its driver \
                     with --attacher {wanted}",
                    export.volume
                )))
            }
        }
    }

    async fn find(&self, volume: &VolumeHandle) -> Result<Option<PathBuf>, Status> {
        for (_, attacher) in &self.ways {
            if let Some(device) = attacher.find(volume).await? {
                return Ok(Some(device));
            }
        }
        Ok(None)
    }

    async fn refresh(&self, volume: &VolumeHandle) -> Result<(), Status> {
        for (_, attacher) in &self.ways {
            if attacher.find(volume).await?.is_some() {
                return attacher.refresh(volume).await;
            }
        }
        Ok(())
    }

    async fn detach(&self, volume: &VolumeHandle) -> Result<(), Status> {
        // Each looks itself whether there is anything left of it.
        for (_, attacher) in &self.ways {
            attacher.detach(volume).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Mutex;

    use ashlar_proto::{PublicationId, VolumeId};

    use super::*;

    /// Remembers what is attached.
    #[derive(Debug)]
    struct Memory(&'static str, Mutex<Option<VolumeHandle>>);

    #[tonic::async_trait]
    impl Attacher for Memory {
        async fn attach(&self, export: &Export) -> Result<PathBuf, Status> {
            *self.1.lock().unwrap() = Some(export.volume.clone());
            Ok(self.0.into())
        }

        async fn find(&self, volume: &VolumeHandle) -> Result<Option<PathBuf>, Status> {
            let held = self.1.lock().unwrap();
            Ok((held.as_ref() == Some(volume)).then(|| self.0.into()))
        }

        async fn refresh(&self, _: &VolumeHandle) -> Result<(), Status> {
            Err(Status::internal(self.0))
        }

        async fn detach(&self, volume: &VolumeHandle) -> Result<(), Status> {
            self.1.lock().unwrap().take_if(|held| held == volume);
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_volume_takes_the_way_that_its_class_says() {
        let memory = |name| Arc::new(Memory(name, Mutex::new(None)));
        let both = ByWay::new(vec![
            (Attach::Nbd, memory("nbd")),
            (Attach::Iscsi, memory("iscsi")),
        ]);
        let export = |attach| Export {
            volume: VolumeHandle {
                id: VolumeId::new(1),
                name: "v".to_owned(),
            },
            publication: PublicationId::new(1),
            read_only: false,
            attach,
        };
        let wanted = export(Some(Attach::Iscsi));
        assert_eq!(both.attach(&wanted).await.unwrap(), Path::new("iscsi"));
        let found = both.find(&wanted.volume).await.unwrap();
        assert_eq!(found.as_deref(), Some(Path::new("iscsi")));
        let refreshed = both.refresh(&wanted.volume).await.unwrap_err();
        assert_eq!(refreshed.message(), "iscsi");
        both.detach(&wanted.volume).await.unwrap();
        assert_eq!(both.find(&wanted.volume).await.unwrap(), None);
        assert_eq!(both.attach(&export(None)).await.unwrap(), Path::new("nbd"));

        let one = ByWay::new(vec![(Attach::Nbd, memory("nbd"))]);
        let refused = one.attach(&wanted).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
        assert!(refused.message().contains("--attacher iscsi"), "{refused}");
    }
}
