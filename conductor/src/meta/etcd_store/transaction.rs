//! A transaction of rows as one of etcd's.
//!
//! ```text
//! if    head as it was followed, leader's key made in the term, rows as expected (the first few)
//! then  head := mine, the changes: in transactions within it where they are many
//! else  head and leader's key, for who asks why
//! ```
//!
//! As the head changes with every transaction, one that arrives twice takes effect once, and nothing
//! that was read since the head was looked at has changed. So expectations beyond etcd's number of
//! comparisons are checked by reading.

use ashlar_proto::api::Revision;
use prost::Message;

use super::error::EtcdError;
use super::keys::Keys;
use super::wire::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, Request, RequestOp, TxnRequest,
};
use crate::meta::{Change, Expect, Transaction};

/// Operations in one transaction of etcd as it comes (`--max-txn-ops`). Those of a transaction within
/// another count with the outer one's.
const OPERATIONS_MAX: usize = 128;

/// Changes that stand in the transaction itself, and expectations that it compares.
const DIRECT_MAX: usize = 120;

/// Changes in each transaction within another, and how many of these there may be.
const NESTED_CHANGES: usize = 60;
const NESTED_MAX: usize = 64;

/// Most rows that one transaction changes.
pub(super) const ROWS_MAX: usize = NESTED_CHANGES * NESTED_MAX;

/// Most bytes of a transaction: etcd's `--max-request-bytes` as it comes, less what wraps it.
const BYTES_MAX: usize = (3 << 19) - 4096;

const _: () = assert!(DIRECT_MAX + 2 <= OPERATIONS_MAX);
const _: () = assert!(NESTED_MAX + 1 + NESTED_CHANGES <= OPERATIONS_MAX);

/// What a transaction rests on and leaves behind, beside rows.
pub(super) struct Ground {
    /// The revision that last changed the head; 0 where there is none.
    pub(super) head: i64,
    /// What the head becomes.
    pub(super) mark: Vec<u8>,
}

/// The expectations that a transaction cannot compare: they are to be read.
pub(super) fn beyond_compares(transaction: &Transaction) -> &[Expect] {
    if transaction.expect.len() <= DIRECT_MAX {
        &[]
    } else {
        &transaction.expect
    }
}

/// Reads the revisions of some rows, in order, as many as fit.
pub(super) fn look_up(keys: &Keys, expect: &[Expect]) -> TxnRequest {
    let range = |expect: &Expect| RangeRequest {
        key: keys.row(expect.key.as_str()),
        keys_only: true,
        ..RangeRequest::default()
    };
    let ranges = expect.iter().take(OPERATIONS_MAX).map(range);
    TxnRequest {
        success: ranges.map(|range| Request::Range(range).into()).collect(),
        ..TxnRequest::default()
    }
}

/// The transaction as etcd takes it.
pub(super) fn build(
    keys: &Keys,
    transaction: &Transaction,
    ground: Ground,
) -> Result<TxnRequest, EtcdError> {
    let rows = transaction.changes.len();
    if rows > ROWS_MAX {
        let most = ROWS_MAX;
        return Err(EtcdError::TooManyRows { rows, most });
    }
    let mut compare = vec![Compare::modified(keys.head(), ground.head)];
    if let Some(term) = transaction.term {
        compare.push(Compare::created(keys.leader(), signed(term.0)));
    }
    if transaction.expect.len() <= DIRECT_MAX {
        compare.extend(transaction.expect.iter().map(|expect| {
            let modified = expect.modified.unwrap_or_default();
            Compare::modified(keys.row(expect.key.as_str()), signed(modified.0))
        }));
    }
    let mut success = vec![put(keys.head(), ground.mark)];
    let changes: Vec<RequestOp> = transaction
        .changes
        .iter()
        .map(|c| change(keys, c))
        .collect();
    if changes.len() <= DIRECT_MAX {
        success.extend(changes);
    } else {
        success.extend(changes.chunks(NESTED_CHANGES).map(|part| {
            let inner = TxnRequest {
                success: part.to_vec(),
                ..TxnRequest::default()
            };
            Request::Txn(inner).into()
        }));
    }
    let failure = vec![range(keys.head()), range(keys.leader())];
    let request = TxnRequest {
        compare,
        success,
        failure,
    };
    let (bytes, most) = (request.encoded_len(), BYTES_MAX);
    if bytes > most {
        return Err(EtcdError::TooLarge { bytes, most });
    }
    Ok(request)
}

/// A key alone.
pub(super) fn range(key: Vec<u8>) -> RequestOp {
    let range = RangeRequest {
        key,
        ..RangeRequest::default()
    };
    Request::Range(range).into()
}

fn put(key: Vec<u8>, value: Vec<u8>) -> RequestOp {
    let put = PutRequest {
        key,
        value,
        lease: 0,
    };
    Request::Put(put).into()
}

fn change(keys: &Keys, change: &Change) -> RequestOp {
    match change {
        Change::Put { key, value } => put(keys.row(key.as_str()), value.clone()),
        Change::Delete { key } => {
            let delete = DeleteRangeRequest {
                key: keys.row(key.as_str()),
                range_end: Vec::new(),
            };
            Request::DeleteRange(delete).into()
        }
    }
}

/// A revision as etcd writes it. One beyond what it can have is that of no key.
pub(super) fn signed(revision: u64) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}

/// A revision as etcd wrote it.
pub(super) fn revision(signed: i64) -> Revision {
    Revision(u64::try_from(signed).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::{Key, Term};

    fn transaction(rows: usize, bytes: usize) -> Transaction {
        let key = |i: usize| Key::new(format!("shard/{i:08x}"));
        Transaction {
            term: Some(Term(5)),
            expect: (0..rows)
                .map(|i| Expect {
                    key: key(i),
                    modified: None,
                })
                .collect(),
            changes: (0..rows)
                .map(|i| Change::Put {
                    key: key(i),
                    value: vec![b'x'; bytes],
                })
                .collect(),
        }
    }

    fn built(rows: usize, bytes: usize) -> Result<TxnRequest, EtcdError> {
        let ground = Ground {
            head: 3,
            mark: b"mark".to_vec(),
        };
        build(&Keys::new(""), &transaction(rows, bytes), ground)
    }

    /// As etcd counts: the most of the lists, and those within count with it.
    fn operations(request: &TxnRequest) -> usize {
        let lists = [
            request.compare.len(),
            request.success.len(),
            request.failure.len(),
        ];
        let inner = request.success.iter().map(|op| match &op.request {
            Some(Request::Txn(inner)) => operations(inner),
            _ => 0,
        });
        lists.into_iter().max().unwrap_or(0) + inner.max().unwrap_or(0)
    }

    #[test]
    fn head_and_term_are_compared_by_every_transaction() {
        for rows in [0, 1, DIRECT_MAX, DIRECT_MAX + 1, ROWS_MAX] {
            let request = built(rows, 1).unwrap();
            let keys = Keys::new("");
            assert!(request.compare.contains(&Compare::modified(keys.head(), 3)));
            assert!(
                request
                    .compare
                    .contains(&Compare::created(keys.leader(), 5))
            );
        }
    }

    #[test]
    fn operations_stay_below_what_etcd_takes() {
        for rows in 0..=ROWS_MAX {
            if rows > 300 && rows % 61 > 1 && rows != ROWS_MAX {
                continue;
            }
            let request = built(rows, 1).unwrap();
            assert!(operations(&request) <= OPERATIONS_MAX, "{rows}");
            assert_eq!(
                beyond_compares(&transaction(rows, 1)).len() + request.compare.len() - 2,
                rows
            );
        }
    }

    #[test]
    fn what_is_too_much_for_etcd_is_refused() {
        assert!(matches!(
            built(ROWS_MAX + 1, 1),
            Err(EtcdError::TooManyRows { .. })
        ));
        assert!(built(100, 15_000).is_ok());
        assert!(matches!(
            built(100, 16_000),
            Err(EtcdError::TooLarge { .. })
        ));
    }
}
