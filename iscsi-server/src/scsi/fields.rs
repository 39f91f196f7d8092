//! Big-endian fields of CDBs, parameter lists and replies.
//!
//! Reading never fails: what lies beyond the end reads as zero. Who must know whether a field was
//! there checks the length first.

/// The `N` bytes at `at`; zeroes stand for those beyond the end.
pub(crate) fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    for (index, byte) in array.iter_mut().enumerate() {
        *byte = byte_at(bytes, at.saturating_add(index));
    }
    array
}

/// The byte at `at`.
pub(crate) fn byte_at(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or(0)
}

/// Two bytes.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(array_at(bytes, at))
}

/// Three bytes.
pub(crate) fn u24_at(bytes: &[u8], at: usize) -> u32 {
    let [high, middle, low] = array_at(bytes, at);
    u32::from_be_bytes([0, high, middle, low])
}

/// Four bytes.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(array_at(bytes, at))
}

/// Eight bytes.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(array_at(bytes, at))
}

/// A length of the wire as one of memory; what memory cannot hold becomes the most it can.
pub(crate) fn length(len: u32) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}

/// A reply that is put together field by field.
#[derive(Debug, Default)]
pub(crate) struct Reply(Vec<u8>);

impl Reply {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(crate) fn u8(&mut self, value: u8) -> &mut Self {
        self.bytes(&[value])
    }

    pub(crate) fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    pub(crate) fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    pub(crate) fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    pub(crate) fn zeroes(&mut self, count: usize) -> &mut Self {
        self.0.resize(self.0.len() + count, 0);
        self
    }

    /// Zeroes up to `len` bytes in all.
    pub(crate) fn zeroes_up_to(&mut self, len: usize) -> &mut Self {
        self.0.resize(self.0.len().max(len), 0);
        self
    }

    /// `text` in `width` bytes, filled up with spaces (SPC-4 section 4.3.1).
    pub(crate) fn ascii(&mut self, text: &str, width: usize) -> &mut Self {
        let text = &text.as_bytes()[..text.len().min(width)];
        self.bytes(text);
        let padded = self.0.len() + width - text.len();
        self.0.resize(padded, b' ');
        self
    }

    /// Zeroes up to a multiple of `unit` bytes.
    pub(crate) fn align(&mut self, unit: usize) -> &mut Self {
        let len = self.0.len().next_multiple_of(unit);
        self.0.resize(len, 0);
        self
    }

    pub(crate) fn set(&mut self, at: usize, bytes: &[u8]) -> &mut Self {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    /// Writes at `at` how many bytes follow the field of two bytes there.
    pub(crate) fn set_len16(&mut self, at: usize) -> &mut Self {
        let len = u16::try_from(self.0.len() - at - 2).unwrap_or(u16::MAX);
        self.set(at, &len.to_be_bytes())
    }

    /// Writes at `at` how many bytes follow the field of four bytes there.
    pub(crate) fn set_len32(&mut self, at: usize) -> &mut Self {
        let len = u32::try_from(self.0.len() - at - 4).unwrap_or(u32::MAX);
        self.set(at, &len.to_be_bytes())
    }

    pub(crate) fn finish(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_beyond_the_end_are_zero() {
        let bytes = [1, 2, 3];
        assert_eq!(u16_at(&bytes, 1), 0x0203);
        assert_eq!(u24_at(&bytes, 0), 0x01_0203);
        assert_eq!(u32_at(&bytes, 1), 0x0203_0000);
        assert_eq!(u64_at(&bytes, usize::MAX), 0);
    }

    #[test]
    fn replies_are_padded_and_measured() {
        let mut reply = Reply::new();
        reply.u16(0).ascii("AB", 4).align(4).set_len16(0);
        assert_eq!(reply.finish(), [0, 6, b'A', b'B', b' ', b' ', 0, 0]);
    }
}
