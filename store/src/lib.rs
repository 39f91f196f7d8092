//! Log-structured lanes and the replica service over them.
