//! A raw image that comes through a pipe: its bytes in order, its end when it comes.

use std::io::{self, Read};

/// See the module.
pub struct StreamImage {
    pipe: Box<dyn Read + Send>,
    /// Read already, not taken yet.
    peeked: Vec<u8>,
}

impl StreamImage {
    /// What comes through `pipe`.
    #[must_use]
    pub fn new(pipe: Box<dyn Read + Send>) -> Self {
        let peeked = Vec::new();
        Self { pipe, peeked }
    }

    /// The next bytes, which stay to be read; fewer than `count` only at the end.
    ///
    /// # Errors
    /// Those of the pipe.
    pub fn peek(&mut self, count: usize) -> io::Result<&[u8]> {
        let missing = count.saturating_sub(self.peeked.len()) as u64;
        let pipe = Read::by_ref(&mut self.pipe);
        pipe.take(missing).read_to_end(&mut self.peeked)?;
        Ok(&self.peeked[..count.min(self.peeked.len())])
    }

    /// Fills `bytes` with what comes next; fewer only at the end.
    ///
    /// # Errors
    /// Those of the pipe.
    pub fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let mut done = self.peeked.len().min(bytes.len());
        bytes[..done].copy_from_slice(&self.peeked[..done]);
        self.peeked.drain(..done);
        while done < bytes.len() {
            match self.pipe.read(&mut bytes[done..]) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_peeked_is_read_again() {
        let mut stream = StreamImage::new(Box::new(&b"QFI and more"[..]));
        assert_eq!(stream.peek(3).unwrap(), b"QFI");
        assert_eq!(stream.peek(2).unwrap(), b"QF");
        let mut bytes = [0; 5];
        assert_eq!(stream.read(&mut bytes).unwrap(), 5);
        assert_eq!(&bytes, b"QFI a");
        let mut rest = [0; 20];
        assert_eq!(stream.read(&mut rest).unwrap(), 7);
        assert_eq!(stream.peek(4).unwrap(), b"");
    }
}
