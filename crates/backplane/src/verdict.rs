//! What the answer to a publish says.

use fanfare::SubmitFailure;
use serde_json::Value;

use crate::api::ApiError;

/// What the answer to a publish says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The stream has it, with this number.
    Stored { number: u64, is_duplicate: bool },
    /// Not now, for this reason: the same may be taken a moment later.
    Later(String),
    /// It is not the answer of the stream, and says nothing of the event. Another program reads the subjects
    /// of the stream, and answers.
    Foreign(String),
    /// No, for this reason.
    No(SubmitFailure, String),
}

/// Codes of server/errors.json of nats-server.
mod code {
    /// Account resources, memory, storage: there is no room.
    pub(super) const FULL: [u64; 4] = [10002, 10023, 10028, 10047];
    /// The store has refused it: a limit of the stream, or a failure.
    pub(super) const STORE_FAILED: u64 = 10077;
    pub(super) const TOO_LARGE: u64 = 10054;
}

pub(crate) fn verdict_of(answer: &[u8], stream: &str) -> Verdict {
    let Ok(value) = serde_json::from_slice::<Value>(answer) else {
        let what = "the answer to a publish is none of JetStream: another program answers on its subjects";
        return Verdict::Foreign(what.to_owned());
    };
    if let Some(error) = ApiError::in_answer(&value) {
        return verdict_of_error(error);
    }
    if value["stream"] != stream {
        return Verdict::Foreign(format!("another stream takes the subjects, too: {}", value["stream"]));
    }
    match value["seq"].as_u64() {
        Some(number) if number > 0 => {
            Verdict::Stored { number, is_duplicate: value["duplicate"].as_bool().unwrap_or_default() }
        }
        _ => Verdict::Foreign("the answer to a publish has no number".to_owned()),
    }
}

fn verdict_of_error(error: ApiError) -> Verdict {
    let why = error.to_string();
    let ApiError::Refused { status, code, description } = error else {
        return Verdict::Later(why);
    };
    let is_about = |word: &str| description.to_ascii_lowercase().contains(word);
    let is_full = code::FULL.contains(&code)
        || (code == code::STORE_FAILED
            && ["maximum", "space", "insufficient"].iter().any(|word| is_about(word)));
    if is_full {
        Verdict::No(SubmitFailure::Full, why)
    } else if code == code::TOO_LARGE {
        // The server does not say the limit here.
        Verdict::No(SubmitFailure::TooLarge { limit: 0 }, why)
    } else if status == 503 || status == 429 || code == code::STORE_FAILED {
        Verdict::Later(why)
    } else {
        Verdict::No(SubmitFailure::Refused, why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Verdict {
        verdict_of(text.as_bytes(), "FANFARE")
    }

    fn failure(code: u64, status: u64, description: &str) -> Option<SubmitFailure> {
        let body =
            serde_json::json!({ "error": { "code": status, "err_code": code, "description": description } });
        match of(&body.to_string()) {
            Verdict::No(failure, why) => {
                assert!(why.contains(description), "{why}");
                Some(failure)
            }
            Verdict::Later(_) => None,
            Verdict::Stored { .. } | Verdict::Foreign(_) => panic!("an error is no success"),
        }
    }

    #[test]
    fn an_answer_says_where_the_event_is() {
        let stored = |number, is_duplicate| Verdict::Stored { number, is_duplicate };
        assert_eq!(of(r#"{"stream":"FANFARE","seq":7}"#), stored(7, false));
        assert_eq!(of(r#"{"stream":"FANFARE","seq":7,"duplicate":true,"domain":"hub"}"#), stored(7, true));
        for wrong in ["", "+OK", "{}", r#"{"stream":"OTHER","seq":7}"#, r#"{"stream":"FANFARE","seq":0}"#] {
            assert!(matches!(of(wrong), Verdict::Foreign(_)), "{wrong}");
        }
    }

    #[test]
    fn errors_are_of_four_kinds() {
        for (code, status, description) in [
            (10047, 500, "insufficient storage resources available"),
            (10023, 503, "insufficient resources"),
            (10077, 503, "maximum bytes exceeded"),
            (10077, 503, "write /data: no space left on device"),
            (10002, 400, "resource limits exceeded for account"),
        ] {
            assert_eq!(failure(code, status, description), Some(SubmitFailure::Full), "{description}");
        }
        assert_eq!(failure(10008, 503, "JetStream system temporarily unavailable"), None);
        assert_eq!(failure(10077, 503, "raft: not the leader"), None);
        assert_eq!(failure(10109, 400, "invalid operation on sealed stream"), Some(SubmitFailure::Refused));
        let large = SubmitFailure::TooLarge { limit: 0 };
        assert_eq!(failure(10054, 400, "message size exceeds maximum allowed"), Some(large));
    }
}
