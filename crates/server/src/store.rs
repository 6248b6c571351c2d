//! The durable log of the server (`--data`): it is opened before anything is served.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use bytesize::ByteSize;
use fanfare::{Hub, Store, StoreOptions, StoreReader};
use fanfare_config::Settings;
use fanfare_store::DiskStore;
use fanfare_store::disk::Options;

/// Random bits for a log that is new: its epoch, and the keys of its hashes.
pub(crate) fn random() -> [u64; 3] {
    let random = RandomState::new();
    [0, 1, 2].map(|number| random.hash_one(number))
}

/// Opens the log in the directory of `--data`, and says in the log of the server what is there. `None`: there
/// is no directory, and events are in memory alone.
///
/// # Errors
/// The directory cannot be used: why, and what to do.
pub(crate) fn open(settings: &Settings) -> Result<Option<Arc<DiskStore>>, String> {
    let Some(path) = &settings.data else { return Ok(None) };
    let options = Options::new(settings.store_limits(), random());
    let store = DiskStore::open(path, options).map_err(|error| format!("--data: {error}"))?;
    let (state, opening) = (store.state(), store.opening());
    if let Some(cut) = &opening.cut {
        match cut.was_durable {
            true => tracing::error!("the durable log has lost events: {cut}"),
            false => tracing::warn!("the durable log was not closed: {cut}"),
        }
    }
    tracing::info!(
        directory = %path.display(),
        events = state.records,
        size = %ByteSize::b(state.bytes),
        newest = state.newest,
        is_new = opening.is_new,
        was_repaired = opening.was_repaired,
        "the durable log is open"
    );
    Ok(Some(Arc::new(store)))
}

/// Closes the log, so that the next start need not check the whole file.
pub(crate) fn close(store: &DiskStore) {
    if let Err(error) = store.close() {
        tracing::error!("the durable log is not closed, and is checked at the next start: {error}");
    }
}

/// What the log takes of memory at most, in bytes: pages of its file, events that are not indexed yet, and
/// groups that are being written.
const LOG_MEMORY: usize = 64 << 20;

/// How much memory the durable log takes at most, by part.
pub(crate) fn memory_bounds(hub: &Hub) -> [(&'static str, usize); 2] {
    let of_log = if hub.store_figures().is_some() { LOG_MEMORY } else { 0 };
    [("the durable log", of_log), ("events from the durable log", hub.history_memory())]
}

/// How the engine uses the log.
pub(crate) fn options(store: &Arc<DiskStore>, settings: &Settings) -> StoreOptions {
    StoreOptions::new(Arc::clone(store) as Arc<dyn Store>).durability(settings.durability)
}
