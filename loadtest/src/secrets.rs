//! What a report does not repeat: the values of headers, parameters and options that hold a secret.

use serde::{Serialize, Serializer};

const HIDDEN: &str = "***";

/// Whether a header, a parameter of a URL or an option of this name holds a secret.
fn is_secret(name: &str) -> bool {
    let name = name.trim().trim_start_matches('-').to_ascii_lowercase();
    const PARTS: [&str; 11] = [
        "auth",
        "cookie",
        "credential",
        "jwt",
        "key",
        "passwd",
        "password",
        "secret",
        "session",
        "signature",
        "token",
    ];
    PARTS.iter().any(|part| name.contains(part))
}

/// `Name: value`, without the value where the name is that of a secret.
pub(crate) fn header(header: &str) -> String {
    match header.split_once(':') {
        Some((name, _)) if is_secret(name) => format!("{name}: {HIDDEN}"),
        _ => header.to_owned(),
    }
}

/// A URL without a user's password, and without parameters that hold a secret.
pub(crate) fn url(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let authority = match authority.rsplit_once('@') {
        Some((_, host)) => format!("{HIDDEN}@{host}"),
        None => authority.to_owned(),
    };
    let Some((path, query)) = path.split_once('?') else { return format!("{scheme}://{authority}{path}") };
    let parameter = |parameter: &str| match parameter.split_once('=') {
        Some((name, _)) if is_secret(name) => format!("{name}={HIDDEN}"),
        _ => parameter.to_owned(),
    };
    let query: Vec<String> = query.split('&').map(parameter).collect();
    format!("{scheme}://{authority}{path}?{}", query.join("&"))
}

/// The words of a command as a shell would take them.
pub(crate) fn command(words: impl IntoIterator<Item = String>) -> String {
    let mut shown: Vec<String> = Vec::new();
    let mut follows_secret = false;
    for word in words {
        let text =
            if follows_secret && !word.starts_with('-') { HIDDEN.to_owned() } else { shown_word(&word) };
        follows_secret = word.starts_with("--") && !word.contains('=') && is_secret(&word);
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
        let quoted = format!("'{}'", text.replace('\'', r"'\''"));
        shown.push(if !text.is_empty() && text.chars().all(plain) { text } else { quoted });
    }
    shown.join(" ")
}

/// A word of a command: a header, a URL, an option with its value, or options of another program.
fn shown_word(word: &str) -> String {
    if word.starts_with("--")
        && let Some((option, value)) = word.split_once('=')
        && !option.contains(' ')
    {
        let value = if is_secret(option) { HIDDEN.to_owned() } else { shown_word(value) };
        return format!("{option}={value}");
    }
    if word.starts_with("--") && word.contains(' ') {
        return command(word.split_whitespace().map(str::to_owned));
    }
    if word.contains("://") { url(word) } else { header(word) }
}

/// For serde: a list of headers as a report shows them.
pub(crate) fn headers<S: Serializer>(headers: &[String], serializer: S) -> Result<S::Ok, S::Error> {
    headers.iter().map(|one| header(one)).collect::<Vec<_>>().serialize(serializer)
}

/// For serde: a URL, where one was given, as a report shows it.
pub(crate) fn shown_urls<S: Serializer>(given: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
    given.as_deref().map(url).serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_are_secret_are_hidden() {
        assert_eq!(header("Authorization: Bearer abc"), "Authorization: ***");
        assert_eq!(header("X-API-Key: abc"), "X-API-Key: ***");
        assert_eq!(header("X-Session-Id: abc"), "X-Session-Id: ***");
        assert_eq!(header("set-cookie:a=b"), "set-cookie: ***");
        assert_eq!(header("Content-Type: text/plain"), "Content-Type: text/plain");
        assert_eq!(url("http://h:1/a?topic=b&access_token=c&d"), "http://h:1/a?topic=b&access_token=***&d");
        assert_eq!(url("http://user:word@h/{topic}"), "http://***@h/{topic}");
        assert_eq!(url("http://h?a=b"), "http://h?a=b");
    }

    #[test]
    fn a_command_can_be_given_again_and_has_no_secret() {
        let words = [
            "fanfare-load",
            "compare",
            "--publish-header",
            "Authorization: Bearer abc",
            "--publish-header=Cookie: abc",
            "--topic",
            "it's",
            "--fanfare-options",
            "--shards 7 --api-key abc --heartbeat 1day",
            "--api-token",
            "abc",
            "--url",
            "http://h/?jwt=abc",
            "",
        ];
        let shown = command(words.map(str::to_owned));
        assert_eq!(
            shown,
            r"fanfare-load compare --publish-header 'Authorization: ***' '--publish-header=Cookie: ***' --topic 'it'\''s' --fanfare-options '--shards 7 --api-key '\''***'\'' --heartbeat 1day' --api-token '***' --url 'http://h/?jwt=***' ''"
        );
        assert!(!shown.contains("abc"));
    }
}
