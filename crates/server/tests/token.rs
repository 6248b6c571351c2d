//! `fanfare token`: what it mints is good, and what it inspects is told.

mod support;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};
use support::server::{Ran, fanfare, run};

/// A file of its own for a test, which goes with it.
struct TestFile(PathBuf);

impl TestFile {
    fn new(name: &str, text: &[u8]) -> TestFile {
        let path = std::env::temp_dir().join(format!("fanfare-token-{}-{name}", std::process::id()));
        fs::write(&path, text).expect("a writable folder for temporary files");
        TestFile(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("UTF-8")
    }
}

impl Drop for TestFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

const SECRET: &[u8] = b"a secret of thirty-two bytes or more\n";

fn token(arguments: &[&str], input: &str) -> Ran {
    let mut command: Command = fanfare();
    command.arg("token").args(arguments);
    run(command, input)
}

fn good(ran: &Ran) -> &str {
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    ran.stdout.trim()
}

fn section(text: &str, name: &str) -> Value {
    let begin = text.find(name).expect("the section is there") + name.len();
    let mut values = serde_json::Deserializer::from_str(&text[begin..]).into_iter::<Value>();
    values.next().expect("a value").expect("JSON")
}

#[test]
fn a_minted_token_is_inspected_with_its_secret_and_not_with_another_one() {
    let secret = TestFile::new("secret", SECRET);
    let other = TestFile::new("other", &[b'x'; 40]);
    let minted = token(
        &[
            "mint",
            "--secret-file",
            secret.path(),
            "--kid=k1",
            "--subject=ada",
            "--token-id=t1",
            "--subscribe=orders/{id}",
            "--subscribe=news",
            "--publish=chat/*",
            "--lifetime=10m",
        ],
        "",
    );
    let minted = good(&minted);
    assert_eq!(minted.split('.').count(), 3);

    let topics = ["--topic=orders/1", "--topic=chat/1", "--topic=x"];
    let mut arguments = vec!["inspect", "--secret-file", secret.path()];
    arguments.extend(topics);
    let inspected = token(&arguments, &format!("{minted}\n"));
    let text = good(&inspected);
    assert_eq!(section(text, "header: "), json!({"alg": "HS256", "typ": "JWT", "kid": "k1"}));
    let claims = section(text, "claims: ");
    assert_eq!((&claims["sub"], &claims["jti"]), (&json!("ada"), &json!("t1")));
    assert_eq!(claims["exp"].as_u64(), claims["iat"].as_u64().map(|issued| issued + 600));
    assert!(text.contains("signature: good"), "{text}");
    assert!(text.contains("topic orders/1: sees private events: yes; may publish: no"), "{text}");
    assert!(text.contains("topic chat/1: sees private events: no; may publish: yes"), "{text}");
    assert!(text.contains("topic x: sees private events: no; may publish: no"), "{text}");

    let wrong = token(&["inspect", "--secret-file", other.path()], minted);
    assert_eq!(wrong.code, Some(1));
    assert_eq!(wrong.stderr, "fanfare: the signature was made with another key\n");
    let unchecked = token(&["inspect"], minted);
    assert!(good(&unchecked).contains("signature: not checked"), "{}", unchecked.stdout);
}

#[test]
fn an_audience_and_an_issuer_are_demanded_where_they_are_named() {
    let secret = TestFile::new("names", SECRET);
    let minted =
        token(&["mint", "--secret-file", secret.path(), "--audience=a", "--issuer=i", "--subscribe=t"], "");
    let minted = good(&minted);
    let inspect = |more: &[&str]| {
        let mut arguments = vec!["inspect", "--secret-file", secret.path()];
        arguments.extend(more);
        token(&arguments, minted).code
    };
    assert_eq!(inspect(&[]), Some(0));
    assert_eq!(inspect(&["--audience=a", "--issuer=i"]), Some(0));
    assert_eq!(inspect(&["--audience=b"]), Some(1));
    assert_eq!(inspect(&["--issuer=j"]), Some(1));
}

#[test]
fn what_is_wrong_is_told_and_no_secret_is_shown() {
    let weak = TestFile::new("weak", b"not enough");
    let secret = TestFile::new("told", SECRET);
    let refused = |arguments: &[&str], input: &str, part: &str| {
        let ran = token(arguments, input);
        assert!(ran.code.is_some_and(|code| code != 0), "{arguments:?}");
        assert!(ran.stderr.contains(part), "{}", ran.stderr);
        assert!(!ran.stderr.contains("not enough") && !ran.stderr.contains("thirty-two"), "{}", ran.stderr);
    };
    refused(&["mint", "--secret-file", weak.path()], "", "needs at least 32");
    refused(&["mint", "--secret-file", secret.path(), "--algorithm=hs512"], "", "needs at least 64");
    refused(&["mint", "--secret-file", "/nonexistent"], "", "cannot read /nonexistent");
    refused(&["mint", "--private-key-file", secret.path()], "", "BEGIN PRIVATE KEY");
    refused(&["mint"], "", "--secret-file");
    let useless = token(&["mint", "--secret-file", secret.path()], "");
    assert_eq!((useless.code, useless.stdout.split('.').count()), (Some(0), 3));
    assert!(useless.stderr.contains("grants nothing; name topics with --subscribe"), "{}", useless.stderr);
    refused(&["mint", "--secret-file", secret.path(), "--subscribe={?a}"], "", "operator");
    let long = format!("--subject={}", "s".repeat(257));
    refused(&["mint", "--secret-file", secret.path(), &long], "", "256 bytes");
    refused(&["inspect"], "", "standard input");
    refused(&["inspect"], "no token", "three parts");
    refused(&["inspect", "--jwks-file", secret.path()], "a.b.c", "malformed");
}

#[test]
fn a_signed_url_has_its_topics_and_an_expiry() {
    let secret = TestFile::new("url", SECRET);
    let ran =
        token(&["url", "--secret-file", secret.path(), "--topic=b", "--topic=a/ä", "--subject=ada"], "");
    let query = good(&ran);
    assert!(query.starts_with("topic=a%2F%C3%A4&topic=b&expires="), "{query}");
    assert!(query.contains("&subject=ada&signature="), "{query}");
}
