//! A key-value bucket of NATS: a stream with one message for each key. Other programs see it with
//! `nats kv ls BUCKET`.

use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE;
use bytes::Bytes;
use serde_json::{Value, json};

use crate::api::{Api, ApiError, StreamInfo, code};
use crate::keep::is_deleted;
use crate::link::Link;

/// A key-value bucket.
#[derive(Clone)]
pub(crate) struct Bucket {
    api: Api,
    name: Arc<str>,
}

/// The value of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) value: Bytes,
    /// The number that a change of exactly this value has to name; zero: there was never a value.
    pub(crate) revision: u64,
    /// The key was deleted.
    pub(crate) is_deleted: bool,
}

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Put {
    /// It is there.
    Done,
    /// The key has another value by now.
    Raced,
}

impl Bucket {
    pub(crate) fn new(link: Arc<Link>, name: &str) -> Bucket {
        Bucket { api: Api::new(link, &format!("KV_{name}")), name: name.into() }
    }

    /// Creates the bucket where it is not there, and says how it is.
    pub(crate) async fn create(&self, replicas: u64, patience: Duration) -> Result<StreamInfo, ApiError> {
        match self.api.stream_info(patience).await {
            Err(ApiError::Refused { code: code::STREAM_NOT_FOUND, .. }) => {}
            other => return other,
        }
        let config = json!({
            "name": self.api.stream(),
            "subjects": [format!("$KV.{}.>", self.name)],
            "retention": "limits",
            "storage": "file",
            "discard": "new",
            "max_msgs_per_subject": 1,
            "max_msgs": -1,
            "max_bytes": -1,
            "max_age": 0,
            "max_msg_size": -1,
            "max_consumers": -1,
            "num_replicas": replicas,
            "allow_rollup_hdrs": true,
            "deny_delete": true,
            "deny_purge": false,
            "allow_direct": true,
        });
        let created = self.api.call(&format!("STREAM.CREATE.{}", self.api.stream()), &config, patience).await;
        match created.and_then(StreamInfo::of) {
            Ok(info) => Ok(info),
            // Another node may have created it a moment ago.
            Err(error) => self.api.stream_info(patience).await.map_err(|_| error),
        }
    }

    pub(crate) async fn get(&self, key: &str, patience: Duration) -> Result<Entry, ApiError> {
        let found = self.api.last_message(&self.subject(key), patience).await?;
        let none = Entry { value: Bytes::new(), revision: 0, is_deleted: false };
        Ok(found.map_or(none, |found| Entry {
            is_deleted: is_deleted(&found.stored),
            value: found.stored.payload,
            revision: found.stored.number,
        }))
    }

    /// Sets a value, where the key still has this revision.
    pub(crate) async fn put(
        &self,
        key: &str,
        value: Bytes,
        revision: Option<u64>,
        patience: Duration,
    ) -> Result<Put, ApiError> {
        let headers = revision.map(|revision| {
            let mut headers = HeaderMap::new();
            headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, revision.to_string());
            headers
        });
        let answer = self.api.link().request(&self.subject(key), headers, value, patience).await;
        let answer = answer.map_err(ApiError::Request)?;
        let answer: Value =
            serde_json::from_slice(&answer.payload).map_err(|error| ApiError::Nonsense(error.to_string()))?;
        match ApiError::in_answer(&answer) {
            None => Ok(Put::Done),
            Some(ApiError::Refused { code: code::WRONG_LAST_SEQUENCE, .. }) => Ok(Put::Raced),
            Some(error) => Err(error),
        }
    }

    pub(crate) fn api(&self) -> &Api {
        &self.api
    }

    pub(crate) fn subject(&self, key: &str) -> String {
        format!("$KV.{}.{key}", self.name)
    }
}
