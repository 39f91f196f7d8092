//! Plans and views of a small cluster.
