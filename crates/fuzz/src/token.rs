//! Access tokens: what a reader of `serde_json` values finds in an accepted token is what the verifier says
//! of it, and each refusal has its reason in the token.

use std::sync::{Arc, LazyLock};

use fanfare_access::{
    AccessError, Algorithm, Key, KeyRing, MAX_NAME_BYTES, TokenRules, TokenSigner, Verified, Verifier,
};
use serde_json::Value;

const NOW_UNIX_S: u64 = 2_000_000_000;
const SECRET: [u8; 32] = [7; 32];

static SIGNER: LazyLock<TokenSigner> =
    LazyLock::new(|| TokenSigner::from_secret(Algorithm::Hs256, &SECRET).unwrap());

/// The first line is the header of a token, and the rest its payload; both are signed. The whole input is a
/// token, too.
pub(crate) fn check(input: &[u8]) {
    let key = Key::from_secret(Algorithm::Hs256, &SECRET).unwrap().with_kid("one");
    let verifier = Verifier::new(Arc::new(KeyRing::of_key(key)), TokenRules::default());
    let raw = String::from_utf8_lossy(input);
    assert!(verifier.verify(&raw, NOW_UNIX_S).is_err(), "a token that was not signed");
    assert_eq!(verifier.memory_size(), (0, 0));

    let end = input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len());
    let (header, payload) = (&input[..end], input.get(end + 1..).unwrap_or_default());
    let token = SIGNER.mint_raw(header, payload).unwrap();
    let outcome = verifier.verify(&token, NOW_UNIX_S);
    let again = verifier.verify(&token, NOW_UNIX_S);
    assert_eq!(outcome.as_ref().err(), again.as_ref().err(), "the memory changes no verdict");
    let header = serde_json::from_slice::<Value>(header);
    let payload = serde_json::from_slice::<Value>(payload);
    match &outcome {
        Ok(verified) => agree(verified, &header.unwrap(), &payload.unwrap()),
        Err(error) => has_reason(*error, &token, header.ok().as_ref(), payload.ok().as_ref()),
    }
}

fn agree(verified: &Verified, header: &Value, payload: &Value) {
    assert_eq!(header["alg"], "HS256");
    assert!(header.get("crit").is_none());
    assert!(header.get("kid").is_none_or(|kid| kid == "one"));
    assert!(payload.is_object());
    let time = |name: &str| payload.get(name).map(|time| time.as_f64().unwrap());
    let expires = time("exp").unwrap().floor();
    assert_eq!(verified.expires_unix_s(), Some(expires as u64));
    assert!(expires as u64 + 5 > NOW_UNIX_S);
    assert!(time("nbf").is_none_or(|begins| begins.ceil() as u64 <= NOW_UNIX_S + 5));
    assert_eq!(verified.issued_unix_s(), time("iat").map(|issued| issued.floor() as u64));
    assert!(payload.get("aud").is_none());
    let text = |name: &str| payload.get(name).map(|text| text.as_str().unwrap());
    assert_eq!(verified.subject().map(|subject| &**subject), text("sub"));
    assert_eq!(verified.token_id(), text("jti"));
    for name in [text("sub"), text("jti")].into_iter().flatten() {
        assert!(name.len() <= MAX_NAME_BYTES);
    }
    let claim = payload.get("fanfare").or(payload.get("mercure"));
    let member = |name: &str| claim.and_then(|claim| claim.get(name)).and_then(Value::as_array);
    for (set, patterns) in [
        (verified.grants().subscribe(), member("subscribe")),
        (verified.grants().publish(), member("publish")),
    ] {
        let patterns = patterns.map_or(&[][..], Vec::as_slice);
        assert_eq!(set.is_empty(), patterns.is_empty());
        for pattern in patterns {
            // An exact name is covered by the set that was made of it.
            let name = pattern.as_str().unwrap();
            if !name.contains(['{', '}', '*']) {
                assert!(set.covers(name), "{name:?}");
            }
        }
    }
}

/// Where the reason can be seen in the values, it is there.
fn has_reason(error: AccessError, token: &str, header: Option<&Value>, payload: Option<&Value>) {
    let number = |name: &str| payload.and_then(|payload| payload.get(name)).and_then(Value::as_f64);
    match error {
        AccessError::TooLong => assert!(token.len() > 8 << 10),
        AccessError::Algorithm => assert_ne!(header.unwrap()["alg"], "HS256"),
        AccessError::UnknownKid => assert_ne!(header.unwrap()["kid"], "one"),
        AccessError::Expired => assert!(number("exp").unwrap() < (NOW_UNIX_S - 4) as f64),
        AccessError::NoExpiry => assert!(payload.unwrap().get("exp").is_none()),
        AccessError::NotYetValid => assert!(number("nbf").unwrap() > (NOW_UNIX_S + 5) as f64),
        AccessError::Audience => assert!(payload.unwrap().get("aud").is_some()),
        AccessError::Pattern(_) => {
            let payload = payload.unwrap();
            assert!(payload.get("fanfare").or(payload.get("mercure")).is_some());
        }
        AccessError::Malformed(_) => {}
        other => panic!("{other:?} of a token with the right signature"),
    }
}
