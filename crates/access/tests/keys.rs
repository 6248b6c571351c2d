//! Keys from secrets, PEM, JWK and JWK Sets, and the examples of the RFCs.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

mod support;

use std::sync::Arc;

use fanfare_access::{
    AccessError, Algorithm, Key, KeyError, KeyRing, KeySet, MAX_KEY_TEXT_BYTES, MAX_KEYS, MAX_TRIES,
    RsaPadding, TokenRules, TokenSigner, Verifier,
};
use serde_json::{Value, json};

use support::{NOW, Pair, SECRET, base64url, mint, pem};

fn verifier(keys: Vec<Key>) -> Verifier {
    Verifier::new(Arc::new(KeyRing::of(KeySet::new(keys).unwrap())), TokenRules::default())
}

fn good() -> Value {
    json!({"exp": NOW + 600})
}

fn outcome(key: Key, token: &str) -> Result<(), AccessError> {
    verifier(vec![key]).verify(token, NOW).map(|_| ())
}

#[test]
fn a_set_says_whether_a_key_of_another_one_is_missing() {
    let key = |secret: &[u8]| Key::from_secret(Algorithm::Hs256, secret).unwrap();
    let [one, two] = [&SECRET[..40], &SECRET[10..]].map(key);
    let of = |keys: &[&Key]| KeySet::new(keys.iter().map(|key| (*key).clone()).collect()).unwrap();
    assert!(of(&[&one]).lacks_some_of(&of(&[&one, &two])));
    assert!(!of(&[&two, &one]).lacks_some_of(&of(&[&one, &two])), "the order does not matter");
    assert!(!of(&[&one, &two]).lacks_some_of(&of(&[&one])), "a new one is none that is missing");
    assert!(
        KeySet::default().lacks_some_of(&of(&[&one])) && !KeySet::default().lacks_some_of(&KeySet::default())
    );
}

/// The secret and the token of RFC 7515, appendix A.1; its time is over since 2011.
#[test]
fn the_hs256_example_of_the_rfc_is_verified() {
    let jwk = json!({
        "kty": "oct",
        "k": "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow",
    });
    let token = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogIm\
        h0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    let key = Key::from_jwk(&jwk.to_string()).unwrap();
    assert!(verifier(vec![key]).verify(token, 1_300_819_379).is_ok());
}

/// RFC 7515, appendix A.2.
#[test]
fn the_rs256_example_of_the_rfc_is_verified() {
    let jwk = json!({
        "kty": "RSA",
        "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4\
            QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBY\
            UsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmo\
            udF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ",
        "e": "AQAB",
    });
    let token = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLm\
        NvbS9pc19yb290Ijp0cnVlfQ.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0\
        Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvk\
        SjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9Q\
        OYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
    let key = Key::from_jwk(&jwk.to_string()).unwrap();
    assert_eq!(key.algorithm(), Algorithm::Rs256);
    assert!(verifier(vec![key]).verify(token, 1_300_819_379).is_ok());
}

/// RFC 7515, appendix A.3.
#[test]
fn the_es256_example_of_the_rfc_is_verified() {
    let jwk = json!({
        "kty": "EC",
        "crv": "P-256",
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
    });
    let token = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLm\
        NvbS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJq\
        PP3-Kg6NU1Q";
    let key = Key::from_jwk(&jwk.to_string()).unwrap();
    assert!(verifier(vec![key]).verify(token, 1_300_819_379).is_ok());
}

/// RFC 8037, appendix A.4. Its payload is a text and no JSON, so the signature is right and the claims are
/// not.
#[test]
fn the_eddsa_example_of_the_rfc_has_a_right_signature() {
    let jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"});
    let token = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcv\
        Mg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
    let key = || Key::from_jwk(&jwk.to_string()).unwrap();
    assert!(matches!(outcome(key(), token), Err(AccessError::Malformed(_))));
    assert_eq!(outcome(key(), &token.replace("hgyY", "hgyZ")), Err(AccessError::WrongKey));
}

#[test]
fn a_secret_shorter_than_its_hash_is_refused_and_not_shown() {
    let table = [(Algorithm::Hs256, 32), (Algorithm::Hs384, 48), (Algorithm::Hs512, 64)];
    for (algorithm, needed) in table {
        let secret = &SECRET[..needed - 1];
        let error = Key::from_secret(algorithm, secret).unwrap_err();
        assert_eq!(error, KeyError::WeakSecret { needed, given: needed - 1 });
        let text = format!("{error} {error:?}");
        assert!(!text.contains("secret for") && !text.contains("example"), "{text}");
        assert!(Key::from_secret(algorithm, &SECRET[..needed]).is_ok());
        assert_eq!(TokenSigner::from_secret(algorithm, secret).unwrap_err(), error);
    }
    assert_eq!(Key::from_secret(Algorithm::Rs256, SECRET).unwrap_err(), KeyError::AlgorithmForKey);
}

#[test]
fn debug_shows_no_secret() {
    let key = Key::from_secret(Algorithm::Hs256, SECRET).unwrap().with_kid("a");
    let ring = KeyRing::of_key(key.clone());
    let signer = TokenSigner::from_secret(Algorithm::Hs256, SECRET).unwrap();
    let verifier = verifier(vec![key.clone()]);
    let shown = format!("{key:?} {ring:?} {signer:?} {verifier:?} {:?}", ring.keys());
    let numbers = SECRET.iter().take(4).map(u8::to_string).collect::<Vec<_>>().join(", ");
    for secret in ["example", "secret for", &numbers, &base64url(&SECRET[..6])] {
        assert!(!shown.contains(secret), "{secret} is in {shown}");
    }
    assert!(shown.contains("Hs256") && shown.contains("\"a\""));
}

#[test]
fn a_public_key_in_pem_says_its_algorithm() {
    let (rsa, p256, p384, ed25519) = (Pair::rsa(), Pair::p256(), Pair::p384(), Pair::ed25519());
    let table = [
        (&rsa, RsaPadding::Pkcs1, Algorithm::Rs256),
        (&rsa, RsaPadding::Pss, Algorithm::Ps256),
        (&p256, RsaPadding::Pss, Algorithm::Es256),
        (&p384, RsaPadding::Pkcs1, Algorithm::Es384),
        (&ed25519, RsaPadding::Pkcs1, Algorithm::EdDsa),
    ];
    for (pair, padding, algorithm) in table {
        let dos = format!("subject=/CN=x\r\n{}\r\n", pair.public_pem.replace('\n', "\r\n"));
        for text in [&pair.public_pem, &dos] {
            let key = Key::from_pem(text, padding).unwrap();
            assert_eq!(key.algorithm(), algorithm);
            let private = pem("PRIVATE KEY", &pair.pkcs8);
            let signer = TokenSigner::from_pem(&private, padding).unwrap();
            assert_eq!(signer.algorithm(), algorithm);
            assert_eq!(outcome(key, &mint(&signer, &good())), Ok(()));
        }
    }
}

#[test]
fn a_pem_that_is_no_public_key_is_refused_for_its_reason() {
    let pair = Pair::p256();
    let refused = |text: &str, part: &str| {
        let error = Key::from_pem(text, RsaPadding::Pkcs1).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    refused("", "BEGIN PUBLIC KEY");
    refused("no key", "BEGIN PUBLIC KEY");
    refused(&pem("PRIVATE KEY", &pair.pkcs8), "private key");
    refused(&pem("EC PRIVATE KEY", &pair.pkcs8), "private key");
    refused(&pem("CERTIFICATE", b"x"), "openssl x509");
    refused(&pair.public_pem.replace("-----END PUBLIC KEY-----", ""), "END line");
    refused(&pair.public_pem.replace('M', "!"), "base64");
    refused(&pair.public_pem.repeat(2), "several keys");
    refused(&pem("PUBLIC KEY", b"\x30\x03\x02\x01\x00"), "not supported");
    refused(&pem("PUBLIC KEY", b""), "not supported");
    refused(&" ".repeat(MAX_KEY_TEXT_BYTES + 1), "longer than");
}

/// Made with `openssl genrsa 1024`; its private half was thrown away.
#[test]
fn an_rsa_key_of_1024_bits_is_refused() {
    let text = "-----BEGIN PUBLIC KEY-----\n\
        MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDH4d6vdPA4eoSuGvpaDg53oeYD\n\
        vQu2yl+X9k2jjSxjd2kRyx+LsrpVfIRray2aWETtdqH7ER+zRyOJfxCUY5wfzy6d\n\
        NbExIQTZ5kJjVIc+37PoSrBdDMKPbxitJd/YiF53verzY/6vAha3l/z4hB5wmytT\n\
        yYPQL7hGfUr1/f17LwIDAQAB\n\
        -----END PUBLIC KEY-----\n";
    assert_eq!(Key::from_pem(text, RsaPadding::Pkcs1).unwrap_err(), KeyError::Unsupported);
}

#[test]
fn a_jwk_says_its_algorithm_or_its_kind_does() {
    let (rsa, p256, p384, ed25519) = (Pair::rsa(), Pair::p256(), Pair::p384(), Pair::ed25519());
    let oct = |alg: Value| json!({"kty": "oct", "k": base64url(SECRET), "alg": alg});
    let table = [
        (rsa.jwk.clone(), Algorithm::Rs256),
        (rsa.jwk_with(json!({"alg": "RS256", "use": "sig", "key_ops": ["verify"]})), Algorithm::Rs256),
        (rsa.jwk_with(json!({"alg": "PS256"})), Algorithm::Ps256),
        (p256.jwk.clone(), Algorithm::Es256),
        (p384.jwk_with(json!({"alg": "ES384", "x5c": ["x"], "other": null})), Algorithm::Es384),
        (ed25519.jwk.clone(), Algorithm::EdDsa),
        (json!({"kty": "oct", "k": base64url(SECRET)}), Algorithm::Hs256),
        (oct(json!("HS512")), Algorithm::Hs512),
    ];
    for (jwk, algorithm) in table {
        let key = Key::from_jwk(&jwk.to_string()).unwrap();
        assert_eq!((key.algorithm(), key.kid()), (algorithm, None), "{jwk}");
    }
    let signed = mint(&p256.signer(RsaPadding::Pkcs1).with_kid("k"), &good());
    let key = Key::from_jwk(&p256.jwk_with(json!({"kid": "k"})).to_string()).unwrap();
    assert_eq!(outcome(key, &signed), Ok(()));
    let signed = mint(&rsa.signer(RsaPadding::Pss), &good());
    let key = Key::from_jwk(&rsa.jwk_with(json!({"alg": "PS256"})).to_string()).unwrap();
    assert_eq!(outcome(key, &signed), Ok(()));
}

#[test]
fn a_jwk_that_cannot_verify_is_refused() {
    let (rsa, p256) = (Pair::rsa(), Pair::p256());
    let short = base64url(&SECRET[..31]);
    let table = [
        rsa.jwk_with(json!({"alg": "HS256"})),
        rsa.jwk_with(json!({"alg": "ES256"})),
        rsa.jwk_with(json!({"alg": "none"})),
        rsa.jwk_with(json!({"alg": "RS512"})),
        rsa.jwk_with(json!({"alg": 1})),
        rsa.jwk_with(json!({"use": "enc"})),
        rsa.jwk_with(json!({"use": ["sig"]})),
        rsa.jwk_with(json!({"key_ops": ["encrypt"]})),
        rsa.jwk_with(json!({"key_ops": "verify"})),
        rsa.jwk_with(json!({"kid": 1})),
        rsa.jwk_with(json!({"n": "AQAB"})),
        rsa.jwk_with(json!({"n": ""})),
        rsa.jwk_with(json!({"e": "AA"})),
        rsa.jwk_with(json!({"e": null})),
        rsa.jwk_with(json!({"kty": "rsa"})),
        p256.jwk_with(json!({"crv": "P-384"})),
        p256.jwk_with(json!({"crv": "P-521"})),
        p256.jwk_with(json!({"crv": "secp256k1"})),
        p256.jwk_with(json!({"x": p256.jwk["y"], "y": p256.jwk["x"]})),
        p256.jwk_with(json!({"x": "AA"})),
        p256.jwk_with(json!({"alg": "HS256"})),
        json!({"kty": "oct", "k": short}),
        json!({"kty": "oct", "k": base64url(&SECRET[..40]), "alg": "HS384"}),
        json!({"kty": "oct", "k": base64url(SECRET), "alg": "RS256"}),
        json!({"kty": "oct", "k": "with padding="}),
        json!({"kty": "OKP", "crv": "X25519", "x": base64url(&[1; 32])}),
        json!({"kty": "OKP", "crv": "Ed25519", "x": base64url(&[1; 31])}),
        json!({"keys": []}),
        json!([]),
        json!("x"),
    ];
    for jwk in table {
        let refused = Key::from_jwk(&jwk.to_string());
        assert!(refused.is_err(), "{jwk} is {refused:?}");
    }
    assert!(Key::from_jwk("{").is_err());
    assert!(Key::from_jwk(r#"{"kty":"oct","kty":"RSA"}"#).is_err());
}

#[test]
fn a_set_leaves_out_what_is_not_supported() {
    let (rsa, p256) = (Pair::rsa(), Pair::p256());
    let keys = json!({"keys": [
        rsa.jwk_with(json!({"kid": "a"})),
        {"kty": "EC", "crv": "P-521", "x": "AA", "y": "AA"},
        {"kty": "future"},
        rsa.jwk_with(json!({"use": "enc"})),
        7,
        p256.jwk_with(json!({"kid": "b"})),
    ], "other": 1});
    let set = KeySet::from_jwks(&keys.to_string()).unwrap();
    assert_eq!((set.keys().len(), set.skipped()), (2, 4));
    assert_eq!(set.keys()[1].kid(), Some("b"));
}

#[test]
fn a_set_has_a_bounded_number_of_keys() {
    let jwk = Pair::p256().jwk;
    let set = |count| KeySet::from_jwks(&json!({"keys": vec![jwk.clone(); count]}).to_string());
    assert!(set(MAX_KEYS).is_ok());
    assert_eq!(set(MAX_KEYS + 1).unwrap_err(), KeyError::Count { keys: MAX_KEYS + 1 });
    assert_eq!(set(0).unwrap_err(), KeyError::Count { keys: 0 });
    for text in ["", "[]", "{}", r#"{"keys":{}}"#, r#"{"keys":null}"#, r#"{"keys":[],"keys":[]}"#, "<html>"] {
        assert!(KeySet::from_jwks(text).is_err(), "{text}");
    }
    assert_eq!(KeySet::from_jwks(&" ".repeat(MAX_KEY_TEXT_BYTES + 1)).unwrap_err(), KeyError::TooLong);
}

#[test]
fn a_kid_chooses_and_without_one_the_first_fitting_keys_are_tried() {
    let secret = |number: u8| [number; 32];
    let key = |number| Key::from_secret(Algorithm::Hs256, &secret(number)).unwrap();
    let signer = |number| TokenSigner::from_secret(Algorithm::Hs256, &secret(number)).unwrap();
    let many: Vec<Key> = (0..=MAX_TRIES as u8).map(|n| key(n).with_kid(n.to_string())).collect();
    let verifier = verifier(many);
    let verify = |token: &str| verifier.verify(token, NOW).map(|_| ());
    assert_eq!(verify(&mint(&signer(3), &good())), Ok(()));
    assert_eq!(
        verify(&mint(&signer(MAX_TRIES as u8), &good())),
        Err(AccessError::WrongKey),
        "one try too many"
    );
    assert_eq!(verify(&mint(&signer(MAX_TRIES as u8).with_kid("8"), &good())), Ok(()));
    assert_eq!(verify(&mint(&signer(3).with_kid("4"), &good())), Err(AccessError::WrongKey));
}

/// A key from a PEM file has no name. It is still the only key that a token with a name can mean.
#[test]
fn a_key_without_a_kid_is_tried_where_no_key_has_the_kid_of_the_token() {
    let named = Key::from_secret(Algorithm::Hs256, &[1; 32]).unwrap().with_kid("one");
    let nameless = Key::from_secret(Algorithm::Hs256, &[2; 32]).unwrap();
    let verifier = verifier(vec![named, nameless]);
    let token = |secret: u8, kid: &str| {
        mint(&TokenSigner::from_secret(Algorithm::Hs256, &[secret; 32]).unwrap().with_kid(kid), &good())
    };
    let verify = |token: String| verifier.verify(&token, NOW).map(|_| ());
    assert_eq!(verify(token(2, "unheard of")), Ok(()));
    assert_eq!(verify(token(2, "one")), Err(AccessError::WrongKey));
    assert_eq!(verify(token(1, "unheard of")), Err(AccessError::WrongKey));
}

#[test]
fn a_ring_without_keys_accepts_nothing() {
    let verifier = Verifier::new(Arc::new(KeyRing::new()), TokenRules::default());
    let signer = TokenSigner::from_secret(Algorithm::Hs256, SECRET).unwrap();
    assert_eq!(verifier.verify(&mint(&signer, &good()), NOW).unwrap_err(), AccessError::WrongKey);
    let named = mint(&signer.with_kid("a"), &good());
    assert_eq!(verifier.verify(&named, NOW).unwrap_err(), AccessError::UnknownKid);
    assert_eq!(verifier.keys().unknown_kids(), 1);
}
