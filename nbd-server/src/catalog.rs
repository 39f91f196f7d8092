//! What a server exports: names, what is known of them without opening, and devices.

use ashlar_client::{BlockDevice, BlockError, Geometry, MemoryDevice};
use ashlar_proto::message::Extent;

/// What is known of an export without opening it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportInfo {
    /// Its name: at most 4096 bytes, no NUL.
    pub name: String,
    /// For people; may be left out.
    pub description: Option<String>,
    /// Its size and limits: the same that its device will tell.
    pub geometry: Geometry,
}

impl ExportInfo {
    /// A writable export with the usual limits: sectors of 512 bytes, blocks of 4 KiB, requests
    /// of up to 32 MiB.
    #[must_use]
    pub fn new(name: impl Into<String>, size_bytes: u64) -> Self {
        Self {
            name: name.into(),
            description: None,
            geometry: Geometry {
                size_bytes,
                block_bytes_min: 512,
                block_bytes_preferred: 4096,
                request_bytes_max: 32 << 20,
                read_only: false,
            },
        }
    }
}

/// Why exports could not be listed or one not be opened. The text reaches the client.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no such export.
    #[error("no such export: list the exports to see their names")]
    Unknown,
    /// Somebody else has it.
    #[error("export is attached elsewhere: detach it there, then retry")]
    InUse,
    /// It cannot be served now; a retry may help.
    #[error("export is not available now: too few of its replicas answer")]
    Unavailable,
    /// This client may not have it, or no more.
    #[error("export may not be opened by this client: it was taken from it, or never its own")]
    Denied,
    /// The server is being stopped.
    #[error("server is shutting down")]
    ShuttingDown,
    /// Anything else, in its own words.
    #[error("{0}")]
    Failed(#[source] Box<dyn std::error::Error>),
}

/// Why it cannot be told which blocks were written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangesError {
    /// The export has no such bitmap, or no more.
    #[error("what the changes would be told since is gone: copy all of the export")]
    NoBitmap,
    /// The device failed.
    #[error(transparent)]
    Device(#[from] BlockError),
}

/// What an opened export is: a block device that may know what was written since some moments.
#[expect(
    async_fn_in_trait,
    reason = "devices live on one thread: no Send bound is wanted"
)]
pub trait ExportDevice: BlockDevice {
    /// The kinds of the blocks that were written since the moment that `bitmap` stands for; the
    /// others are absent. As [`BlockDevice::extents`] otherwise. A handle keeps to the moment that
    /// the name stood for when it was first asked.
    ///
    /// # Errors
    /// [`ChangesError`].
    async fn changes(
        &self,
        bitmap: &str,
        offset: u64,
        len: u64,
        extents_max: usize,
    ) -> Result<Vec<Extent>, ChangesError> {
        let _ = (bitmap, offset, len, extents_max);
        Err(ChangesError::NoBitmap)
    }
}

impl ExportDevice for MemoryDevice {}

/// The exports of a server.
///
/// All connections to an export must get handles on one device: only then does a flush on one
/// connection cover the writes of the others, which the server promises to clients. A handle is
/// dropped when its connection has ended and none of its requests is in flight.
#[expect(
    async_fn_in_trait,
    reason = "catalogs live on one thread: no Send bound is wanted"
)]
pub trait ExportCatalog: 'static {
    /// What an opened export is.
    type Device: ExportDevice;

    /// All exports.
    ///
    /// # Errors
    /// [`OpenError`]: the client gets it in place of a list.
    async fn list(&self) -> Result<Vec<ExportInfo>, OpenError>;

    /// What is known of the export `name`, without opening it.
    ///
    /// # Errors
    /// [`OpenError::Unknown`], or as [`ExportCatalog::list`].
    async fn find(&self, name: &str) -> Result<ExportInfo, OpenError> {
        let exports = self.list().await?;
        let mut exports = exports.into_iter();
        exports
            .find(|export| export.name == name)
            .ok_or(OpenError::Unknown)
    }

    /// The moments since which the device of the export `name` can tell what was written, each a
    /// `qemu:dirty-bitmap:` of that name: UTF-8, no NUL, at most 4000 bytes, none twice.
    ///
    /// # Errors
    /// As [`ExportCatalog::find`].
    async fn bitmaps(&self, name: &str) -> Result<Vec<String>, OpenError> {
        let _ = name;
        Ok(Vec::new())
    }

    /// A handle on the device of the export `name`. It may take its time: the client waits. Once
    /// begun it runs to its end, even if the client leaves or the server is stopped meanwhile.
    ///
    /// # Errors
    /// [`OpenError`].
    async fn open(&self, name: &str) -> Result<Self::Device, OpenError>;
}
