//! The configuration of a running server: it is read at the start, and again at SIGHUP.

use std::env;
use std::error::Error;
use std::fmt;
use std::fs;
use std::path::Path;

use fanfare_config::{FileText, Flags, Listen, Place, Problem, Problems, Settings, Sources, Values};

use crate::control::ControlLimits;

/// An error that prevents the start, or a reload.
#[derive(Debug)]
pub(crate) enum ConfigurationError {
    /// Single values, keys and names.
    Wrong(Problems),
    /// Values that do not go together.
    Together(Problems),
}

impl ConfigurationError {
    pub(crate) fn problems(&self) -> &[Problem] {
        let (ConfigurationError::Wrong(problems) | ConfigurationError::Together(problems)) = self;
        &problems.0
    }

    /// That of clap for a wrong option; values that do not go together are a failure like others.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            ConfigurationError::Wrong(_) => 2,
            ConfigurationError::Together(_) => 1,
        }
    }
}

impl fmt::Display for ConfigurationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ConfigurationError::Wrong(problems) | ConfigurationError::Together(problems)) = self;
        problems.fmt(f)
    }
}

impl Error for ConfigurationError {}

impl From<Problems> for ConfigurationError {
    fn from(problems: Problems) -> ConfigurationError {
        ConfigurationError::Wrong(problems)
    }
}

/// Values that hold, and where they come from.
#[derive(Debug)]
pub(crate) struct Configuration {
    sources: Sources,
    pub(crate) values: Values,
    pub(crate) settings: Settings,
}

/// The changes of a reload, by the names of the options.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// They hold from now on.
    pub(crate) made: Vec<&'static str>,
    /// They hold after a restart.
    pub(crate) need_restart: Vec<&'static str>,
}

impl Configuration {
    /// Reads the file that the flags name, and the environment.
    ///
    /// # Errors
    /// All mistakes.
    pub(crate) fn read(flags: Flags) -> Result<Configuration, ConfigurationError> {
        let file = flags.config.as_deref().map(FileText::read).transpose()?;
        Configuration::of(Sources { file, variables: env::vars_os().collect(), flags })
    }

    /// What these sources say.
    ///
    /// # Errors
    /// All mistakes.
    pub(crate) fn of(sources: Sources) -> Result<Configuration, ConfigurationError> {
        let values = Settings::table().layer(&sources)?;
        let settings = checked(&values)?;
        Ok(Configuration { sources, values, settings })
    }

    /// The file that is read again at SIGHUP.
    pub(crate) fn file(&self) -> Option<&Path> {
        self.sources.flags.config.as_deref()
    }

    /// Reads the file again. The environment and the flags are those of the start. The new configuration has
    /// the values that a running server can change; all others stay.
    ///
    /// # Errors
    /// All mistakes; the configuration that holds is not changed.
    pub(crate) fn read_again(&self) -> Result<(Configuration, Changes), ConfigurationError> {
        let file = self.file().map(read_regular).transpose()?;
        let sources = Sources { file, ..self.sources.clone() };
        let wanted = Configuration::of(sources)?;
        let mut changes = Changes::default();
        for definition in wanted.values.changes(&self.values) {
            let name = definition.name.as_str();
            match definition.is_reloadable {
                true => changes.made.push(name),
                false => changes.need_restart.push(name),
            }
        }
        // The new values beside those that wait for a restart have to be right, too.
        let values = wanted.values.over(&self.values);
        let settings = checked(&values)?;
        Ok((Configuration { sources: wanted.sources, values, settings }, changes))
    }
}

/// Another kind of file, such as a pipe, is empty when it is read again, or keeps the server waiting.
fn read_regular(path: &Path) -> Result<FileText, Problems> {
    if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
        let place = Place::File(path.display().to_string().into());
        let text = "is no regular file, so that it cannot be read again".to_owned();
        return Err(Problems(vec![Problem { place, text }]));
    }
    FileText::read(path)
}

/// The settings, if they go together.
fn checked(values: &Values) -> Result<Settings, ConfigurationError> {
    let settings = Settings::of(values)?;
    let mut problems = Vec::new();
    let mut report = |name: &str, text: String| {
        let place = values.place(name).cloned().unwrap_or(Place::Default);
        problems.push(Problem { place, text });
    };
    if let Err((name, text)) = ControlLimits::of(&settings).check(&settings) {
        report(name, text);
    }
    if !settings.nats.is_empty() && settings.data.is_some() {
        let text = "--data cannot be set with --nats: the stream of NATS is the durable log then";
        report("data", text.to_owned());
    }
    if settings.nats_certificate.is_some() != settings.nats_key.is_some() {
        let text = "--nats-certificate and --nats-key belong together: a certificate needs its private key";
        report("nats-certificate", text.to_owned());
    }
    if settings.nats_credentials.is_some() && settings.nats_login.is_some() {
        let text = "--nats-login cannot be set with --nats-credentials: a connection has one identity";
        report("nats-login", text.to_owned());
    }
    if settings.listen.is_empty() && settings.listen_proxy.is_empty() {
        report("listen", "--listen and --listen-proxy are both empty: there is nowhere to listen".to_owned());
    }
    if !settings.listen_proxy.is_empty() && settings.trusted_proxies.is_empty() {
        let text =
            "--listen-proxy needs --trusted-proxies: only they may write a header of the PROXY protocol";
        report("listen-proxy", text.to_owned());
    }
    let systemd = [&settings.listen, &settings.listen_proxy].map(|all| all.contains(&Listen::Systemd));
    if systemd == [true, true] {
        let text =
            "systemd can be in one of --listen and --listen-proxy: it stands for all sockets of systemd";
        report("listen-proxy", text.to_owned());
    }
    // With half of the keys, the other half of the doors would be open without a word.
    let doors = [
        ("subscriber-keys", !settings.subscriber_keys.is_empty()),
        ("subscriber-jwks", settings.subscriber_jwks.is_some()),
        ("url-keys", !settings.url_keys.is_empty()),
        ("authorize-url", settings.authorize_url.is_some()),
    ];
    let has_publishers = !settings.publisher_keys.is_empty() || settings.publisher_jwks.is_some();
    let door = doors.into_iter().find(|(_, is_there)| *is_there).map(|(name, _)| name);
    if let Some(name) = door.filter(|_| !has_publishers) {
        report(name, format!("--{name} needs --publisher-keys, too: otherwise everyone could publish"));
    }
    if has_publishers && door.is_none() && !settings.anonymous_subscribe {
        let text = "--publisher-keys needs --subscriber-keys, --url-keys or --authorize-url, too, or \
                    --anonymous-subscribe: otherwise nothing could be subscribed to";
        report("publisher-keys", text.to_owned());
    }
    if settings.authorize_url.is_some() && settings.anonymous_subscribe {
        let text = "--authorize-url and --anonymous-subscribe contradict each other: the endpoint decides about \
                    subscribers without a token, too, so let it answer 204 for them";
        report("anonymous-subscribe", text.to_owned());
    }
    for (name, url) in [
        ("subscriber-jwks", &settings.subscriber_jwks),
        ("publisher-jwks", &settings.publisher_jwks),
        ("authorize-url", &settings.authorize_url),
    ] {
        if let Some(url) = url.as_ref().filter(|url| url.is_unprotected() && !settings.plain_http) {
            let text = format!(
                "{:?} is not protected by TLS and not on this machine, so that strangers could change the answers; \
                 write https, or allow it by --plain-http",
                url.authority()
            );
            report(name, text);
        }
    }
    match problems.is_empty() {
        true => Ok(settings),
        false => Err(ConfigurationError::Together(Problems(problems))),
    }
}
