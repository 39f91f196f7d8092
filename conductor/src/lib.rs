//! Cluster state, placement, membership and the HTTP API.
