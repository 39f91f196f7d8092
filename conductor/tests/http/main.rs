//! A conductor driven over real HTTP: volumes, stores, watches, restarts and requests gone wrong.

mod problems;
mod restart;
mod support;
mod volumes;
mod watch;
