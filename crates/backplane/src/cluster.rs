//! What a program can tell its other nodes, and keep with them: the methods of [`NatsBackplane`] for it.

use std::sync::Arc;
use std::sync::mpsc as channel;
use std::time::Duration;

use bytes::Bytes;

use crate::api::ApiError;
use crate::bucket::Put;
use crate::keep::{self, KeepError, key_in_bucket};
use crate::nodes::TellError;
use crate::{NatsBackplane, nodes};

/// How long a shared value may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// A value that all nodes share: [`NatsBackplane::get`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedValue {
    /// The value.
    pub value: Vec<u8>,
    /// Which change has set it: a change that names it is made only if no other one was made since.
    pub revision: u64,
}

impl NatsBackplane {
    /// The name of this node among the others. Each start has another one.
    pub fn node_name(&self) -> &str {
        self.nodes().name()
    }

    /// The names of the other nodes that have shown themselves in the last seconds, in order.
    pub fn others(&self) -> Vec<String> {
        self.nodes().others()
    }

    /// Sends a message to all other nodes, and does not wait. A node that is away does not get it.
    ///
    /// # Errors
    /// It cannot be sent.
    pub fn broadcast(&self, kind: &str, payload: Vec<u8>) -> Result<(), TellError> {
        self.nodes().check(kind, payload.len())?;
        let (nodes, kind) = (Arc::clone(self.nodes()), kind.to_owned());
        self.runtime().spawn(async move {
            // A message may be lost.
            let _ = nodes.tell(&kind, Bytes::from(payload), None).await;
        });
        Ok(())
    }

    /// Calls `handler` for the messages of this kind that other nodes send, with the name of the node and the
    /// payload. It is called on the thread of the connection, and must not wait for anything. A later handler
    /// of the same kind takes the place of the one before.
    ///
    /// # Errors
    /// [`TellError::Kind`].
    pub fn on_message(
        &self,
        kind: &str,
        handler: impl Fn(&str, &[u8]) + Send + Sync + 'static,
    ) -> Result<(), TellError> {
        let handler = move |node: &str, payload: &[u8]| {
            handler(node, payload);
            Vec::new()
        };
        self.nodes().handle(kind, Arc::new(handler))
    }

    /// The same for questions: what `handler` gives is the answer.
    ///
    /// # Errors
    /// [`TellError::Kind`].
    pub fn on_question(
        &self,
        kind: &str,
        handler: impl Fn(&str, &[u8]) -> Vec<u8> + Send + Sync + 'static,
    ) -> Result<(), TellError> {
        self.nodes().handle(kind, Arc::new(handler))
    }

    /// Asks all other nodes, and waits for the answers of those that are there, at most so long: the names of
    /// the nodes with what they have answered. A node that has no handler for this kind does not answer.
    ///
    /// It must not be called in a handler.
    ///
    /// # Errors
    /// The question cannot be sent.
    pub fn ask(
        &self,
        kind: &str,
        payload: Vec<u8>,
        patience: Duration,
    ) -> Result<Vec<(String, Vec<u8>)>, TellError> {
        self.nodes().check(kind, payload.len())?;
        let (nodes, kind) = (Arc::clone(self.nodes()), kind.to_owned());
        let asked = async move { nodes.ask(&kind, Bytes::from(payload), patience).await };
        self.wait(asked, patience * 2).unwrap_or(Err(TellError::Away))
    }

    /// A value that all nodes share.
    ///
    /// It must not be called in a handler.
    ///
    /// # Errors
    /// NATS cannot be reached, or it is no key.
    pub fn get(&self, key: &str) -> Result<Option<SharedValue>, KeepError> {
        let (bucket, name) = self.bucket_and_key(key)?;
        let got = self.wait(async move { bucket.get(&name, PATIENCE).await }, PATIENCE * 2);
        let entry = got.ok_or_else(late)?.map_err(|error| KeepError(error.to_string()))?;
        let is_there = entry.revision > 0 && !entry.is_deleted;
        Ok(is_there.then(|| SharedValue { value: entry.value.to_vec(), revision: entry.revision }))
    }

    /// Sets a value that all nodes share. Where a revision is named, the value is set only if it still has
    /// this one; zero: if there is none. False: it has another one.
    ///
    /// It must not be called in a handler.
    ///
    /// # Errors
    /// NATS cannot be reached, or it is no key. Where no answer has come, the value may be set.
    pub fn put(&self, key: &str, value: Vec<u8>, revision: Option<u64>) -> Result<bool, KeepError> {
        let (bucket, name) = self.bucket_and_key(key)?;
        let value = Bytes::from(value);
        let put = async move {
            let put = bucket.put(&name, value.clone(), revision, PATIENCE).await?;
            if put == Put::Done || revision != Some(0) {
                return Ok(put);
            }
            // One that was deleted has the revision of its deletion.
            let entry = bucket.get(&name, PATIENCE).await?;
            match entry.is_deleted {
                true => bucket.put(&name, value, Some(entry.revision), PATIENCE).await,
                false => Ok(put),
            }
        };
        let put: Result<Put, ApiError> = self.wait(put, PATIENCE * 3).ok_or_else(late)?;
        Ok(put.map_err(|error| KeepError(error.to_string()))? == Put::Done)
    }

    /// Calls `watcher` with each value that all nodes share, now and when it changes: the key, and the value,
    /// or `None` where it was deleted. After a new connection it may be called with values that it knows. It
    /// is called on the thread of the connection, and must not wait for anything.
    pub fn watch(&self, watcher: impl Fn(&str, Option<&[u8]>) + Send + Sync + 'static) {
        self.runtime().spawn(keep::watch(Arc::clone(self.shared()), Arc::new(watcher)));
    }

    fn bucket_and_key(&self, key: &str) -> Result<(crate::bucket::Bucket, String), KeepError> {
        let name = key_in_bucket(key).ok_or_else(|| KeepError::of_key(key))?;
        Ok((self.shared().bucket.clone(), name))
    }

    /// Runs this on the thread of the connection, and waits for it. `None`: it has not ended in time.
    fn wait<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
        patience: Duration,
    ) -> Option<T> {
        let (sender, receiver) = channel::sync_channel(1);
        self.runtime().spawn(async move {
            // A caller that has given up needs none.
            let _ = sender.try_send(work.await);
        });
        receiver.recv_timeout(patience).ok()
    }

    fn nodes(&self) -> &Arc<nodes::Nodes> {
        &self.shared().nodes
    }
}

fn late() -> KeepError {
    KeepError("NATS does not answer in time".to_owned())
}
