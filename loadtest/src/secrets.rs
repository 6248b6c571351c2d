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

/// A body, without the values of fields that hold a secret: those of JSON (`"name": "value"`), wherever they
/// are, and those of a form (`name=value&`).
pub(crate) fn body(body: &str) -> String {
    if !body.contains('"') {
        let field = |field: &str| match field.split_once('=') {
            Some((name, _)) if is_secret(name) => format!("{name}={HIDDEN}"),
            _ => field.to_owned(),
        };
        return body.split('&').map(field).collect::<Vec<_>>().join("&");
    }
    let (mut shown, mut rest, mut hides) = (String::with_capacity(body.len()), body, false);
    while let Some(start) = rest.find('"') {
        let text = &rest[start + 1..];
        let mut escaped = false;
        let end = text.find(|c| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        let Some(end) = end else { break };
        shown.push_str(&rest[..=start]);
        shown.push_str(if hides { HIDDEN } else { &text[..end] });
        shown.push('"');
        rest = &text[end + 1..];
        let is_name = rest.trim_start().starts_with(':');
        // A name whose value is not text has it hidden no further than its own.
        hides = is_name && is_secret(&text[..end]) && rest.trim_start()[1..].trim_start().starts_with('"');
    }
    shown.push_str(rest);
    shown
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
    match word {
        _ if word.contains('"') => body(word),
        _ if word.contains("://") => url(word),
        _ => header(word),
    }
}

/// For serde: a list of headers as a report shows them.
pub(crate) fn headers<S: Serializer>(headers: &[String], serializer: S) -> Result<S::Ok, S::Error> {
    headers.iter().map(|one| header(one)).collect::<Vec<_>>().serialize(serializer)
}

/// For serde: a body, where one was given, as a report shows it.
pub(crate) fn shown_body<S: Serializer>(given: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
    given.as_deref().map(body).serialize(serializer)
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
        let sent = r#"{"to":"{topic}","apiKey": "a\"b","n":{"password":"c"},"tokens":3,"data":"{data}"}"#;
        let shown = r#"{"to":"{topic}","apiKey": "***","n":{"password":"***"},"tokens":3,"data":"{data}"}"#;
        assert_eq!(body(sent), shown);
        assert_eq!(body("topic=a&api_key=b&data={data}"), "topic=a&api_key=***&data={data}");
        assert_eq!(body(r#"{"key":"#), r#"{"key":"#);
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
