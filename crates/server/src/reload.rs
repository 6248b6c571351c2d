//! SIGHUP: the file is read again, and what can change does.

use std::sync::Arc;

use fanfare::{Engine, SharedProxies};
use fanfare_config::{Place, Problem, Problems};
use fanfare_store::DiskStore;
use tracing_subscriber::EnvFilter;

use crate::access::{self, Access};
use crate::cluster::settings::SharedSettings;
use crate::configuration::{Changes, Configuration, ConfigurationError};
use crate::control::{ControlLimits, CurrentLimits};
use crate::fetched_keys::KEY_REMOVED;
use crate::listen::Listening;
use crate::rules::{CurrentRules, Rules};
use crate::serve::log_filter;

/// The parts of a running server that change.
pub(crate) struct Running {
    pub(crate) configuration: Configuration,
    pub(crate) listening: Listening,
    pub(crate) rules: CurrentRules,
    pub(crate) limits: Arc<CurrentLimits>,
    /// Those of the listeners that expect the PROXY protocol.
    pub(crate) proxies: SharedProxies,
    pub(crate) log: SetLog,
    pub(crate) store: Option<Arc<DiskStore>>,
    /// `None`: the server is alone.
    pub(crate) shared_settings: Option<Arc<SharedSettings>>,
}

/// The options of what is kept of each topic.
const RETENTION: [&str; 4] = ["retain-events", "retain-bytes", "retain-age", "retain"];

/// Replaces the filter of the log.
pub(crate) type SetLog = Box<dyn Fn(EnvFilter) -> Result<(), String> + Send>;

impl Running {
    /// Reads the file again, and says in the log and in the text that it gives what came of it. A mistake
    /// changes nothing.
    pub(crate) fn reload(&mut self, engine: &Engine) -> String {
        let file = match self.configuration.file() {
            Some(file) => file.display().to_string(),
            None if self.rules.get().access.has_keys() => "none, but files of keys".to_owned(),
            None => {
                tracing::info!(
                    "SIGHUP is ignored, because there is no --config FILE to read again; SIGTERM or SIGINT \
                     stops the server"
                );
                return "there is no configuration file to read again".to_owned();
            }
        };
        match self.try_reload(engine) {
            Ok(Changes { made, need_restart }) => {
                let changed = if made.is_empty() { "nothing".to_owned() } else { made.join(", ") };
                tracing::info!(file, changed, "the configuration was read again");
                if !need_restart.is_empty() {
                    let options = need_restart.join(", ");
                    tracing::warn!(options, "these options have changed in the file and need a restart");
                    return format!(
                        "configuration read again; changed: {changed}; needs a restart: {options}"
                    );
                }
                format!("configuration read again; changed: {changed}")
            }
            Err(error) => {
                for problem in error.problems() {
                    tracing::error!("{problem}");
                }
                tracing::error!(file, "the configuration stays as it was, because a file is wrong");
                "the configuration stays as it was, because a file is wrong; see the log".to_owned()
            }
        }
    }

    fn try_reload(&mut self, engine: &Engine) -> Result<Changes, ConfigurationError> {
        let (configuration, mut changes) = self.configuration.read_again()?;
        let settings = &configuration.settings;
        access::check_open(settings, &configuration.values, &self.listening)?;
        let before = Arc::clone(&self.rules.get().access);
        access::check_keys_stay(settings, &configuration.values, &before)?;
        let mut access = Access::of(settings, &configuration.values, &before)?;
        for name in access.changed_keys(&before) {
            if !changes.made.contains(&name) {
                changes.made.push(name);
            }
        }
        // Before keys are fetched again.
        let removed = access.removed_subscriber_keys(&before);
        access.start(settings, &before).map_err(|text| {
            ConfigurationError::Together(Problems(vec![Problem { place: Place::Default, text }]))
        })?;
        if !removed.is_empty() {
            tracing::warn!(options = removed.join(", "), "{KEY_REMOVED}");
        }
        // Everything is read and right: from here on nothing fails.
        let rules = Rules::of(settings, &self.listening, Arc::new(access));
        self.proxies.replace(rules.proxies.clone());
        self.rules.replace(rules);
        self.limits.replace(ControlLimits::of(settings));
        engine.change_limits(&settings.limits());
        if changes.made.iter().any(|name| RETENTION.contains(name)) {
            match &self.shared_settings {
                Some(shared) => shared.reload(settings),
                None => {
                    let log = settings.log_limits();
                    engine.hub().set_retention(log.retention, log.rules);
                }
            }
        }
        if let Some(store) = &self.store {
            store.set_limits(settings.store_limits());
        }
        if changes.made.contains(&"log") {
            let set = (self.log)(log_filter(&settings.log));
            if let Err(error) = set {
                tracing::error!("the level of the log stays as it was: {error}");
            }
        }
        self.configuration = configuration;
        Ok(changes)
    }
}
