//! Fuzzers for every parser of bytes from network or disk.
