//! Disk image files, raw and qcow2: read them in order, write them in order.
//!
//! Everything here blocks: it belongs on a thread of its own. Whatever a file holds, reading it ends
//! in its bytes or in an [`ImageError`], never in a panic, and memory stays bounded whatever it says.
//!
//! ```text
//! Image ─ Raw │ Stream │ Qcow2      run_at: data or zeroes?   read_at: the bytes
//! Target ─ Raw │ Device │ Stream │ Qcow2      write · zeroes · checkpoint · finish
//! ```

mod error;
mod image;
mod qcow2;
mod raw;
mod read_at;
mod stream;
mod target;
pub mod zero;

pub use error::ImageError;
pub use image::{Format, Image, Run, RunKind};
pub use qcow2::{Qcow2Image, Qcow2Target};
pub use raw::RawImage;
pub use read_at::ReadAt;
pub use stream::StreamImage;
pub use target::{DeviceTarget, RawTarget, StreamTarget, Target};
