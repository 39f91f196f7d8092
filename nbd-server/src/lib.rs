//! NBD front end over BlockDevice.
