//! Each key of the table with values within and beyond its bounds.

use super::*;
use proptest::prelude::*;

const LEADING: Scene = Scene {
    discovery: false,
    leading: true,
};

fn negotiate(scene: Scene, keys: &[(&str, &str)]) -> (Negotiation, String) {
    let mut negotiation = Negotiation::new(scene);
    let mut answer = Text::default();
    for (key, value) in keys {
        negotiation.take(key, value, &mut answer).unwrap();
    }
    let answer = String::from_utf8(answer.into_bytes()).unwrap();
    (negotiation, answer.replace('\0', " "))
}

fn answer(keys: &[(&str, &str)]) -> String {
    negotiate(LEADING, keys).1
}

#[test]
fn numbers_become_the_lesser_of_both() {
    assert_eq!(answer(&[("MaxConnections", "4")]), "MaxConnections=4 ");
    assert_eq!(answer(&[("MaxConnections", "100")]), "MaxConnections=8 ");
    assert_eq!(answer(&[("MaxConnections", "0")]), "MaxConnections=Reject ");
    assert_eq!(
        answer(&[("MaxBurstLength", "16776192")]),
        "MaxBurstLength=16776192 "
    );
    assert_eq!(
        answer(&[("MaxBurstLength", "0x40000")]),
        "MaxBurstLength=262144 "
    );
    assert_eq!(
        answer(&[("MaxBurstLength", "511")]),
        "MaxBurstLength=Reject "
    );
    assert_eq!(
        answer(&[("MaxBurstLength", "16777216")]),
        "MaxBurstLength=Reject "
    );
    assert_eq!(
        answer(&[("FirstBurstLength", "1048576")]),
        "FirstBurstLength=262144 "
    );
    assert_eq!(
        answer(&[("MaxOutstandingR2T", "3")]),
        "MaxOutstandingR2T=3 "
    );
    assert_eq!(
        answer(&[("ErrorRecoveryLevel", "2")]),
        "ErrorRecoveryLevel=0 "
    );
    assert_eq!(
        answer(&[("ErrorRecoveryLevel", "3")]),
        "ErrorRecoveryLevel=Reject "
    );
    assert_eq!(answer(&[("DefaultTime2Wait", "2")]), "DefaultTime2Wait=2 ");
    assert_eq!(
        answer(&[("DefaultTime2Retain", "20")]),
        "DefaultTime2Retain=0 "
    );
    assert_eq!(
        answer(&[("iSCSIProtocolLevel", "7")]),
        "iSCSIProtocolLevel=2 "
    );
}

#[test]
fn booleans_follow_their_functions() {
    assert_eq!(answer(&[("InitialR2T", "No")]), "InitialR2T=No ");
    assert_eq!(answer(&[("InitialR2T", "Yes")]), "InitialR2T=Yes ");
    assert_eq!(answer(&[("ImmediateData", "No")]), "ImmediateData=No ");
    assert_eq!(answer(&[("ImmediateData", "yes")]), "ImmediateData=Reject ");
    assert_eq!(answer(&[("DataPDUInOrder", "No")]), "DataPDUInOrder=Yes ");
    assert_eq!(
        answer(&[("DataSequenceInOrder", "Yes")]),
        "DataSequenceInOrder=Yes "
    );
}

#[test]
fn lists_give_the_first_that_is_known() {
    assert_eq!(
        answer(&[("HeaderDigest", "X-md5,CRC32C,None")]),
        "HeaderDigest=CRC32C "
    );
    assert_eq!(answer(&[("DataDigest", "None,CRC32C")]), "DataDigest=None ");
    assert_eq!(answer(&[("DataDigest", "X-md5")]), "DataDigest=Reject ");
    assert_eq!(
        answer(&[("TaskReporting", "FastAbort,RFC3720")]),
        "TaskReporting=RFC3720 "
    );
    let (negotiation, _) = negotiate(LEADING, &[("HeaderDigest", "CRC32C")]);
    let (_, connection) = negotiation.finish();
    assert!(connection.header_digest && !connection.data_digest);
}

#[test]
fn declarations_are_taken_and_not_answered() {
    let keys = [
        ("MaxRecvDataSegmentLength", "65536"),
        ("InitiatorAlias", "me"),
    ];
    let (negotiation, text) = negotiate(LEADING, &keys);
    assert_eq!(
        (negotiation.connection.send_segment_max, &*text),
        (65_536, "")
    );
    let text = answer(&[("MaxRecvDataSegmentLength", "511")]);
    assert_eq!(text, "MaxRecvDataSegmentLength=Reject ");
}

#[test]
fn keys_out_of_place_are_irrelevant_rejected_or_not_understood() {
    let discovery = Scene {
        discovery: true,
        leading: true,
    };
    let text = negotiate(
        discovery,
        &[("MaxBurstLength", "512"), ("HeaderDigest", "None")],
    )
    .1;
    assert_eq!(text, "MaxBurstLength=Irrelevant HeaderDigest=None ");
    let added = Scene {
        discovery: false,
        leading: false,
    };
    let text = negotiate(
        added,
        &[("MaxConnections", "2"), ("ErrorRecoveryLevel", "0")],
    )
    .1;
    assert_eq!(text, "MaxConnections=Reject ErrorRecoveryLevel=Reject ");
    let keys = [
        ("InitialR2T", "Yes"),
        ("ImmediateData", "No"),
        ("FirstBurstLength", "512"),
    ];
    assert!(answer(&keys).ends_with("FirstBurstLength=Irrelevant "));
    assert_eq!(
        answer(&[("X-com.example", "1")]),
        "X-com.example=NotUnderstood "
    );
    assert_eq!(answer(&[("OFMarker", "Yes")]), "OFMarker=No ");
    assert_eq!(answer(&[("OFMarkInt", "1~2")]), "OFMarkInt=Reject ");
}

#[test]
fn a_key_comes_once() {
    let (mut negotiation, _) = negotiate(LEADING, &[("MaxConnections", "1")]);
    let again = negotiation.take("MaxConnections", "1", &mut Text::default());
    assert_eq!(again, Err(Repeated));
}

#[test]
fn a_first_burst_is_no_longer_than_a_burst() {
    let (negotiation, _) = negotiate(LEADING, &[("MaxBurstLength", "512")]);
    assert_eq!(negotiation.finish().0.first_burst_max, 512);
}

proptest! {
    #[test]
    fn any_value_leaves_parameters_within_their_bounds(
        keys in proptest::collection::vec((0usize..8, "[0-9A-Za-z,x-]{0,12}|[0-9]{1,9}"), 0..8)
    ) {
        const KEYS: [&str; 8] = [
            "MaxConnections", "MaxBurstLength", "FirstBurstLength", "MaxOutstandingR2T",
            "MaxRecvDataSegmentLength", "InitialR2T", "ImmediateData", "HeaderDigest",
        ];
        let mut negotiation = Negotiation::new(LEADING);
        for (key, value) in keys {
            let _ = negotiation.take(KEYS[key], &value, &mut Text::default());
        }
        let (session, connection) = negotiation.finish();
        prop_assert!((1..=CONNECTIONS_MAX).contains(&session.connections_max));
        prop_assert!((512..=BURST_MAX).contains(&session.burst_max));
        prop_assert!(session.first_burst_max >= 512);
        prop_assert!(session.first_burst_max <= session.burst_max);
        prop_assert!((1..=OUTSTANDING_R2T_MAX).contains(&session.outstanding_r2t_max));
        prop_assert!(connection.send_segment_max >= 512);
    }
}
