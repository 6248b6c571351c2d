//! The stream: it is created where it is not there, and its settings are checked where it is.

use std::time::Duration;

use serde_json::{Value, json};

use crate::api::{Api, ApiError, StreamInfo, code};
use crate::link::RequestError;
use crate::options::NatsOptions;
use crate::topics::Subjects;
use crate::{ConnectError, ConnectErrorKind};

/// A setting of a stream that is not as the options say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Difference {
    setting: &'static str,
    is: i64,
    wanted: i64,
    unit: &'static str,
}

/// Finds the stream, or creates it, and checks it.
pub(crate) async fn open(
    api: &Api,
    options: &NatsOptions,
    patience: Duration,
) -> Result<StreamInfo, ConnectError> {
    let info = match api.stream_info(patience).await {
        Err(ApiError::Refused { code: code::STREAM_NOT_FOUND, .. }) => create(api, options, patience).await?,
        other => other.map_err(|error| explain(options, &error))?,
    };
    check(&info.config, options)?;
    Ok(info)
}

async fn create(api: &Api, options: &NatsOptions, patience: Duration) -> Result<StreamInfo, ConnectError> {
    let (window, least) = (window_at_creation(options), options.least_duplicate_window());
    if window < least {
        let what = format!(
            "the stream {} is not created: its events would live for {window:?}, and its duplicate window has to be {least:?} at least; let events live longer",
            options.stream
        );
        return Err(ConnectError::new(ConnectErrorKind::Options, what));
    }
    let config = wanted_config(options);
    let created = api.call(&format!("STREAM.CREATE.{}", options.stream), &config, patience).await;
    match created.and_then(StreamInfo::of) {
        Ok(info) => Ok(info),
        Err(error @ ApiError::Refused { code: code::NOT_ENABLED | code::NOT_ENABLED_FOR_ACCOUNT, .. }) => {
            Err(explain(options, &error))
        }
        Err(error) => {
            // Another node may have created it a moment ago.
            if let Ok(info) = api.stream_info(patience).await {
                return Ok(info);
            }
            if !matches!(error, ApiError::Refused { .. }) {
                return Err(explain(options, &error));
            }
            let what = format!(
                "the stream {} cannot be created: {error}; change the settings, or what the NATS server allows, or create the stream with other settings",
                options.stream
            );
            Err(ConnectError::new(ConnectErrorKind::Create, what))
        }
    }
}

/// What a stream is created with.
fn wanted_config(options: &NatsOptions) -> Value {
    let max_bytes = options.max_bytes;
    json!({
        "name": options.stream,
        "description": "Events of Fanfare, in the order in which all nodes deliver them",
        "subjects": [Subjects::new(&options.prefix).all()],
        "retention": "limits",
        "storage": "file",
        "discard": "old",
        "max_age": nanoseconds(options.max_age),
        "max_bytes": if max_bytes == 0 { -1 } else { i64::try_from(max_bytes).unwrap_or(i64::MAX) },
        "max_msgs": -1,
        "max_msgs_per_subject": -1,
        "max_msg_size": -1,
        "max_consumers": -1,
        "num_replicas": options.replicas,
        "duplicate_window": nanoseconds(window_at_creation(options)),
        "allow_direct": true,
    })
}

/// The duplicate window of a new stream. It cannot be longer than events live.
fn window_at_creation(options: &NatsOptions) -> Duration {
    match options.max_age {
        Duration::ZERO => options.duplicate_window,
        age => options.duplicate_window.min(age),
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(i64::MAX as u64)
}

/// Compares the settings that the server says with those that a node needs, and with those that it was told.
pub(crate) fn check(config: &Value, options: &NatsOptions) -> Result<(), ConnectError> {
    let mismatch = |setting: &str, is: String, wanted: &str, advice: &str| {
        let what = format!(
            "the stream {} has the setting {setting} = {is}, and it has to be {wanted}; {advice}, or name another stream",
            options.stream
        );
        Err(ConnectError::new(ConnectErrorKind::Mismatch, what))
    };
    let edit = format!("change it with `nats stream edit {}`", options.stream);
    let anew = "it cannot be changed: delete the stream";
    let set = "set the option to the same";

    let subjects = json!([Subjects::new(&options.prefix).all()]);
    if config["subjects"] != subjects {
        return mismatch("subjects", config["subjects"].to_string(), &subjects.to_string(), &edit);
    }
    for (setting, wanted, advice) in [("retention", "limits", anew), ("storage", "file", anew)] {
        if config[setting] != wanted {
            return mismatch(setting, config[setting].to_string(), &format!("{wanted:?}"), advice);
        }
    }
    // What would take events out of the middle, where no subscriber can be told of it, or would change them.
    for (setting, advice) in [
        ("sealed", anew),
        ("no_ack", &*edit),
        ("allow_rollup_hdrs", &*edit),
        ("allow_msg_ttl", anew),
        ("allow_msg_counter", anew),
        ("allow_msg_schedules", anew),
    ] {
        if config[setting].as_bool().unwrap_or_default() {
            return mismatch(setting, "true".to_owned(), "false", advice);
        }
    }
    for setting in ["mirror", "sources", "subject_transform"] {
        if !config[setting].is_null() {
            return mismatch(setting, config[setting].to_string(), "absent", anew);
        }
    }
    let per_subject = config["max_msgs_per_subject"].as_i64().unwrap_or(-1);
    if per_subject > 0 {
        return mismatch("max_msgs_per_subject", per_subject.to_string(), "-1", &edit);
    }
    let window = config["duplicate_window"].as_u64().unwrap_or_default();
    let least = nanoseconds(options.least_duplicate_window());
    if window < least {
        let wanted = format!("at least {least} ns");
        return mismatch("duplicate_window", format!("{window} ns"), &wanted, &edit);
    }
    match differences(config, options).first().filter(|_| options.is_strict) {
        Some(Difference { setting, is, wanted, unit }) => {
            mismatch(setting, format!("{is}{unit}"), &format!("{wanted}{unit}"), &format!("{edit}, {set}"))
        }
        None => Ok(()),
    }
}

/// Checks the bucket beside the stream: it must not lose values in silence.
pub(crate) fn check_bucket(name: &str, config: &Value) -> Result<(), ConnectError> {
    let number = |setting: &str| config[setting].as_i64().unwrap_or_default();
    let drops_old = config["discard"] != "new";
    let drops = |setting: &str| number(setting) > 0 && drops_old;
    let setting = if config["retention"] != "limits" {
        "retention"
    } else if number("max_age") > 0 {
        "max_age"
    } else if drops("max_msgs") {
        "max_msgs"
    } else if drops("max_bytes") {
        "max_bytes"
    } else {
        return Ok(());
    };
    let what = format!(
        "the bucket {name} has the setting {setting} = {}, with which it loses what nodes share; change it with `nats stream edit {name}`, or delete the bucket",
        config[setting]
    );
    Err(ConnectError::new(ConnectErrorKind::Mismatch, what))
}

/// What is different from the options, where a node can do with either.
pub(crate) fn differences(config: &Value, options: &NatsOptions) -> Vec<Difference> {
    let wanted = wanted_config(options);
    // Servers write a bound that is none as zero or as -1.
    let number = |config: &Value, setting: &str| config[setting].as_i64().unwrap_or_default().max(0);
    let settings = ["num_replicas", "max_age", "max_bytes", "duplicate_window"];
    let differences = settings.map(|setting| Difference {
        setting,
        is: number(config, setting),
        wanted: number(&wanted, setting),
        unit: match setting {
            "max_bytes" => " bytes",
            "num_replicas" => "",
            _ => " ns",
        },
    });
    differences.into_iter().filter(|difference| difference.is != difference.wanted).collect()
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Difference { setting, is, wanted, unit } = self;
        write!(f, "{setting} is {is}{unit}, and the options say {wanted}{unit}")
    }
}

/// What to do about a call that has failed while the node starts.
pub(crate) fn explain(options: &NatsOptions, error: &ApiError) -> ConnectError {
    match error {
        ApiError::Request(RequestError::NoResponders)
        | ApiError::Refused { code: code::NOT_ENABLED | code::NOT_ENABLED_FOR_ACCOUNT, .. } => {
            let what = "the NATS server has no JetStream, or not for this account; start it with `jetstream {}` in its configuration, or with -js";
            ConnectError::new(ConnectErrorKind::NoJetStream, what)
        }
        ApiError::Request(RequestError::Denied) => {
            let what = format!(
                "the NATS server does not permit this account what a node does; permit to publish $JS.API.>, $JS.FC.>, $KV.{}_state.> and {}.>, and to subscribe _INBOX.>",
                options.stream, options.prefix
            );
            ConnectError::new(ConnectErrorKind::Permission, what)
        }
        ApiError::Request(_) => {
            let what = "the NATS server does not answer calls to JetStream; look whether its JetStream has a leader (`nats server report jetstream`), and whether this account may subscribe _INBOX.>";
            ConnectError::new(ConnectErrorKind::JetStream, what)
        }
        other => {
            let what = format!("JetStream cannot be used: {other}; look into the log of the NATS server");
            ConnectError::new(ConnectErrorKind::JetStream, what)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> NatsOptions {
        NatsOptions::new(["nats://127.0.0.1"])
    }

    #[test]
    fn what_is_created_passes_the_check() {
        check(&wanted_config(&options()), &options()).unwrap();
        let told = options().replicas(3).max_age(Duration::from_secs(60)).max_bytes(0);
        check(&wanted_config(&told), &told).unwrap();
    }

    #[test]
    fn each_mismatch_is_named() {
        for (setting, value) in [
            ("subjects", json!(["fanfare.>", "other.>"])),
            ("subjects", json!(["fanfare.*"])),
            ("retention", json!("workqueue")),
            ("storage", json!("memory")),
            ("sealed", json!(true)),
            ("no_ack", json!(true)),
            ("allow_rollup_hdrs", json!(true)),
            ("allow_msg_ttl", json!(true)),
            ("mirror", json!({ "name": "OTHER" })),
            ("sources", json!([{ "name": "OTHER" }])),
            ("subject_transform", json!({ "src": "a", "dest": "b" })),
            ("max_msgs_per_subject", json!(1)),
            ("duplicate_window", json!(9_999_999_999_u64)),
        ] {
            let mut config = wanted_config(&options());
            config[setting] = value;
            let error = check(&config, &options()).unwrap_err();
            assert_eq!(error.kind(), ConnectErrorKind::Mismatch);
            assert!(error.to_string().contains(&format!("the setting {setting} = ")), "{error}");
        }
    }

    #[test]
    fn a_setting_that_is_different_is_told_or_refused() {
        let config = wanted_config(&options());
        assert_eq!(differences(&config, &options()), []);
        for (told, setting) in [
            (options().replicas(3), "num_replicas"),
            (options().max_age(Duration::from_secs(600)), "max_age"),
            (options().max_bytes(7), "max_bytes"),
            (options().duplicate_window(Duration::from_secs(60)), "duplicate_window"),
        ] {
            check(&config, &told).unwrap();
            let said: Vec<String> = differences(&config, &told).iter().map(Difference::to_string).collect();
            assert!(said.len() == 1 && said[0].starts_with(setting), "{said:?}");
            let error = check(&config, &told.strict(true)).unwrap_err();
            assert!(error.to_string().contains(&format!("the setting {setting} = ")), "{error}");
        }
    }
}
