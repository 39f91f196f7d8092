//! Why an image cannot be read or written.

use std::io;

/// What is wrong with an image, or with the file that holds it.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The file does not begin with the magic number of qcow2.
    #[error("this is no qcow2 image: it does not begin with its magic number; is it raw?")]
    NotQcow2,
    /// A kind of qcow2 that is not read here.
    #[error(
        "the qcow2 image {feature}, which cannot be read here: make a plain copy with \
         `qemu-img convert -O qcow2 IMAGE COPY` and take that"
    )]
    Unsupported {
        /// What it has or is.
        feature: &'static str,
    },
    /// A part of it contradicts itself or the format.
    #[error(
        "the qcow2 image is damaged: {what} at byte {offset}; `qemu-img check IMAGE` says more"
    )]
    Damaged {
        /// What is wrong.
        what: &'static str,
        /// Where in the file.
        offset: u64,
    },
    /// It refers to bytes beyond its end.
    #[error(
        "the qcow2 image is truncated: {what} lies at byte {offset}, and the file has {file_bytes} \
         bytes; is the download complete?"
    )]
    Truncated {
        /// What is missing.
        what: &'static str,
        /// Where it should be.
        offset: u64,
        /// The file's length.
        file_bytes: u64,
    },
    /// It comes through a pipe, whose bytes can be taken only in order.
    #[error(
        "a qcow2 image cannot be read from a pipe, for its tables may lie anywhere: save it to a \
         file first"
    )]
    Qcow2Stream,
    /// A block device is smaller than what is to be written.
    #[error("the device has {device_bytes} bytes, and {needed_bytes} are needed")]
    DeviceTooSmall {
        /// Its size.
        device_bytes: u64,
        /// The volume's.
        needed_bytes: u64,
    },
    /// A partly written file is not as it was left.
    #[error("the partly written file is not as it was left: {what}")]
    NotAsLeft {
        /// What differs.
        what: &'static str,
    },
    /// The file cannot be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
}
