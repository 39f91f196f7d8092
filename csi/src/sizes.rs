//! Sizes of volumes from the ranges that COs ask for.

use ashlar_proto::ByteCount;
use ashlar_proto::limits::{BLOCK_BYTES_U64, VOLUME_BYTES_MAX, VOLUME_BYTES_MIN};
use tonic::Status;

use crate::protocol::CapacityRange;

/// The size of a volume of which none is asked for.
const DEFAULT_BYTES: u64 = 1 << 30;

/// Sizes that satisfy a request: from `least` to `most`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SizeRange {
    least: Option<u64>,
    most: Option<u64>,
}

impl SizeRange {
    /// What a CO asks for; 0 stands for any.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for negative sizes, OUT_OF_RANGE where no size satisfies both.
    pub fn of(range: Option<&CapacityRange>) -> Result<Self, Status> {
        let CapacityRange {
            required_bytes,
            limit_bytes,
        } = range.copied().unwrap_or_default();
        let given = |field: &str, bytes: i64| {
            let bytes = u64::try_from(bytes)
                .map_err(|_| Status::invalid_argument(format!("`{field}` is {bytes}")))?;
            Ok::<_, Status>((bytes > 0).then_some(bytes))
        };
        let range = Self {
            least: given("required_bytes", required_bytes)?,
            most: given("limit_bytes", limit_bytes)?,
        };
        if let (Some(least), Some(most)) = (range.least, range.most)
            && least > most
        {
            return Err(Status::out_of_range(format!(
                "at least {least} and at most {most} bytes are asked for"
            )));
        }
        Ok(range)
    }

    /// Whether a volume of that size satisfies the request.
    pub fn holds(self, size: ByteCount) -> bool {
        self.least.is_none_or(|least| least <= size.get())
            && self.most.is_none_or(|most| size.get() <= most)
    }

    /// The size to make: the smallest that satisfies the request and is not below `floor`.
    ///
    /// # Errors
    /// OUT_OF_RANGE where no volume can have such a size.
    pub fn choose(self, floor: Option<ByteCount>) -> Result<ByteCount, Status> {
        let whole_blocks = |bytes: u64| bytes.checked_next_multiple_of(BLOCK_BYTES_U64);
        let wanted = match (self.least, floor, self.most) {
            (None, None, Some(most)) => {
                Some(DEFAULT_BYTES.min(most / BLOCK_BYTES_U64 * BLOCK_BYTES_U64))
            }
            (None, None, None) => Some(DEFAULT_BYTES),
            (least, floor, _) => {
                let floor = floor.map_or(0, ByteCount::get);
                whole_blocks(least.unwrap_or(0).max(floor).max(VOLUME_BYTES_MIN))
            }
        };
        let possible = wanted.filter(|size| {
            (VOLUME_BYTES_MIN..=VOLUME_BYTES_MAX).contains(size)
                && self.most.is_none_or(|most| *size <= most)
        });
        possible.map(ByteCount::new).ok_or_else(|| {
            Status::out_of_range(format!(
                "no volume has such a size ({} to {} bytes{}): volumes have whole multiples of \
                 {BLOCK_BYTES_U64} bytes from {VOLUME_BYTES_MIN} to {VOLUME_BYTES_MAX}",
                self.least.unwrap_or(0),
                self.most
                    .map_or_else(|| "any".to_owned(), |most| most.to_string()),
                floor.map_or_else(String::new, |floor| format!(
                    ", at least {floor} of its source"
                )),
            ))
        })
    }
}

/// A size as the protocol has it.
pub(crate) fn to_wire(size: ByteCount) -> i64 {
    i64::try_from(size.get()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(required_bytes: i64, limit_bytes: i64) -> Result<SizeRange, Status> {
        SizeRange::of(Some(&CapacityRange {
            required_bytes,
            limit_bytes,
        }))
    }

    fn choose(required: i64, limit: i64, floor: Option<u64>) -> Option<u64> {
        let chosen = range(required, limit)
            .unwrap()
            .choose(floor.map(ByteCount::new));
        chosen.ok().map(ByteCount::get)
    }

    #[test]
    fn sizes_are_whole_blocks_within_the_range() {
        assert_eq!(choose(0, 0, None), Some(1 << 30));
        assert_eq!(choose(5_000_000, 0, None), Some(5_001_216));
        assert_eq!(choose(1, 0, None), Some(1 << 20));
        assert_eq!(choose(0, 5_000_000, None), Some(4_997_120));
        assert_eq!(choose(0, 0, Some(1 << 21)), Some(1 << 21));
        assert_eq!(choose(1 << 20, 0, Some(1 << 21)), Some(1 << 21));
    }

    #[test]
    fn impossible_sizes_are_out_of_range() {
        assert_eq!(
            choose(5_000_000, 5_000_000, None),
            None,
            "between two blocks"
        );
        assert_eq!(choose(0, 4096, None), None, "below the least");
        assert_eq!(choose(i64::MAX, 0, None), None, "above the most");
        assert_eq!(choose(0, 1 << 20, Some(1 << 21)), None, "below its source");
        assert_eq!(range(2, 1).unwrap_err().code(), tonic::Code::OutOfRange);
        assert_eq!(
            range(-1, 0).unwrap_err().code(),
            tonic::Code::InvalidArgument
        );
    }

    #[test]
    fn a_volume_satisfies_what_it_lies_in() {
        let range = range(10, 20).unwrap();
        let held: Vec<bool> = [9, 10, 20, 21]
            .map(|n| range.holds(ByteCount::new(n)))
            .into();
        assert_eq!(held, [false, true, true, false]);
    }
}
