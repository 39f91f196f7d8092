//! GetCapacity: how much may still be promised to volumes.

use ashlar_proto::ByteCount;
use ashlar_proto::api::Space;
use ashlar_proto::limits::{BLOCK_BYTES_U64, VOLUME_BYTES_MAX, VOLUME_BYTES_MIN};
use tonic::Status;

use super::ControllerService;
use crate::capability::Capability;
use crate::parameters::{Parameters, REPLICAS_DEFAULT};
use crate::protocol::{GetCapacityRequest, GetCapacityResponse};
use crate::refusal;
use crate::sizes::to_wire;

impl ControllerService {
    /// What volumes with these parameters can still have together; none for capabilities that no volume
    /// has. Wherever that is asked for: every node reaches every volume.
    pub(super) async fn get_capacity(
        &self,
        request: GetCapacityRequest,
    ) -> Result<GetCapacityResponse, Status> {
        let parameters = Parameters::of(&request.parameters, &Default::default())?;
        let mut capabilities = request.volume_capabilities.iter();
        let available = if capabilities.all(|one| Capability::of(Some(one)).is_ok()) {
            let space = self.api.space().await.map_err(refusal::of_api)?;
            left(&space, parameters.replicas.unwrap_or(REPLICAS_DEFAULT))
        } else {
            ByteCount::default()
        };
        let largest = ByteCount::new(available.get().min(VOLUME_BYTES_MAX));
        Ok(GetCapacityResponse {
            available_capacity: to_wire(available),
            maximum_volume_size: Some(to_wire(largest)),
            minimum_volume_size: Some(to_wire(ByteCount::new(VOLUME_BYTES_MIN))),
        })
    }
}

/// Bytes that volumes of so many replicas can still be promised: up to what the rule of over-commitment
/// leaves; where there is no rule, up to what is free.
fn left(space: &Space, replicas: u8) -> ByteCount {
    let capacity = u128::from(space.capacity_bytes.get());
    let (there, gone) = match space.rules.over_commit_percent {
        0 => (
            capacity,
            u128::from(space.used_bytes.get()) + u128::from(space.unfilled_bytes.get()),
        ),
        percent => (
            capacity * u128::from(percent) / 100,
            u128::from(space.provisioned_bytes.get()),
        ),
    };
    let each = there.saturating_sub(gone) / u128::from(replicas.max(1));
    let each = u64::try_from(each).unwrap_or(u64::MAX);
    ByteCount::new(each / BLOCK_BYTES_U64 * BLOCK_BYTES_U64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ashlar_proto::api::SpaceRules;

    #[test]
    fn what_is_left_follows_the_rule_of_over_commitment() {
        let of = |over_commit_percent, replicas| {
            let space = Space {
                rules: SpaceRules {
                    over_commit_percent,
                    ..SpaceRules::default()
                },
                capacity_bytes: ByteCount::new(1000 * 4096),
                used_bytes: ByteCount::new(100 * 4096),
                provisioned_bytes: ByteCount::new(1400 * 4096),
                unfilled_bytes: ByteCount::new(50 * 4096),
                ..Space::default()
            };
            left(&space, replicas).get() / 4096
        };
        assert_eq!([of(200, 1), of(200, 3)], [600, 200]);
        assert_eq!(of(100, 1), 0, "more is promised than the rule allows");
        assert_eq!(of(0, 1), 850);
    }
}
