//! Whether the servers of a cluster keep the same of each topic. A client cannot tell which server it
//! reaches, so it should find the same at each of them.

use std::sync::Arc;
use std::time::Duration;
use std::{io, thread};

use fanfare_backplane::NatsBackplane;
use fanfare_config::Settings;

/// The question.
const KIND: &str = "topic-settings";

/// How often the others are asked.
const INTERVAL: Duration = Duration::from_secs(60);

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// What is compared: everything that decides which events a subscriber finds.
fn described(settings: &Settings) -> String {
    let limits = settings.log_limits();
    format!("retention {:?}, rules {:?}, presence {:?}", limits.retention, limits.rules, settings.presence)
}

/// Answers other servers, and compares what they say, from a thread of its own. A difference is a line of the
/// log.
///
/// # Errors
/// The system refuses the thread.
pub(crate) fn compare(backplane: &Arc<NatsBackplane>, settings: &Settings) -> io::Result<()> {
    let own = described(settings);
    let answer = own.clone();
    backplane.on_question(KIND, move |_, _| answer.clone().into_bytes()).map_err(io::Error::other)?;
    let backplane = Arc::downgrade(backplane);
    thread::Builder::new().name("fanfare-settings".to_owned()).spawn(move || {
        let mut told = Vec::new();
        loop {
            thread::sleep(INTERVAL / 20);
            let Some(asks) = backplane.upgrade() else { return };
            let answers = asks.ask(KIND, Vec::new(), PATIENCE).unwrap_or_default();
            drop(asks);
            for (server, theirs) in answers {
                let theirs = String::from_utf8_lossy(&theirs).into_owned();
                if theirs != own && !told.contains(&theirs) {
                    tracing::warn!(
                        server,
                        "a server of the cluster keeps other events of topics: it has {theirs}, and this one {own}; give \
                         all servers the same --retain options and --presence"
                    );
                    told.push(theirs);
                    told.truncate(64);
                }
            }
            thread::sleep(INTERVAL);
        }
    })?;
    Ok(())
}
