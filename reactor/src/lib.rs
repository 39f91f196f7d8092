//! Thread-per-core runtime: executor, timers, sockets, disks, buffers; drivers uring, aio, sim.
