//! Messages and their attributes, in the byte order of this host. Pure.
//!
//! ```text
//! length u32 │ type u16 │ flags u16 │ sequence u32 │ port u32 ║ command u8 │ version u8 │ 0 u16 ║ attributes
//!                                      each: length u16 │ type u16 │ value, up to a multiple of 4
//! ```

/// Bytes of the header of any message.
pub(super) const HEADER_BYTES: usize = 16;
/// Bytes of the header of a message of generic netlink, which follows.
const GENERIC_BYTES: usize = 4;
/// Bytes before an attribute's value.
const ATTRIBUTE_BYTES: usize = 4;
/// What begins is at a multiple of so many bytes.
const ALIGNMENT: usize = 4;
/// `NLM_F_REQUEST | NLM_F_ACK`: something is asked, and its end is to be told.
const FLAGS: u16 = 1 | 4;
/// `NLA_F_NESTED`: the value is attributes.
const NESTED: u16 = 1 << 15;
/// Bits of an attribute's type that are its type.
const TYPE_MASK: u16 = 0x3fff;
/// `NLMSG_ERROR`: the end of a request, also a good one.
const ERROR: u16 = 2;
/// Bytes of the error number.
const ERROR_BYTES: usize = 4;

/// A request that is being written.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    bytes: Vec<u8>,
}

/// An attribute of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attribute<'a> {
    /// What it says.
    pub kind: u16,
    /// Its bytes.
    pub value: &'a [u8],
}

/// A message that the kernel sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Message<'a> {
    /// The end of a request: 0, or the number of an error.
    End(i32),
    /// A message of generic netlink.
    Generic {
        /// The family's id.
        family: u16,
        /// The command.
        command: u8,
        /// Its attributes.
        attributes: &'a [u8],
    },
}

impl Request {
    /// A command of a family.
    pub fn new(family: u16, command: u8, version: u8) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend([0; 4]);
        bytes.extend(native_u16(family));
        bytes.extend(native_u16(FLAGS));
        bytes.extend([0; 8]);
        bytes.extend([command, version, 0, 0]);
        Self { bytes }
    }

    /// Adds a value.
    ///
    /// # Panics
    /// If it is longer than an attribute can be: all that this driver sends is short.
    pub fn put(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(ATTRIBUTE_BYTES + value.len()).expect("a short value");
        self.bytes.extend(native_u16(length));
        self.bytes.extend(native_u16(kind));
        self.bytes.extend(value);
        self.align();
    }

    /// Adds a number of 32 bits.
    pub fn put_u32(&mut self, kind: u16, value: u32) {
        self.put(kind, &native_u32(value));
    }

    /// Adds a number of 64 bits.
    pub fn put_u64(&mut self, kind: u16, value: u64) {
        self.put(kind, &native_u64(value));
    }

    /// Adds text, which the kernel wants to end with a zero.
    pub fn put_text(&mut self, kind: u16, text: &str) {
        let mut value = text.as_bytes().to_vec();
        value.push(0);
        self.put(kind, &value);
    }

    /// Adds what `fill` adds, as the value of one attribute.
    ///
    /// # Panics
    /// As [`Request::put`].
    pub fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.extend([0; 2]);
        self.bytes.extend(native_u16(kind | NESTED));
        fill(self);
        let length = u16::try_from(self.bytes.len() - start).expect("a short value");
        self.bytes[start..start + 2].copy_from_slice(&native_u16(length));
    }

    /// The whole message, by which number its answers are known.
    ///
    /// # Panics
    /// As [`Request::put`].
    pub fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).expect("a short message");
        self.bytes[..4].copy_from_slice(&native_u32(length));
        self.bytes[8..12].copy_from_slice(&native_u32(sequence));
        self.bytes
    }

    fn align(&mut self) {
        let whole = self.bytes.len().next_multiple_of(ALIGNMENT);
        self.bytes.resize(whole, 0);
    }
}

impl Attribute<'_> {
    /// A number of 16 bits.
    pub fn as_u16(&self) -> Option<u16> {
        read_u16(self.value)
    }

    /// A number of 32 bits.
    pub fn as_u32(&self) -> Option<u32> {
        read_u32(self.value)
    }

    /// Text up to its zero.
    pub fn as_text(&self) -> Option<&str> {
        let end = self.value.iter().position(|byte| *byte == 0);
        std::str::from_utf8(&self.value[..end.unwrap_or(self.value.len())]).ok()
    }
}

/// The attributes in some bytes; ends where they make no sense.
pub(crate) fn attributes(bytes: &[u8]) -> impl Iterator<Item = Attribute<'_>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::from(read_u16(rest)?);
        let kind = read_u16(rest.get(2..)?)? & TYPE_MASK;
        let value = rest.get(ATTRIBUTE_BYTES..length)?;
        let next = length.next_multiple_of(ALIGNMENT);
        rest = rest.get(next..).unwrap_or_default();
        Some(Attribute { kind, value })
    })
}

/// The messages in what one receive gave, each with its sequence number; ends where they make no sense.
pub(super) fn messages(bytes: &[u8]) -> impl Iterator<Item = (u32, Message<'_>)> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::try_from(read_u32(rest)?).ok()?;
        let kind = read_u16(rest.get(4..)?)?;
        let sequence = read_u32(rest.get(8..)?)?;
        let body = rest.get(HEADER_BYTES..length)?;
        rest = rest
            .get(length.next_multiple_of(ALIGNMENT)..)
            .unwrap_or_default();
        let message = if kind == ERROR {
            let number = read_u32(body.get(..ERROR_BYTES)?)?;
            // The kernel gives it with its sign turned.
            Message::End(number.cast_signed().checked_neg()?)
        } else {
            Message::Generic {
                family: kind,
                command: *body.first()?,
                attributes: body.get(GENERIC_BYTES..)?,
            }
        };
        Some((sequence, message))
    })
}

fn read_u16(bytes: &[u8]) -> Option<u16> {
    #[expect(clippy::host_endian_bytes, reason = "the kernel is of this host")]
    Some(u16::from_ne_bytes(*bytes.first_chunk()?))
}

fn read_u32(bytes: &[u8]) -> Option<u32> {
    #[expect(clippy::host_endian_bytes, reason = "the kernel is of this host")]
    Some(u32::from_ne_bytes(*bytes.first_chunk()?))
}

#[expect(clippy::host_endian_bytes, reason = "the kernel is of this host")]
fn native_u16(value: u16) -> [u8; 2] {
    value.to_ne_bytes()
}

#[expect(clippy::host_endian_bytes, reason = "the kernel is of this host")]
fn native_u32(value: u32) -> [u8; 4] {
    value.to_ne_bytes()
}

#[expect(clippy::host_endian_bytes, reason = "the kernel is of this host")]
fn native_u64(value: u64) -> [u8; 8] {
    value.to_ne_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes as the kernel's headers lay them out, for hosts that are little-endian, as all of ours are.
    #[test]
    #[cfg(target_endian = "little")]
    fn requests_are_laid_out_as_the_kernel_reads_them() {
        let mut request = Request::new(0x1c, 1, 1);
        request.put_u64(2, 0x1122_3344_5566_7788);
        request.put_text(10, "abc");
        request.put_text(10, "ab");
        request.nest(7, |sockets| {
            sockets.nest(1, |socket| socket.put_u32(1, 5));
        });
        let expected: &[&[u8]] = &[
            &[64, 0, 0, 0, 0x1c, 0, 5, 0, 9, 0, 0, 0, 0, 0, 0, 0],
            &[1, 1, 0, 0],
            &[12, 0, 2, 0, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11],
            &[8, 0, 10, 0, b'a', b'b', b'c', 0],
            &[7, 0, 10, 0, b'a', b'b', 0, 0],
            &[16, 0, 7, 0x80, 12, 0, 1, 0x80, 8, 0, 1, 0, 5, 0, 0, 0],
        ];
        let bytes = request.finish(9);
        assert_eq!(bytes, expected.concat());
        let told: Vec<_> = messages(&bytes).collect();
        let (sequence, Message::Generic { attributes: of, .. }) = told[0] else {
            panic!("{told:?}")
        };
        assert_eq!(sequence, 9);
        let kinds: Vec<u16> = attributes(of).map(|one| one.kind).collect();
        assert_eq!(kinds, [2, 10, 10, 7]);
        assert_eq!(attributes(of).nth(1).unwrap().as_text(), Some("abc"));
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn answers_of_the_kernel_are_read() {
        let busy: &[u8] = &[
            36, 0, 0, 0, 2, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0xf0, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0,
            0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        ];
        let index: &[u8] = &[
            28, 0, 0, 0, 0x1c, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 8, 0, 1, 0, 3, 0, 0, 0,
        ];
        let bytes = [busy, index].concat();
        let told: Vec<_> = messages(&bytes).collect();
        assert_eq!(told[0], (7, Message::End(16)));
        let (
            8,
            Message::Generic {
                family: 0x1c,
                command: 1,
                attributes: of,
            },
        ) = told[1]
        else {
            panic!("{told:?}")
        };
        assert_eq!(attributes(of).next().unwrap().as_u32(), Some(3));
    }

    #[test]
    fn bytes_that_make_no_sense_end_it() {
        for bytes in [&[][..], &[1, 2, 3], &[0xff; 20], &[0; 20], &[4, 0, 0, 0]] {
            assert_eq!(messages(bytes).count(), 0, "{bytes:?}");
        }
        for bytes in [&[][..], &[8, 0], &[3, 0, 1, 0], &[9, 0, 1, 0, 1, 2, 3, 4]] {
            assert_eq!(attributes(bytes).count(), 0, "{bytes:?}");
        }
    }
}
