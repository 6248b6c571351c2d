//! Tokens, good and bad: a table whose rows have a name, a token, and what the verifier is to say.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

mod support;

use std::sync::Arc;

use fanfare_access::{
    AccessError, Algorithm, AudienceRule, Key, KeyRing, KeySet, MAX_PATTERNS, MemoryLimits, PatternError,
    Revoked, RsaPadding, TokenRules, TokenSigner, UnverifiedToken, Verifier,
};
use serde_json::{Value, json};

use support::{NOW, Pair, SECRET, base64url, mint};

/// What a row expects: a valid token, or an error with this short name.
type Expected = Result<(), &'static str>;

struct Row {
    name: &'static str,
    token: String,
    expected: Expected,
}

/// All keys, each with a `kid`, and what signs with them.
struct World {
    rsa: Pair,
    p256: Pair,
    p384: Pair,
    ed25519: Pair,
    verifier: Verifier,
}

impl World {
    fn new() -> World {
        let (rsa, p256) = (Pair::rsa(), Pair::p256());
        let (p384, ed25519) = (Pair::p384(), Pair::ed25519());
        let secret = |algorithm| Key::from_secret(algorithm, SECRET).unwrap();
        let public = |pair: &Pair, padding| Key::from_pem(&pair.public_pem, padding).unwrap();
        let keys = vec![
            secret(Algorithm::Hs256).with_kid("hs256"),
            secret(Algorithm::Hs384).with_kid("hs384"),
            secret(Algorithm::Hs512).with_kid("hs512"),
            public(&rsa, RsaPadding::Pkcs1).with_kid("rs256"),
            public(&rsa, RsaPadding::Pss).with_kid("ps256"),
            public(&p256, RsaPadding::Pkcs1).with_kid("es256"),
            public(&p384, RsaPadding::Pkcs1).with_kid("es384"),
            public(&ed25519, RsaPadding::Pkcs1).with_kid("eddsa"),
        ];
        let mut rules = TokenRules::default();
        rules.audience = AudienceRule::OneOf(vec!["fanfare".to_owned(), "other".to_owned()]);
        rules.issuers = vec!["https://issuer.example".to_owned()];
        let verifier = Verifier::new(Arc::new(KeyRing::of(KeySet::new(keys).unwrap())), rules);
        World { rsa, p256, p384, ed25519, verifier }
    }

    fn hs256(&self) -> TokenSigner {
        TokenSigner::from_secret(Algorithm::Hs256, SECRET).unwrap()
    }

    /// A token of HS256 with the good claims and these, of which `null` removes one.
    fn with(&self, changes: Value) -> String {
        mint(&self.hs256(), &claims(changes))
    }

    /// A token of HS256 with any payload.
    fn payload(&self, payload: &[u8]) -> String {
        self.hs256().mint_raw(br#"{"alg":"HS256"}"#, payload).unwrap()
    }

    /// A token of HS256 with any header that is signed, and the good claims.
    fn header(&self, header: &str) -> String {
        self.hs256().mint_raw(header.as_bytes(), good().to_string().as_bytes()).unwrap()
    }
}

fn good() -> Value {
    json!({"exp": NOW + 600, "aud": "fanfare", "iss": "https://issuer.example", "sub": "ada", "jti": "t1"})
}

fn claims(changes: Value) -> Value {
    let mut claims = good();
    for (name, value) in changes.as_object().unwrap() {
        if *value == json!("REMOVED") {
            claims.as_object_mut().unwrap().remove(name);
        } else {
            claims[name] = value.clone();
        }
    }
    claims
}

/// Signed by these bytes as an HMAC secret, as an attacker does who knows the public key only.
fn signed_with_public(bytes: &[u8], kid: Option<&str>) -> String {
    let mut signer = TokenSigner::from_secret(Algorithm::Hs256, bytes).unwrap();
    if let Some(kid) = kid {
        signer = signer.with_kid(kid);
    }
    mint(&signer, &good())
}

fn with_signature(token: &str, signature: &str) -> String {
    format!("{}.{signature}", token.rsplit_once('.').unwrap().0)
}

fn rows(world: &World) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut row = |name, token, expected| rows.push(Row { name, token, expected });
    signatures(world, &mut row);
    shapes(world, &mut row);
    times(world, &mut row);
    names(world, &mut row);
    grants(world, &mut row);
    rows
}

fn signatures(world: &World, row: &mut impl FnMut(&'static str, String, Expected)) {
    let secret = |algorithm| TokenSigner::from_secret(algorithm, SECRET).unwrap();
    let (rsa, p256) = (&world.rsa, &world.p256);
    row("HS256", mint(&secret(Algorithm::Hs256), &good()), Ok(()));
    row("HS384", mint(&secret(Algorithm::Hs384), &good()), Ok(()));
    row("HS512", mint(&secret(Algorithm::Hs512), &good()), Ok(()));
    row("RS256", mint(&rsa.signer(RsaPadding::Pkcs1), &good()), Ok(()));
    row("PS256", mint(&rsa.signer(RsaPadding::Pss), &good()), Ok(()));
    row("ES256", mint(&p256.signer(RsaPadding::Pkcs1), &good()), Ok(()));
    row("ES384", mint(&world.p384.signer(RsaPadding::Pkcs1), &good()), Ok(()));
    row("EdDSA", mint(&world.ed25519.signer(RsaPadding::Pkcs1), &good()), Ok(()));
    row("the kid of the key", mint(&world.hs256().with_kid("hs256"), &good()), Ok(()));
    row("the kid of no key", mint(&world.hs256().with_kid("other"), &good()), Err("unknown_kid"));
    row("an empty kid", mint(&world.hs256().with_kid(""), &good()), Err("unknown_kid"));
    row("the kid of an RSA key", mint(&world.hs256().with_kid("rs256"), &good()), Err("algorithm"));
    row("the kid of another HMAC key", mint(&world.hs256().with_kid("hs384"), &good()), Err("algorithm"));
    row(
        "PS256 with the kid for RS256",
        mint(&rsa.signer(RsaPadding::Pss).with_kid("rs256"), &good()),
        Err("algorithm"),
    );
    row("alg none", world.header(r#"{"alg":"none"}"#), Err("algorithm"));
    row("alg None", world.header(r#"{"alg":"None"}"#), Err("algorithm"));
    row(
        "alg none without a signature",
        with_signature(&world.header(r#"{"alg":"none"}"#), ""),
        Err("algorithm"),
    );
    row("alg in lower case", world.header(r#"{"alg":"hs256"}"#), Err("algorithm"));
    row("alg of no key", world.header(r#"{"alg":"ES512"}"#), Err("algorithm"));
    row("alg of another key", world.header(r#"{"alg":"RS256"}"#), Err("wrong_key"));
    row(
        "RSA public key in PEM as secret",
        signed_with_public(rsa.public_pem.as_bytes(), None),
        Err("wrong_key"),
    );
    row("RSA public key in DER as secret", signed_with_public(&rsa.public_der, None), Err("wrong_key"));
    row(
        "RSA public key as secret, its kid",
        signed_with_public(rsa.public_pem.as_bytes(), Some("rs256")),
        Err("algorithm"),
    );
    row(
        "EC public key in PEM as secret",
        signed_with_public(p256.public_pem.as_bytes(), None),
        Err("wrong_key"),
    );
    row("EC public key in DER as secret", signed_with_public(&p256.public_der, None), Err("wrong_key"));
    row(
        "EC public key as secret, its kid",
        signed_with_public(p256.public_pem.as_bytes(), Some("es256")),
        Err("algorithm"),
    );
    row("another secret", signed_with_public(&[9; 64], None), Err("wrong_key"));
    row("another RSA key", mint(&Pair::rsa().signer(RsaPadding::Pkcs1), &good()), Err("wrong_key"));
    row("another EC key", mint(&Pair::p256().signer(RsaPadding::Pkcs1), &good()), Err("wrong_key"));
    row("another Ed25519 key", mint(&Pair::ed25519().signer(RsaPadding::Pkcs1), &good()), Err("wrong_key"));
    let token = world.with(json!({}));
    row("no signature", with_signature(&token, ""), Err("wrong_key"));
    row(
        "half a signature",
        with_signature(&token, &token[token.len() - 43..token.len() - 23]),
        Err("wrong_key"),
    );
    row(
        "an ES256 signature of zeros",
        with_signature(&mint(&p256.signer(RsaPadding::Pkcs1), &good()), &"A".repeat(86)),
        Err("wrong_key"),
    );
    let (head, _) = token.rsplit_once('.').unwrap();
    let (header, _) = head.split_once('.').unwrap();
    let other = base64url(claims(json!({"sub": "eve"})).to_string().as_bytes());
    let signature = token.rsplit_once('.').unwrap().1;
    row("the payload of another token", format!("{header}.{other}.{signature}"), Err("wrong_key"));
    row(
        "an embedded key",
        world.header(&json!({"alg": "RS256", "jwk": rsa.jwk}).to_string()),
        Err("wrong_key"),
    );
    row("a key URL in the header", world.header(r#"{"alg":"HS256","jku":"https://other.example/"}"#), Ok(()));
}

fn shapes(world: &World, row: &mut impl FnMut(&'static str, String, Expected)) {
    let token = world.with(json!({}));
    let parts: Vec<&str> = token.split('.').collect();
    let (header, payload, signature) = (parts[0], parts[1], parts[2]);
    row("an empty text", String::new(), Err("malformed"));
    row("one dot", format!("{header}.{payload}"), Err("malformed"));
    row("no dot", header.to_owned(), Err("malformed"));
    row("three dots", format!("{token}."), Err("malformed"));
    row("five parts, as of JWE", format!("{token}.a.b"), Err("malformed"));
    row("two dots alone", "..".to_owned(), Err("malformed"));
    row("an empty header", format!(".{payload}.{signature}"), Err("malformed"));
    row("an empty payload", format!("{header}..{signature}"), Err("malformed"));
    row("white space before", format!(" {token}"), Err("malformed"));
    row("white space behind", format!("{token}\n"), Err("malformed"));
    row("white space inside", format!("{header}. {payload}.{signature}"), Err("wrong_key"));
    row("padding behind the signature", format!("{token}="), Err("malformed"));
    row("padding behind the header", format!("{header}=.{payload}.{signature}"), Err("malformed"));
    row("base64 of the other alphabet", with_signature(&token, "++//"), Err("malformed"));
    row("rest bits in the signature", with_signature(&token, "AB"), Err("malformed"));
    row("a character beyond ASCII", format!("{token}ä"), Err("malformed"));
    row("a header that is no JSON", world.header("alg"), Err("malformed"));
    row("a header that is an array", world.header(r#"["HS256"]"#), Err("malformed"));
    row("a header without alg", world.header("{}"), Err("malformed"));
    row("an alg that is a number", world.header(r#"{"alg":256}"#), Err("malformed"));
    row("an alg that is an array", world.header(r#"{"alg":["HS256"]}"#), Err("malformed"));
    row("two algs", world.header(r#"{"alg":"none","alg":"HS256"}"#), Err("malformed"));
    row("two algs, one escaped", world.header(r#"{"alg":"HS256","\u0061lg":"none"}"#), Err("malformed"));
    row("a kid that is a number", world.header(r#"{"alg":"HS256","kid":1}"#), Err("malformed"));
    row(
        "a kid that is a path",
        world.header(r#"{"alg":"HS256","kid":"../../dev/null"}"#),
        Err("unknown_kid"),
    );
    row(
        "a critical extension",
        world.header(r#"{"alg":"HS256","crit":["b64"],"b64":false}"#),
        Err("malformed"),
    );
    row("white space in the header", world.header(" { \"alg\" : \"HS256\" } "), Ok(()));
    row("text behind the header", world.header(r#"{"alg":"HS256"}{}"#), Err("malformed"));
    row("a byte order mark", world.header("\u{feff}{\"alg\":\"HS256\"}"), Err("malformed"));
    let not_utf8 = world.hs256().mint_raw(b"{\"alg\":\"HS256\",\"kid\":\"\xff\"}", b"{}").unwrap();
    row("a header that is not UTF-8", not_utf8, Err("malformed"));
    row(
        "a payload that is not UTF-8",
        world.payload(b"{\"exp\":2000000000,\"sub\":\"\xff\"}"),
        Err("malformed"),
    );
    row("a payload that is no JSON", world.payload(b"exp"), Err("malformed"));
    row("a payload that is an array", world.payload(b"[1]"), Err("malformed"));
    row("a payload that is a number", world.payload(b"2000000000"), Err("malformed"));
    row("two exps", world.payload(b"{\"exp\":1,\"exp\":2000000000}"), Err("malformed"));
    row(
        "a duplicate deep inside",
        world.payload(br#"{"exp":2000000000,"x":[{"a":1,"a":2}]}"#),
        Err("malformed"),
    );
    let arrays = format!("{{\"exp\":2000000000,\"x\":{}{}}}", "[".repeat(1_000), "]".repeat(1_000));
    row("arrays inside of arrays", world.payload(arrays.as_bytes()), Err("malformed"));
    let objects = format!("{}1{}", "{\"a\":".repeat(500), "}".repeat(500));
    row("objects inside of objects", world.payload(objects.as_bytes()), Err("malformed"));
    row("a lone surrogate", world.payload(br#"{"exp":2000000000,"sub":"\ud800"}"#), Err("malformed"));
    row("a number out of range", world.payload(b"{\"exp\":1e999}"), Err("malformed"));
    row("longer than the bound", world.with(json!({"x": "y".repeat(8 << 10)})), Err("too_long"));
    row("not longer than the bound", world.with(json!({"x": "y".repeat(4 << 10)})), Ok(()));
}

fn times(world: &World, row: &mut impl FnMut(&'static str, String, Expected)) {
    row("no exp", world.with(json!({"exp": "REMOVED"})), Err("no_expiry"));
    row("exp is now", world.with(json!({"exp": NOW})), Ok(()));
    row("exp within the leeway", world.with(json!({"exp": NOW - 4})), Ok(()));
    row("exp at the leeway", world.with(json!({"exp": NOW - 5})), Err("expired"));
    row("exp long ago", world.with(json!({"exp": 1_300_819_380})), Err("expired"));
    row("exp as a text", world.with(json!({"exp": "2000000000"})), Err("malformed"));
    row("exp as null", world.with(json!({"exp": null})), Err("malformed"));
    row("exp as true", world.with(json!({"exp": true})), Err("malformed"));
    row("exp as an array", world.with(json!({"exp": [NOW + 600]})), Err("malformed"));
    row("exp with a fraction", world.with(json!({"exp": NOW as f64 + 600.5})), Ok(()));
    row("exp with a fraction is rounded down", world.with(json!({"exp": NOW as f64 - 4.5})), Err("expired"));
    row(
        "exp with an exponent",
        world.payload(br#"{"exp":2e9,"aud":"fanfare","iss":"https://issuer.example"}"#),
        Ok(()),
    );
    row("exp below zero", world.with(json!({"exp": -1})), Err("expired"));
    row("exp of 2^64", world.payload(b"{\"exp\":18446744073709551616}"), Err("malformed"));
    row("exp in milliseconds", world.with(json!({"exp": (NOW + 600) * 1000})), Err("malformed"));
    row("exp huge", world.with(json!({"exp": 1e300})), Err("malformed"));
    row("exp in the year 9999", world.with(json!({"exp": 253_402_300_799_u64})), Ok(()));
    row("nbf is now", world.with(json!({"nbf": NOW})), Ok(()));
    row("nbf within the leeway", world.with(json!({"nbf": NOW + 5})), Ok(()));
    row("nbf beyond the leeway", world.with(json!({"nbf": NOW + 6})), Err("not_yet_valid"));
    row(
        "nbf with a fraction is rounded up",
        world.with(json!({"nbf": NOW as f64 + 5.5})),
        Err("not_yet_valid"),
    );
    row("nbf as a text", world.with(json!({"nbf": "0"})), Err("malformed"));
    row("nbf below zero", world.with(json!({"nbf": -5})), Ok(()));
    row("iat in the future", world.with(json!({"iat": NOW + 10_000})), Err("not_yet_valid"));
    row("iat as a text", world.with(json!({"iat": "now"})), Err("malformed"));
}

fn names(world: &World, row: &mut impl FnMut(&'static str, String, Expected)) {
    row("no aud", world.with(json!({"aud": "REMOVED"})), Err("audience"));
    row("another aud", world.with(json!({"aud": "someone"})), Err("audience"));
    row("aud in another case", world.with(json!({"aud": "Fanfare"})), Err("audience"));
    row("an array of auds with ours", world.with(json!({"aud": ["someone", "other"]})), Ok(()));
    row("an array of auds without ours", world.with(json!({"aud": ["someone"]})), Err("audience"));
    row("no aud in an array", world.with(json!({"aud": []})), Err("malformed"));
    row("aud as a number", world.with(json!({"aud": 1})), Err("malformed"));
    row("a number among the auds", world.with(json!({"aud": ["fanfare", 1]})), Err("malformed"));
    row("no iss", world.with(json!({"iss": "REMOVED"})), Err("issuer"));
    row("another iss", world.with(json!({"iss": "https://issuer.example/"})), Err("issuer"));
    row("iss as an array", world.with(json!({"iss": ["https://issuer.example"]})), Err("malformed"));
    row("no sub and no jti", world.with(json!({"sub": "REMOVED", "jti": "REMOVED"})), Ok(()));
    row("sub as a number", world.with(json!({"sub": 42})), Err("malformed"));
    row("the longest sub", world.with(json!({"sub": "s".repeat(256)})), Ok(()));
    row("a longer sub", world.with(json!({"sub": "s".repeat(257)})), Err("malformed"));
    row("jti as an object", world.with(json!({"jti": {}})), Err("malformed"));
    row("a longer jti", world.with(json!({"jti": "j".repeat(257)})), Err("malformed"));
}

fn grants(world: &World, row: &mut impl FnMut(&'static str, String, Expected)) {
    let of = |patterns: Value| world.with(json!({"fanfare": {"subscribe": patterns}}));
    row("grants of all kinds", of(json!(["a", "b/*", "c/{d}", "{+e}/f", "*"])), Ok(()));
    row("grants of Mercure", world.with(json!({"mercure": {"publish": ["*"], "payload": {"x": 1}}})), Ok(()));
    row("both claims", world.with(json!({"fanfare": {}, "mercure": {}})), Err("malformed"));
    row("grants as an array", world.with(json!({"fanfare": ["a"]})), Err("malformed"));
    row("patterns as a text", of(json!("a")), Err("malformed"));
    row("patterns as null", of(json!(null)), Err("malformed"));
    row("a number among the patterns", of(json!(["a", 1])), Err("malformed"));
    row("an empty pattern", of(json!([""])), Err("pattern"));
    row("a line end in a pattern", of(json!(["a\nb"])), Err("pattern"));
    row("a template with an operator", of(json!(["{?a}"])), Err("pattern"));
    row("a template with a list", of(json!(["{a,b}"])), Err("pattern"));
    row("an open brace", of(json!(["a{b"])), Err("pattern"));
    row("a pattern that is too long", of(json!(["x".repeat(513)])), Err("pattern"));
    row("too many patterns", of(json!(vec!["a"; MAX_PATTERNS + 1])), Err("pattern"));
    row("as many patterns as there may be", of(json!(vec!["a"; MAX_PATTERNS])), Ok(()));
    row(
        "a bad pattern for publishing",
        world.with(json!({"fanfare": {"publish": ["{;a}"]}})),
        Err("pattern"),
    );
}

#[test]
fn every_token_of_the_table_gets_its_answer() {
    let world = World::new();
    let rows = rows(&world);
    assert!(rows.len() >= 120, "the table has {} rows", rows.len());
    let mut wrong = Vec::new();
    for row in &rows {
        // The second time, a valid token comes from the memory.
        for round in 1..=2 {
            let outcome = world.verifier.verify(&row.token, NOW);
            let named = outcome.as_ref().map(|_| ()).map_err(AccessError::name);
            if named != row.expected {
                wrong.push(format!("{}, round {round}: {named:?}, not {:?}", row.name, row.expected));
            }
            if let Err(error) = outcome {
                let text = format!("{error} {error:?}");
                let echoed = row.token.split('.').any(|part| part.len() > 8 && text.contains(part));
                assert!(!echoed, "{} is echoed: {text}", row.name);
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let names: std::collections::HashSet<&str> = rows.iter().map(|row| row.name).collect();
    assert_eq!(names.len(), rows.len(), "names are unique");
}

/// The memory is asked by the hash of the whole token, so a token is as good as its own times, whatever was
/// remembered.
#[test]
fn a_remembered_token_expires_and_a_wrong_clock_can_come_back() {
    let world = World::new();
    let token = world.with(json!({"nbf": NOW, "exp": NOW + 600}));
    assert!(world.verifier.verify(&token, NOW).is_ok());
    assert_eq!(world.verifier.verify(&token, NOW + 605).unwrap_err(), AccessError::Expired);
    assert_eq!(world.verifier.verify(&token, NOW - 3_600).unwrap_err(), AccessError::NotYetValid);
    assert!(world.verifier.verify(&token, NOW + 1).is_ok());
    assert_eq!(world.verifier.verify(&token, u64::MAX).unwrap_err(), AccessError::Expired);
    assert_eq!(world.verifier.counts(), (4, 1), "the signature was computed once");
}

#[test]
fn new_keys_make_the_memory_worthless_and_the_same_keys_do_not() {
    let ring = Arc::new(KeyRing::of_key(Key::from_secret(Algorithm::Hs256, SECRET).unwrap()));
    let verifier = Verifier::new(ring.clone(), TokenRules::default());
    let token =
        mint(&TokenSigner::from_secret(Algorithm::Hs256, SECRET).unwrap(), &json!({"exp": NOW + 600}));
    assert!(verifier.verify(&token, NOW).is_ok());
    let same = KeySet::new(vec![Key::from_secret(Algorithm::Hs256, SECRET).unwrap()]).unwrap();
    ring.set_fixed(same);
    assert!(verifier.verify(&token, NOW).is_ok());
    assert_eq!(verifier.counts(), (1, 1));
    ring.set_fixed(KeySet::new(vec![Key::from_secret(Algorithm::Hs256, &[1; 32]).unwrap()]).unwrap());
    assert_eq!(verifier.verify(&token, NOW).unwrap_err(), AccessError::WrongKey);
}

#[test]
fn equal_grants_of_different_tokens_are_one_allocation() {
    let world = World::new();
    let grants = json!({"subscribe": ["a/{b}", "c*"], "publish": ["d"]});
    let turned = json!({"publish": ["d"], "subscribe": ["c*", "a/{b}", "c*", "cd"], "payload": 1});
    let one = world.verifier.verify(&world.with(json!({"sub": "one", "fanfare": grants})), NOW).unwrap();
    let two = world.verifier.verify(&world.with(json!({"sub": "two", "mercure": turned})), NOW).unwrap();
    let three = world.verifier.verify(&world.with(json!({"fanfare": {"subscribe": ["d"]}})), NOW).unwrap();
    assert!(Arc::ptr_eq(one.grants(), two.grants()));
    assert!(!Arc::ptr_eq(one.grants(), three.grants()));
}

#[test]
fn the_rules_say_which_audience_and_whether_an_expiry_is_needed() {
    let signer = TokenSigner::from_secret(Algorithm::Hs256, SECRET).unwrap();
    let verify = |rules: TokenRules, claims: Value| {
        let ring = Arc::new(KeyRing::of_key(Key::from_secret(Algorithm::Hs256, SECRET).unwrap()));
        Verifier::new(ring, rules).verify(&mint(&signer, &claims), NOW).map(|_| ())
    };
    let with_audience = json!({"exp": NOW + 9, "aud": "someone"});
    assert_eq!(verify(TokenRules::default(), with_audience.clone()), Err(AccessError::Audience));
    let mut any = TokenRules::default();
    any.audience = AudienceRule::Any;
    assert_eq!(verify(any, with_audience), Ok(()));
    let mut for_ever = TokenRules::default();
    for_ever.demands_expiry = false;
    assert_eq!(verify(for_ever, json!({"sub": "ada"})), Ok(()));
}

#[test]
fn a_pattern_error_says_what_is_wrong_with_the_pattern() {
    let world = World::new();
    let token = world.with(json!({"fanfare": {"subscribe": ["{/a}"]}}));
    let error = world.verifier.verify(&token, NOW).unwrap_err();
    assert_eq!(error, AccessError::Pattern(PatternError::Operator('/')));
    assert!(error.to_string().contains("{var} or {+var}"), "{error}");
}

#[test]
fn an_unverified_token_is_shown_as_it_was_sent() {
    let token = TokenSigner::from_secret(Algorithm::Hs256, SECRET)
        .unwrap()
        .mint_raw(br#"{ "alg":"HS256" }"#, br#"{"exp":1,  "x":2}"#)
        .unwrap();
    let read = UnverifiedToken::read(&token).unwrap();
    assert_eq!(
        (read.header.as_str(), read.claims.as_str()),
        (r#"{ "alg":"HS256" }"#, r#"{"exp":1,  "x":2}"#)
    );
    assert!(UnverifiedToken::read(&with_signature(&token, "")).is_ok(), "the signature is not looked at");
    for bad in ["", "a.b.c", "eyJhbGciOiJIUzI1NiJ9.W10.", "eyJhbGciOiJIUzI1NiJ9..x"] {
        assert_eq!(UnverifiedToken::read(bad).unwrap_err().name(), "malformed", "{bad}");
    }
}

/// Shards verify at once, while the memory is too small for their tokens and the keys are replaced.
#[test]
fn threads_that_verify_at_once_get_the_right_answers() {
    let key = |secret: u8| Key::from_secret(Algorithm::Hs256, &[secret; 32]).unwrap();
    let signer = |secret: u8| TokenSigner::from_secret(Algorithm::Hs256, &[secret; 32]).unwrap();
    let mut rules = TokenRules::default();
    rules.memory = MemoryLimits { tokens: 64, bytes: 64 << 10 };
    let ring = Arc::new(KeyRing::of(KeySet::new(vec![key(1), key(2)]).unwrap()));
    let verifier = Verifier::new(ring.clone(), rules);
    let tokens: Vec<(String, bool)> = (0..300)
        .map(|number| {
            let secret = number % 3 + 1;
            let claims = json!({"exp": NOW + 600, "sub": number.to_string()});
            (mint(&signer(secret as u8), &claims), secret != 3)
        })
        .collect();
    std::thread::scope(|scope| {
        for first in 0..4 {
            let (verifier, tokens) = (&verifier, &tokens);
            scope.spawn(move || {
                for round in 0..5 {
                    for at in 0..tokens.len() {
                        let number = (at * 7 + first * 31 + round) % tokens.len();
                        let (token, is_good) = &tokens[number];
                        match verifier.verify(token, NOW) {
                            Ok(verified) => {
                                assert!(is_good);
                                assert_eq!(verified.subject().unwrap().parse(), Ok(number));
                            }
                            Err(error) => assert!(!is_good && error == AccessError::WrongKey, "{error}"),
                        }
                    }
                }
            });
        }
        for round in 0..50 {
            let order = if round % 2 == 0 { vec![key(2), key(1)] } else { vec![key(1), key(2)] };
            ring.set_fixed(KeySet::new(order).unwrap());
        }
    });
    let (tokens, bytes) = verifier.memory_size();
    assert!(tokens <= 64 && bytes <= 64 << 10, "{tokens} tokens, {bytes} bytes");
}

/// The clock of an issuer may be ahead. The tokens of its last seconds before the revocation outlived it.
#[test]
fn a_revocation_bars_tokens_of_an_issuer_whose_clock_is_ahead() {
    let world = World::new();
    let leeway = TokenRules::default().leeway_s;
    let at = |issued: u64, now: u64| {
        let token = world.with(json!({"sub": "ada", "iat": issued, "exp": NOW + 600}));
        world.verifier.verify(&token, now).map(drop)
    };
    assert_eq!(at(NOW + leeway, NOW), Ok(()), "it is accepted before");
    world.verifier.revocations().revoke(Revoked::Subject("ada".into()), NOW, NOW + 600).unwrap();
    for issued in [NOW - 1, NOW, NOW + 1, NOW + leeway] {
        assert_eq!(at(issued, NOW), Err(AccessError::Revoked), "{issued}");
    }
    assert_eq!(at(NOW + leeway + 1, NOW + 1), Ok(()), "it is newer for sure");
}
