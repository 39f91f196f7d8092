//! Generic netlink, as far as a driver needs it that has the kernel do things: one request, its answer,
//! and messages to a group (netlink(7); `Documentation/userspace-api/netlink/intro.rst` of Linux).

mod message;
mod socket;

pub(crate) use message::{Attribute, Request, attributes};
pub(crate) use socket::{Family, GenericSocket, NetlinkError, events};
