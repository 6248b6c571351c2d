//! Tokens with each fault that a token can have, and good ones beside them. Each row is a name, a token, and
//! what it is answered, as a subscriber's token and as a publisher's.

use fanfare_access::{Algorithm, TokenSigner};
use serde_json::{Value, json};

use super::case::Outcome::{self, Granted, Refused};
use super::keys::{Keys, base64url, decoded, mint};
use super::now_unix_s;

/// The options of the server that the tokens are for.
pub(crate) const OPTIONS: [&str; 8] =
    ["--audience", "fanfare", "--audience", "other", "--issuer", "https://issuer.example", "--leeway", "5m"];
/// Within the leeway, and far enough from both of its ends for a machine that is busy.
const WITHIN_S: u64 = 150;
/// Behind the leeway, and as far from its end.
const BEHIND_S: u64 = 450;

/// A token, and what it is answered.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) token: String,
    pub(crate) subscriber: Outcome,
    pub(crate) publisher: Outcome,
}

/// The table, while it is made.
struct Table<'k> {
    keys: &'k Keys,
    /// The keys of the other side.
    others: &'k Keys,
    now: u64,
    rows: Vec<Row>,
}

/// Every row for these keys. `others` are the keys of publishers for a table of subscribers, and the other
/// way round.
pub(crate) fn rows(keys: &Keys, others: &Keys) -> Vec<Row> {
    let mut table = Table { keys, others, now: now_unix_s(), rows: Vec::new() };
    table.algorithms();
    table.names_of_algorithms();
    table.public_keys_as_secrets();
    table.other_keys();
    table.headers();
    table.shapes();
    table.payloads();
    table.times();
    table.names();
    table.grants();
    table.rows
}

impl Table<'_> {
    fn row(&mut self, name: impl Into<String>, token: impl Into<String>, outcome: Outcome) {
        let (name, token) = (name.into(), token.into());
        self.rows.push(Row { name, token, subscriber: outcome.clone(), publisher: outcome });
    }

    /// Good claims with these changes, of which `"REMOVED"` removes one.
    fn claims(&self, changes: Value) -> Value {
        let mut claims = json!({
            "exp": self.now + 3600, "iat": self.now, "aud": "fanfare", "iss": "https://issuer.example",
            "sub": "subject-of-the-token", "jti": "id-of-the-token",
            "fanfare": { "subscribe": ["a"], "publish": ["a"] },
        });
        for (name, value) in changes.as_object().expect("an object") {
            if value == "REMOVED" {
                claims.as_object_mut().expect("an object").remove(name);
            } else {
                claims[name] = value.clone();
            }
        }
        claims
    }

    fn hs256(&self) -> TokenSigner {
        self.keys.signer(Algorithm::Hs256)
    }

    fn with(&self, changes: Value) -> String {
        self.signed(&self.hs256(), changes)
    }

    fn signed(&self, signer: &TokenSigner, changes: Value) -> String {
        let claims = self.claims(changes);
        signer.mint(claims.as_object().expect("an object")).expect("it signs")
    }

    /// Signed by HS256, with this text as the header.
    fn header(&self, header: &str) -> String {
        let claims = self.claims(json!({})).to_string();
        self.hs256().mint_raw(header.as_bytes(), claims.as_bytes()).expect("it signs")
    }

    /// Signed by HS256, with these bytes as the payload.
    fn payload(&self, payload: impl AsRef<[u8]>) -> String {
        self.hs256().mint_raw(br#"{"alg":"HS256"}"#, payload.as_ref()).expect("it signs")
    }

    /// The good claims as text with another member.
    fn payload_with(&self, member: &str) -> String {
        let claims = self.claims(json!({})).to_string();
        self.payload(format!("{},{member}}}", claims.strip_suffix('}').expect("an object")))
    }

    /// Each algorithm: a good token, the kid of its key, and one bit that was flipped in each part.
    fn algorithms(&mut self) {
        for algorithm in Algorithm::ALL {
            let good = self.signed(&self.keys.signer(algorithm), json!({}));
            let kid = algorithm.name().to_lowercase();
            let named = self.signed(&self.keys.signer(algorithm).with_kid(kid), json!({}));
            self.row(format!("{algorithm}"), &good, Granted);
            self.row(format!("{algorithm} with the kid of its key"), named, Granted);
            for (what, part, byte) in [
                ("the first byte of the signature", 2, 0),
                ("the last byte of the signature", 2, usize::MAX),
                ("the payload", 1, 10),
            ] {
                let name = format!("{algorithm} with a flipped bit in {what}");
                self.row(name, flipped(&good, part, byte), Refused("wrong_key"));
            }
            let without = with_signature(&good, "");
            self.row(format!("{algorithm} without a signature"), without, Refused("wrong_key"));
        }
    }

    /// The algorithm follows from the key: what the header says can only make a token worthless.
    fn names_of_algorithms(&mut self) {
        for name in ["none", "None", "NONE", "nOnE", "none ", "", "null"] {
            let token = self.header(&json!({ "alg": name }).to_string());
            self.row(format!("alg {name:?}, signed"), &token, Refused("algorithm"));
            self.row(format!("alg {name:?}, unsigned"), with_signature(&token, ""), Refused("algorithm"));
        }
        for name in [
            "hs256",
            "HS-256",
            "HS256\u{0}",
            "HS1",
            "HS128",
            "ES512",
            "ES256K",
            "RS512",
            "PS384",
            "dir",
            "A128KW",
        ] {
            let token = self.header(&json!({ "alg": name }).to_string());
            self.row(format!("alg {name:?}"), token, Refused("algorithm"));
        }
        for name in ["HS384", "HS512", "RS256", "PS256", "ES256", "ES384", "EdDSA"] {
            let token = self.header(&json!({ "alg": name }).to_string());
            self.row(format!("alg {name} with a signature of HS256"), token, Refused("wrong_key"));
        }
        let es256 = self.keys.signer(Algorithm::Es256);
        let claims = self.claims(json!({})).to_string();
        let token = es256.mint_raw(br#"{"alg":"HS256"}"#, claims.as_bytes()).expect("it signs");
        self.row("alg HS256 with a signature of ES256", token, Refused("wrong_key"));
    }

    /// The public keys are known to everyone, so as secrets of HMAC they must be worth nothing.
    fn public_keys_as_secrets(&mut self) {
        let pairs = [
            ("RSA", &self.keys.rsa, "rs256"),
            ("EC", &self.keys.p256, "es256"),
            ("Ed25519", &self.keys.ed25519, "eddsa"),
        ];
        for (kind, pair, kid) in pairs {
            let pem = pair.public_key_pem();
            let forms = [
                ("in PEM", pem.as_bytes().to_vec()),
                ("in PEM without the last line end", pem.trim_end().as_bytes().to_vec()),
                ("as its bytes", pair.public_key_raw().to_vec()),
            ];
            for (form, secret) in forms {
                let signer = TokenSigner::from_secret(Algorithm::Hs256, &secret).expect("it is long enough");
                let token = self.signed(&signer, json!({}));
                self.row(format!("the {kind} public key {form} as a secret"), token, Refused("wrong_key"));
                let token = self.signed(&signer.with_kid(kid), json!({}));
                let name = format!("the {kind} public key {form} as a secret, with its kid");
                self.row(name, token, Refused("algorithm"));
            }
        }
    }

    fn other_keys(&mut self) {
        for algorithm in Algorithm::ALL {
            let token = self.signed(&self.others.signer(algorithm), json!({}));
            self.row(format!("the other side's key of {algorithm}"), token, Refused("wrong_key"));
        }
        let token = self.signed(&self.others.signer(Algorithm::Es256).with_kid("es256"), json!({}));
        self.row("the other side's key of ES256 with the kid of ours", token, Refused("wrong_key"));
        for kid in ["nobody", "", "HS256", "hs256 ", "../../dev/null", "hs256' OR '1'='1"] {
            let token = self.signed(&self.hs256().with_kid(kid), json!({}));
            self.row(format!("the unknown kid {kid:?}"), token, Refused("unknown_kid"));
        }
        for kid in ["hs384", "rs256", "es256", "eddsa"] {
            let token = self.signed(&self.hs256().with_kid(kid), json!({}));
            self.row(format!("HS256 with the kid {kid} of another key"), token, Refused("algorithm"));
        }
        let token = self.signed(&self.keys.signer(Algorithm::Rs256).with_kid("ps256"), json!({}));
        self.row("RS256 with the kid of the key of PS256", token, Refused("algorithm"));
    }

    fn headers(&mut self) {
        // Where a token says that its key is, nothing is fetched, and a key in it is not used.
        let p256 = &self.others.p256;
        let (x, y) = p256.public_key_raw()[1..].split_at(32);
        let jwk = json!({ "kty": "EC", "crv": "P-256", "x": base64url(x), "y": base64url(y) });
        let claims = self.claims(json!({})).to_string();
        let header = json!({ "alg": "ES256", "jwk": jwk }).to_string();
        let embedded = self.others.signer(Algorithm::Es256).mint_raw(header.as_bytes(), claims.as_bytes());
        self.row(
            "a foreign key in jwk, and its signature",
            embedded.expect("it signs"),
            Refused("wrong_key"),
        );
        for (name, member) in [
            ("jku", json!("http://127.0.0.1:25000/jwks.json")),
            ("x5u", json!("http://127.0.0.1:25000/chain.pem")),
            ("x5c", json!(["MIIB"])),
            ("jwk", jwk),
        ] {
            let token = self.header(&json!({ "alg": "HS256", name: member }).to_string());
            self.row(format!("{name} beside a good signature is ignored"), token, Granted);
        }
        for (name, header, outcome) in [
            ("typ is not looked at", r#"{"alg":"HS256","typ":"other"}"#, Granted),
            ("white space in the header", "{ \"alg\" :\n\"HS256\" }", Granted),
            ("crit", r#"{"alg":"HS256","crit":["b64"],"b64":false}"#, Refused("malformed")),
            ("an empty crit", r#"{"alg":"HS256","crit":[]}"#, Refused("malformed")),
            ("crit as null", r#"{"alg":"HS256","crit":null}"#, Refused("malformed")),
            ("no alg", r#"{"typ":"JWT"}"#, Refused("malformed")),
            ("alg as a number", r#"{"alg":256}"#, Refused("malformed")),
            ("alg as null", r#"{"alg":null}"#, Refused("malformed")),
            ("alg as an array", r#"{"alg":["HS256"]}"#, Refused("malformed")),
            ("alg twice", r#"{"alg":"none","alg":"HS256"}"#, Refused("malformed")),
            ("alg twice, once escaped", r#"{"alg":"HS256","\u0061lg":"none"}"#, Refused("malformed")),
            ("kid twice", r#"{"alg":"HS256","kid":"rs256","kid":"hs256"}"#, Refused("malformed")),
            ("kid as a number", r#"{"alg":"HS256","kid":1}"#, Refused("malformed")),
            ("kid as null", r#"{"alg":"HS256","kid":null}"#, Refused("malformed")),
            ("a header that is a text", r#""HS256""#, Refused("malformed")),
            ("a header that is an array", r#"["HS256"]"#, Refused("malformed")),
            ("a header that is no JSON", "alg", Refused("malformed")),
            ("text behind the header", r#"{"alg":"HS256"}x"#, Refused("malformed")),
            ("a byte order mark in the header", "\u{feff}{\"alg\":\"HS256\"}", Refused("malformed")),
        ] {
            let token = self.header(header);
            self.row(name, token, outcome);
        }
        let not_utf8 = self.hs256().mint_raw(b"{\"alg\":\"HS256\",\"x\":\"\xff\"}", claims.as_bytes());
        self.row("a header that is not UTF-8", not_utf8.expect("it signs"), Refused("malformed"));
    }

    fn shapes(&mut self) {
        let token = self.with(json!({}));
        let parts: Vec<&str> = token.split('.').collect();
        let (header, payload, signature) = (parts[0], parts[1], parts[2]);
        let encrypted = format!("{token}.{payload}.{signature}");
        let standard = with_signature(&token, &signature.replace(['-', '_'], "+"));
        let standard = if standard == token { with_signature(&token, &"+/".repeat(20)) } else { standard };
        for (name, token) in [
            ("no dot", header.to_owned()),
            ("one dot", format!("{header}.{payload}")),
            ("three dots", format!("{token}.")),
            ("four parts", format!("{token}.{signature}")),
            ("five parts, as of JWE", encrypted),
            ("two dots alone", "..".to_owned()),
            ("a dot alone", ".".to_owned()),
            ("an empty header", format!(".{payload}.{signature}")),
            ("an empty payload", format!("{header}..{signature}")),
            ("a dot before the token", format!(".{token}")),
            ("padding behind the signature", format!("{token}=")),
            ("padding behind the header", format!("{header}=.{payload}.{signature}")),
            ("the other alphabet of base64", standard),
            ("a signature of one character", with_signature(&token, "A")),
            ("rest bits in the signature", with_signature(&token, "AB")),
            ("a tilde in the signature", with_signature(&token, "~~~~")),
            ("a header that is no base64url", format!("{header}~.{payload}.{signature}")),
            ("no JWT at all", "garbage".to_owned()),
        ] {
            self.row(name, token, Refused("malformed"));
        }
        self.row("half a signature", with_signature(&token, &signature[..20]), Refused("wrong_key"));
        self.row("a longer signature", format!("{token}AAAA"), Refused("wrong_key"));
        self.row(
            "the payload of another token",
            {
                let other = base64url(self.claims(json!({ "sub": "eve" })).to_string().as_bytes());
                format!("{header}.{other}.{signature}")
            },
            Refused("wrong_key"),
        );
        let es256 = self.signed(&self.keys.signer(Algorithm::Es256), json!({}));
        self.row("ES256 with zeros", with_signature(&es256, &"A".repeat(86)), Refused("wrong_key"));
        // The form of ASN.1, which other libraries sign with by mistake: SEQUENCE { INTEGER r, INTEGER s }.
        let fixed = decoded(es256.rsplit_once('.').expect("three parts").1);
        let integer = |number: &[u8]| [&[2, 33, 0], number].concat();
        let numbers = [integer(&fixed[..32]), integer(&fixed[32..])].concat();
        let asn1 = [&[0x30, 70][..], &numbers].concat();
        self.row("ES256 in ASN.1", with_signature(&es256, &base64url(&asn1)), Refused("wrong_key"));
        let long = self.with(json!({ "x": "y".repeat(5 << 10) }));
        self.row("nearly too long", long, Granted);
        let long = self.with(json!({ "x": "y".repeat(7 << 10) }));
        self.row("too long", long, Refused("too_long"));
        self.row("far too long, and no token", "x".repeat(12 << 10), Refused("too_long"));
    }

    fn payloads(&mut self) {
        let nested = format!("\"x\":{}{}", "[".repeat(1000), "]".repeat(1000));
        for (name, token) in [
            ("a payload that is no JSON", self.payload("exp")),
            ("a payload that is empty JSON", self.payload(" ")),
            ("a payload that is an array", self.payload("[1]")),
            ("a payload that is a number", self.payload("2000000000")),
            ("a payload that is not UTF-8", self.payload(b"{\"exp\":2000000000,\"sub\":\"\xff\"}")),
            ("text behind the claims", self.payload(format!("{}x", self.claims(json!({}))))),
            ("exp twice", self.payload_with("\"exp\":2000000000")),
            ("fanfare twice", self.payload_with("\"fanfare\":{\"subscribe\":[\"*\"]}")),
            ("sub twice, once escaped", self.payload_with("\"\\u0073ub\":\"eve\"")),
            ("a name twice deep inside", self.payload_with("\"x\":[{\"a\":1,\"a\":2}]")),
            ("a thousand arrays inside of each other", self.payload_with(&nested)),
            ("a lone surrogate", self.payload_with("\"x\":\"\\ud800\"")),
            ("a number out of range", self.payload_with("\"x\":1e999")),
            ("a control character in a text", self.payload_with("\"x\":\"\u{1}\"")),
        ] {
            self.row(name, token, Refused("malformed"));
        }
    }

    /// `exp`, `nbf` and `iat` around the leeway. A busy machine may take a minute for all of it.
    fn times(&mut self) {
        let now = self.now;
        for (name, changes, outcome) in [
            ("exp behind the leeway", json!({ "exp": now - BEHIND_S }), Refused("expired")),
            ("exp long ago", json!({ "exp": 1_300_819_380 }), Refused("expired")),
            ("exp is 0", json!({ "exp": 0 }), Refused("expired")),
            ("exp below 0", json!({ "exp": -1 }), Refused("expired")),
            ("exp far below 0", json!({ "exp": -1e300 }), Refused("expired")),
            ("exp with a fraction", json!({ "exp": now as f64 + 3600.5 }), Granted),
            ("exp in the year 9999", json!({ "exp": 253_402_300_799_u64 }), Granted),
            ("exp in the year 10000", json!({ "exp": 253_402_300_800_u64 }), Refused("malformed")),
            ("exp in milliseconds", json!({ "exp": (now + 3600) * 1000 }), Refused("malformed")),
            ("exp is 2^64 - 1", json!({ "exp": u64::MAX }), Refused("malformed")),
            ("exp is 1e300", json!({ "exp": 1e300 }), Refused("malformed")),
            ("exp as a text", json!({ "exp": (now + 3600).to_string() }), Refused("malformed")),
            ("exp as null", json!({ "exp": null }), Refused("malformed")),
            ("exp as true", json!({ "exp": true }), Refused("malformed")),
            ("exp as an array", json!({ "exp": [now + 3600] }), Refused("malformed")),
            ("no exp", json!({ "exp": "REMOVED" }), Refused("no_expiry")),
            ("nbf in the past", json!({ "nbf": now - 1000 }), Granted),
            ("nbf within the leeway", json!({ "nbf": now + WITHIN_S }), Granted),
            ("nbf behind the leeway", json!({ "nbf": now + BEHIND_S }), Refused("not_yet_valid")),
            ("nbf below 0", json!({ "nbf": -5 }), Granted),
            ("nbf as a text", json!({ "nbf": "0" }), Refused("malformed")),
            ("nbf is 1e300", json!({ "nbf": 1e300 }), Refused("malformed")),
            ("no iat", json!({ "iat": "REMOVED" }), Granted),
            ("iat in the future", json!({ "iat": now + BEHIND_S }), Refused("not_yet_valid")),
            ("iat as a text", json!({ "iat": "now" }), Refused("malformed")),
            ("iat as an object", json!({ "iat": {} }), Refused("malformed")),
        ] {
            let token = self.with(changes);
            self.row(name, token, outcome);
        }
        // A publish may come within the leeway. A stream ends at exp nevertheless, so that none begins behind
        // it.
        let token = self.with(json!({ "exp": now - WITHIN_S }));
        self.row("exp within the leeway", token, Granted);
        if let Some(row) = self.rows.last_mut() {
            row.subscriber = Refused("expired");
        }
    }

    fn names(&mut self) {
        let long = "s".repeat(257);
        for (name, changes, outcome) in [
            ("no aud", json!({ "aud": "REMOVED" }), Refused("audience")),
            ("another aud", json!({ "aud": "audience-of-others" }), Refused("audience")),
            ("aud in another case", json!({ "aud": "Fanfare" }), Refused("audience")),
            ("an empty aud", json!({ "aud": "" }), Refused("audience")),
            ("the second aud of the server", json!({ "aud": "other" }), Granted),
            ("an array with our aud", json!({ "aud": ["audience-of-others", "other"] }), Granted),
            ("an array without our aud", json!({ "aud": ["audience-of-others"] }), Refused("audience")),
            ("an empty array of auds", json!({ "aud": [] }), Refused("malformed")),
            ("aud as a number", json!({ "aud": 1 }), Refused("malformed")),
            ("aud as null", json!({ "aud": null }), Refused("malformed")),
            ("a number among the auds", json!({ "aud": ["fanfare", 1] }), Refused("malformed")),
            ("no iss", json!({ "iss": "REMOVED" }), Refused("issuer")),
            ("another iss", json!({ "iss": "issuer-of-others" }), Refused("issuer")),
            ("iss with a slash behind", json!({ "iss": "https://issuer.example/" }), Refused("issuer")),
            ("iss as an array", json!({ "iss": ["https://issuer.example"] }), Refused("malformed")),
            ("no sub and no jti", json!({ "sub": "REMOVED", "jti": "REMOVED" }), Granted),
            ("an empty sub", json!({ "sub": "" }), Granted),
            ("a sub with line ends", json!({ "sub": "a\r\nSet-Cookie: b=c" }), Granted),
            ("the longest sub", json!({ "sub": long[1..] }), Granted),
            ("a longer sub", json!({ "sub": long }), Refused("malformed")),
            ("sub as a number", json!({ "sub": 42 }), Refused("malformed")),
            ("a longer jti", json!({ "jti": long }), Refused("malformed")),
            ("jti as an object", json!({ "jti": {} }), Refused("malformed")),
        ] {
            let token = self.with(changes);
            self.row(name, token, outcome);
        }
    }

    /// Claims that are no grants. What good grants cover is in another table.
    fn grants(&mut self) {
        let both = |patterns: Value| json!({ "fanfare": { "subscribe": patterns, "publish": patterns } });
        let many = |count| vec!["a"; count];
        for (name, changes, outcome) in [
            ("fanfare and mercure", json!({ "mercure": {} }), Refused("malformed")),
            ("fanfare as an array", json!({ "fanfare": ["a"] }), Refused("malformed")),
            ("fanfare as null", json!({ "fanfare": null }), Refused("malformed")),
            ("patterns as a text", both(json!("a")), Refused("malformed")),
            ("patterns as null", both(json!(null)), Refused("malformed")),
            ("a number among the patterns", both(json!(["a", 1])), Refused("malformed")),
            ("an empty pattern", both(json!(["a", ""])), Refused("pattern")),
            ("a line end in a pattern", both(json!(["a", "b\nc"])), Refused("pattern")),
            ("a pattern that is too long", both(json!(["a", "x".repeat(513)])), Refused("pattern")),
            ("a thousand patterns", both(json!(many(500))), Granted),
            ("too many patterns", json!({ "fanfare": { "subscribe": many(1001) } }), Refused("pattern")),
            (
                "a bad pattern of the other side",
                json!({ "fanfare": { "subscribe": ["a"], "publish": ["a", "{;b}"] } }),
                Refused("pattern"),
            ),
            (
                "grants of Mercure",
                json!({ "fanfare": "REMOVED",
                "mercure": { "subscribe": ["a"], "publish": ["a"], "payload": { "x": 1 } } }),
                Granted,
            ),
        ] {
            let token = self.with(changes);
            self.row(name, token, outcome);
        }
        // What is not supported is refused, because otherwise it would never match, and nothing would say
        // why.
        for template in [
            "{?a}", "{&a}", "{#a}", "{.a}", "{/a}", "{;a}", "{=a}", "{,a}", "{!a}", "{@a}", "{|a}", "{a,b}",
            "{a:3}", "{a*}", "{}", "{+}", "{a", "a}", "{a{b}}", "{a}{a}", "{a}*", "{a}%", "{a}%4", "{a b}",
            "{a.}", "{ä}",
        ] {
            let token = self.with(both(json!(["a", template])));
            self.row(format!("the template {template:?}"), token, Refused("pattern"));
        }
    }
}

/// For a server whose keys are public keys without names: every algorithm with a secret is foreign there.
pub(crate) fn rows_of_public_keys(keys: &Keys) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut row = |name: String, token: String, outcome: Outcome| {
        rows.push(Row { name, token, subscriber: outcome.clone(), publisher: outcome });
    };
    let claims = json!({ "fanfare": { "subscribe": ["a"], "publish": ["a"] } });
    for algorithm in [Algorithm::Rs256, Algorithm::Ps256, Algorithm::Es256] {
        let token = mint(&keys.signer(algorithm), claims.clone());
        row(format!("public keys: {algorithm}"), token, Granted);
        let token = mint(&keys.signer(algorithm).with_kid("any"), claims.clone());
        row(format!("public keys: {algorithm} with a kid, which fits keys without a name"), token, Granted);
    }
    for algorithm in
        [Algorithm::Hs256, Algorithm::Hs384, Algorithm::Hs512, Algorithm::Es384, Algorithm::EdDsa]
    {
        let token = mint(&keys.signer(algorithm), claims.clone());
        row(format!("public keys: {algorithm}, which no key has"), token, Refused("algorithm"));
    }
    for (kind, pair) in [("RSA", &keys.rsa), ("EC", &keys.p256)] {
        let pem = pair.public_key_pem();
        let forms = [
            ("PEM", pem.as_bytes()),
            ("PEM without its end", pem.trim_end().as_bytes()),
            ("bytes", pair.public_key_raw()),
        ];
        for (form, secret) in forms {
            let signer = TokenSigner::from_secret(Algorithm::Hs256, secret).expect("it is long enough");
            let token = mint(&signer, claims.clone());
            row(format!("public keys: HS256 with the {kind} key as {form}"), token, Refused("algorithm"));
        }
    }
    rows
}

/// The token with one bit of a part flipped. `byte` is a position in the decoded part, at most the last one.
fn flipped(token: &str, part: usize, byte: usize) -> String {
    let mut parts: Vec<String> = token.split('.').map(str::to_owned).collect();
    let mut bytes = decoded(&parts[part]);
    let at = byte.min(bytes.len() - 1);
    bytes[at] ^= 1;
    parts[part] = base64url(&bytes);
    parts.join(".")
}

fn with_signature(token: &str, signature: &str) -> String {
    let (signed, _) = token.rsplit_once('.').expect("three parts");
    format!("{signed}.{signature}")
}
