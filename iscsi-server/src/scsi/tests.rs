//! The device server over devices in memory, in a simulated world: CDBs in, bytes out. Expected
//! bytes are written from the standards, not by the code under test.

mod attention;
mod bench;
mod copying;
mod describing;
mod hostile;
mod managing;
mod media;
mod provisioning;
mod reserving;
mod standby;
