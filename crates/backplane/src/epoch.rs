//! The epoch of the stream, which all nodes have to agree on: it is part of the ids that subscribers have.
//!
//! It is in the bucket `<STREAM>_state` under the key `epoch`, with the time at which the stream was created.
//! The first node that finds none, or one of another stream of the same name, gives a new one.

use std::time::Duration;

use bytes::Bytes;
use fanfare_proto::cursor::Epoch;
use serde::{Deserialize, Serialize};

use crate::api::ApiError;
use crate::bucket::{Bucket, Entry, Put};

const KEY: &str = "epoch";

/// Attempts to agree with nodes that change the epoch at the same time.
const ATTEMPTS: usize = 16;

#[derive(Serialize, Deserialize)]
struct Agreed {
    /// When the stream was created.
    created: String,
    epoch: String,
}

/// The epoch of the stream that was created at this time. Where there is none, or it is the one that is over,
/// this node gives one.
pub(crate) async fn agree(
    bucket: &Bucket,
    created: &str,
    over: Option<Epoch>,
    patience: Duration,
) -> Result<Epoch, ApiError> {
    for _ in 0..ATTEMPTS {
        let entry = bucket.get(KEY, patience).await?;
        if let Some(epoch) = read(&entry, created).filter(|epoch| Some(*epoch) != over) {
            return Ok(epoch);
        }
        let epoch = Epoch::new(fastrand::u64(..));
        if bucket.put(KEY, write(created, epoch), Some(entry.revision), patience).await? == Put::Done {
            return Ok(epoch);
        }
    }
    Err(ApiError::Nonsense("other nodes change the epoch all the time".to_owned()))
}

/// The epoch of the stream that was created at this time, where there is one.
pub(crate) async fn current(
    bucket: &Bucket,
    created: &str,
    patience: Duration,
) -> Result<Option<Epoch>, ApiError> {
    Ok(read(&bucket.get(KEY, patience).await?, created))
}

/// Gives a new epoch, unless another node has done so already.
pub(crate) async fn renew(
    bucket: &Bucket,
    created: &str,
    old: Epoch,
    patience: Duration,
) -> Result<(), ApiError> {
    let entry = bucket.get(KEY, patience).await?;
    if read(&entry, created) == Some(old) {
        let epoch = Epoch::new(fastrand::u64(..));
        // Where another node is faster, its epoch is as new.
        bucket.put(KEY, write(created, epoch), Some(entry.revision), patience).await?;
    }
    Ok(())
}

/// Writes the epoch again, where it was deleted and no other node has given one.
pub(crate) async fn restore(
    bucket: &Bucket,
    created: &str,
    epoch: Epoch,
    patience: Duration,
) -> Result<(), ApiError> {
    let entry = bucket.get(KEY, patience).await?;
    if read(&entry, created).is_none() {
        bucket.put(KEY, write(created, epoch), Some(entry.revision), patience).await?;
    }
    Ok(())
}

fn read(entry: &Entry, created: &str) -> Option<Epoch> {
    let agreed: Agreed = serde_json::from_slice(&entry.value).ok()?;
    (agreed.created == created).then(|| Epoch::parse(&agreed.epoch)).flatten()
}

fn write(created: &str, epoch: Epoch) -> Bytes {
    Bytes::from(serde_json::json!({ "created": created, "epoch": epoch.to_string() }).to_string())
}
