//! The JSON Schemas of types whose text or number is not what their fields are.
//!
//! Invariant: a schema never refuses what the type's own reader takes. Where a form cannot be said by a
//! pattern it is told in words, and the reader alone refuses what has another.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::api::ReservationKey;
use crate::limits::LUN_MAX;
use crate::{
    Address, ClusterId, DiskId, InitiatorPattern, InitiatorPort, IscsiName, Lun, PublicationId,
    ReplicaId, VolumeId,
};

/// Types that are text in JSON.
macro_rules! text_schema {
    ($($name:ident: $schema:tt)*) => {$(
        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                Cow::Borrowed(stringify!($name))
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    )*};
}

text_schema! {
    ClusterId: {
        "type": "string",
        "description": "The id of a cluster.",
        "pattern": "^[0-9a-fA-F]{32}$"
    }
    DiskId: {
        "type": "string",
        "description": "The id of a disk, written to it when it is formatted.",
        "pattern": "^[0-9a-fA-F]{32}$"
    }
    VolumeId: {
        "type": "string",
        "description": "The id of a volume, never used again.",
        "pattern": "^[0-9a-fA-F]{16}$"
    }
    PublicationId: {
        "type": "string",
        "description": "The id of a publication of a volume to a node, drawn at random.",
        "pattern": "^[0-9a-fA-F]{16}$"
    }
    ReplicaId: {
        "type": "string",
        "description": "The id of one life of a replica, never used again.",
        "pattern": "^[0-9a-fA-F]{16}$"
    }
    ReservationKey: {
        "type": "string",
        "description": "The key of a registration: not all of its digits are 0.",
        "pattern": "^[0-9a-fA-F]{16}$"
    }
    Address: {
        "type": "string",
        "description": "Where a service listens: HOST_IP:PORT, [IPV6]:PORT, unix:PATH or local:NAME.",
        "examples": ["127.0.0.1:7000"]
    }
    IscsiName: {
        "type": "string",
        "description": "An iSCSI name (RFC 7143 section 4.2.7): iqn., eui. or naa.",
        "examples": ["iqn.2026-11.io.ashlar:data"]
    }
    InitiatorPattern: {
        "type": "string",
        "description": "An iSCSI name, or the beginning of names and *.",
        "examples": ["iqn.1994-05.com.redhat:host-a", "*"]
    }
    InitiatorPort: {
        "type": "string",
        "description": "An initiator port (RFC 7143 section 4.2.7.1): NAME,i,0xISID.",
        "examples": ["iqn.1994-05.com.redhat:host-a,i,0x00023d000001"]
    }
    Lun: {
        "type": "integer",
        "description": "The number of a logical unit of a target.",
        "minimum": 0,
        "maximum": LUN_MAX
    }
}
