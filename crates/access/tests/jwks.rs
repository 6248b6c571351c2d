//! JWK Sets from files and from endpoints over real sockets: good ones and bad ones.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

mod support;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fanfare_access::{
    AccessError, JwksError, JwksFetcher, JwksOptions, JwksSource, KeyError, KeyRing, RsaPadding, TokenRules,
    Verifier,
};
use serde_json::{Value, json};

use support::{NOW, Pair, SECRET, base64url, mint};

/// How long a test waits for what must come. It is far more than is needed.
const PATIENCE: Duration = Duration::from_secs(60);

fn set(keys: &[Value]) -> String {
    json!({"keys": keys}).to_string()
}

fn fast() -> JwksOptions {
    let mut options = JwksOptions::default();
    options.refresh = Duration::from_millis(20);
    options.retry = Duration::from_millis(20);
    options.least_pause = Duration::from_millis(5);
    options.timeout = Duration::from_millis(500);
    options
}

/// Fetches again only when it is asked.
fn when_asked() -> JwksOptions {
    let mut options = fast();
    options.refresh = Duration::from_secs(3_600);
    options
}

/// A key with a name, its signer, and a verifier whose keys are fetched.
struct World {
    pair: Pair,
    ring: Arc<KeyRing>,
    verifier: Verifier,
}

impl World {
    fn new() -> World {
        let ring = Arc::new(KeyRing::new());
        World { pair: Pair::p256(), verifier: Verifier::new(ring.clone(), TokenRules::default()), ring }
    }

    fn jwk(&self) -> Value {
        self.pair.jwk_with(json!({"kid": "one"}))
    }

    fn verify(&self, pair: &Pair, kid: &str) -> Result<(), AccessError> {
        let token = mint(&pair.signer(RsaPadding::Pkcs1).with_kid(kid), &json!({"exp": NOW + 600}));
        self.verifier.verify(&token, NOW).map(|_| ())
    }

    fn fetcher(&self, source: JwksSource, options: JwksOptions) -> JwksFetcher {
        JwksFetcher::start(source, options, self.ring.clone(), |_| {}).unwrap()
    }
}

/// Waits for two fetches, so that the second one began after this was called.
fn wait_for_a_whole_fetch(fetcher: &JwksFetcher) {
    assert!(fetcher.wait_for_fetches(fetcher.status().fetches + 2, PATIENCE));
}

/// A file of its own for a test, which goes with it.
struct TestFile(PathBuf);

impl TestFile {
    fn new(name: &str) -> TestFile {
        TestFile(std::env::temp_dir().join(format!("fanfare-access-{}-{name}", std::process::id())))
    }

    /// Readers see the old text or the new one, and nothing between.
    fn write(&self, text: &[u8]) {
        let beside = self.0.with_extension("new");
        fs::write(&beside, text).unwrap();
        fs::rename(&beside, &self.0).unwrap();
    }
}

impl Drop for TestFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn a_file_is_read_again_and_its_last_good_set_stays() {
    let world = World::new();
    let file = TestFile::new("jwks");
    let fetcher = world.fetcher(JwksSource::file(&file.0), fast());
    assert!(fetcher.wait_for_fetches(1, PATIENCE));
    assert!(matches!(fetcher.status().error, Some(JwksError::Io(_))), "there is no file yet");
    // The token may be good, so that its client is to try again.
    assert_eq!(world.verify(&world.pair, "one"), Err(AccessError::NoKeysYet));

    let secret = json!({"kty": "oct", "k": base64url(SECRET), "kid": "two"});
    file.write(set(&[world.jwk(), secret]).as_bytes());
    wait_for_a_whole_fetch(&fetcher);
    assert_eq!(world.verify(&world.pair, "one"), Ok(()));
    let status = fetcher.status();
    assert_eq!((status.keys, status.skipped, status.error), (2, 0, None));

    let generation = world.ring.generation();
    let bad: [(&[u8], JwksError); 4] = [
        (b"{\"keys\":[", JwksError::Keys(KeyError::Jwk("it is not JSON"))),
        (b"{\"keys\":[]}", JwksError::Keys(KeyError::Count { keys: 0 })),
        (b"\xff", JwksError::NotUtf8),
        (&[b' '; (256 << 10) + 1], JwksError::TooLarge),
    ];
    for (text, error) in bad {
        file.write(text);
        wait_for_a_whole_fetch(&fetcher);
        let status = fetcher.status();
        assert_eq!((status.keys, status.error), (2, Some(error)));
        assert_eq!(world.verify(&world.pair, "one"), Ok(()));
    }
    assert_eq!(world.ring.generation(), generation, "the keys did not change");
}

/// A symbolic link to a device, or another file without an end, is read to the bound and no further.
#[test]
fn a_file_without_an_end_is_too_large() {
    let world = World::new();
    let fetcher = world.fetcher(JwksSource::file("/dev/zero"), when_asked());
    assert!(fetcher.wait_for_fetches(1, PATIENCE));
    assert_eq!(fetcher.status().error, Some(JwksError::TooLarge));
}

#[test]
fn fixed_and_fetched_keys_are_good_together() {
    let world = World::new();
    let fixed = Pair::ed25519();
    let key = fanfare_access::Key::from_pem(&fixed.public_pem, RsaPadding::Pkcs1).unwrap().with_kid("fixed");
    world.ring.set_fixed(fanfare_access::KeySet::new(vec![key]).unwrap());
    let file = TestFile::new("together");
    file.write(set(&[world.jwk()]).as_bytes());
    let fetcher = world.fetcher(JwksSource::file(&file.0), when_asked());
    assert!(fetcher.wait_for_fetches(1, PATIENCE));
    assert_eq!(world.verify(&world.pair, "one"), Ok(()));
    assert_eq!(world.verify(&fixed, "fixed"), Ok(()));
}

#[cfg(feature = "url")]
mod over_sockets {
    use std::sync::mpsc;
    use std::thread;

    use super::support::endpoint::{Behaviour, Endpoint, ok};
    use super::*;

    fn url(endpoint: &Endpoint) -> JwksSource {
        JwksSource::url(&endpoint.url()).unwrap()
    }

    #[test]
    fn keys_come_from_a_url_and_secrets_among_them_are_left_out() {
        let world = World::new();
        let secret = json!({"kty": "oct", "k": base64url(SECRET), "kid": "public secret"});
        let endpoint = Endpoint::start(Behaviour::Set(set(&[secret, world.jwk()])));
        let fetcher = world.fetcher(url(&endpoint), when_asked());
        assert!(fetcher.wait_for_fetches(1, PATIENCE));
        let status = fetcher.status();
        assert_eq!((status.keys, status.skipped, status.error), (1, 1, None));
        assert_eq!(world.verify(&world.pair, "one"), Ok(()));
        let signer =
            fanfare_access::TokenSigner::from_secret(fanfare_access::Algorithm::Hs256, SECRET).unwrap();
        let token = mint(&signer.with_kid("public secret"), &json!({"exp": NOW + 600}));
        assert_eq!(world.verifier.verify(&token, NOW).unwrap_err(), AccessError::UnknownKid);
    }

    /// A name, what the endpoint does, and whether an error is the right one.
    type Bad = (&'static str, Behaviour, fn(&JwksError) -> bool);

    #[test]
    fn every_bad_endpoint_leaves_the_last_good_set_and_says_why() {
        let world = World::new();
        let good = set(&[world.jwk()]);
        let endpoint = Endpoint::start(Behaviour::Set(good.clone()));
        let fetcher = world.fetcher(url(&endpoint), fast());
        assert!(fetcher.wait_for_fetches(1, PATIENCE));
        let generation = world.ring.generation();

        let bytes = |text: &str| Behaviour::Bytes(text.as_bytes().to_vec());
        let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
        let chunks = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{}", chunk.repeat(20));
        let cut = String::from_utf8(ok(&good)).unwrap();
        let bad: Vec<Bad> = vec![
            ("closes at once", bytes(""), |e| matches!(e, JwksError::Io(_))),
            ("no HTTP", bytes("SSH-2.0-OpenSSH_9.9\r\n"), |e| matches!(e, JwksError::Io(_))),
            ("zeros", Behaviour::Bytes(vec![0; 4096]), |e| matches!(e, JwksError::Io(_))),
            ("a head without an end", bytes("HTTP/1.1 200 OK\r\nContent-"), |e| {
                matches!(e, JwksError::Io(_))
            }),
            ("a cut body", bytes(&cut[..cut.len() - 5]), |e| matches!(e, JwksError::Io(_))),
            ("HTML", Behaviour::Set("<html>".to_owned()), |e| matches!(e, JwksError::Keys(KeyError::Jwk(_)))),
            ("no keys", Behaviour::Set(set(&[])), |e| {
                matches!(e, JwksError::Keys(KeyError::Count { keys: 0 }))
            }),
            ("an empty body", Behaviour::Set(String::new()), |e| matches!(e, JwksError::Keys(_))),
            ("deep JSON", Behaviour::Set("[".repeat(100_000)), |e| matches!(e, JwksError::Keys(_))),
            (
                "a redirection",
                bytes("HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n"),
                |e| *e == JwksError::Status(302),
            ),
            ("an error", bytes("HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n"), |e| {
                *e == JwksError::Status(500)
            }),
            ("no content", bytes("HTTP/1.1 204 No Content\r\n\r\n"), |e| *e == JwksError::Status(204)),
            ("a long set", Behaviour::Set(" ".repeat((256 << 10) + 1)), |e| *e == JwksError::TooLarge),
            ("long chunks", bytes(&chunks), |e| *e == JwksError::TooLarge),
            ("a flood", Behaviour::Flood, |e| *e == JwksError::TooLarge),
            ("a flood of fields", Behaviour::FloodOfFields, |e| {
                matches!(e, JwksError::Io(_) | JwksError::TimedOut)
            }),
            ("a trickle", Behaviour::Trickle, |e| *e == JwksError::TimedOut),
            ("silence", Behaviour::Silence, |e| *e == JwksError::TimedOut),
        ];
        for (name, behaviour, is_expected) in bad {
            endpoint.becomes(behaviour);
            wait_for_a_whole_fetch(&fetcher);
            let status = fetcher.status();
            assert!(status.error.as_ref().is_some_and(is_expected), "{name}: {:?}", status.error);
            assert_eq!((status.keys, world.ring.generation()), (1, generation), "{name}");
            assert_eq!(world.verify(&world.pair, "one"), Ok(()), "{name}");
        }
        endpoint.becomes(Behaviour::Set(good));
        wait_for_a_whole_fetch(&fetcher);
        assert_eq!(fetcher.status().error, None, "it recovers");
    }

    #[test]
    fn an_endpoint_without_a_listener_is_an_error() {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let world = World::new();
        let source = JwksSource::url(&format!("http://127.0.0.1:{port}/")).unwrap();
        let fetcher = world.fetcher(source, when_asked());
        assert!(fetcher.wait_for_fetches(1, PATIENCE));
        assert!(matches!(fetcher.status().error, Some(JwksError::Io(_))));
    }

    #[test]
    fn an_unknown_kid_asks_again_and_a_rotated_key_becomes_good() {
        let world = World::new();
        let endpoint = Endpoint::start(Behaviour::Set(set(&[world.jwk()])));
        let fetcher = world.fetcher(url(&endpoint), when_asked());
        assert!(fetcher.wait_for_fetches(1, PATIENCE));
        let next = Pair::p256();
        endpoint.becomes(Behaviour::Set(set(&[next.jwk_with(json!({"kid": "two"}))])));
        assert_eq!(world.verify(&next, "two"), Err(AccessError::UnknownKid));
        assert!(fetcher.wait_for_fetches(2, PATIENCE));
        assert_eq!(world.verify(&next, "two"), Ok(()));
        assert_eq!(
            world.verify(&world.pair, "one"),
            Err(AccessError::UnknownKid),
            "the old key is withdrawn"
        );
    }

    /// Every stranger can send a token with an invented kid. The endpoint gets no more requests from that.
    #[test]
    fn many_unknown_kids_do_not_fetch_more_often_than_the_least_pause() {
        let world = World::new();
        let endpoint = Endpoint::start(Behaviour::Set(set(&[world.jwk()])));
        let mut options = when_asked();
        options.least_pause = Duration::from_secs(3_600);
        let fetcher = world.fetcher(url(&endpoint), options);
        assert!(fetcher.wait_for_fetches(1, PATIENCE));
        for number in 0..200 {
            let refused = world.verify(&world.pair, &format!("made up {number}"));
            assert_eq!(refused, Err(AccessError::UnknownKid));
        }
        // A fetch that was wrongly begun would be seen here.
        thread::sleep(Duration::from_millis(200));
        assert_eq!((fetcher.status().fetches, endpoint.requests()), (1, 1));
        assert_eq!(world.ring.unknown_kids(), 200);
    }

    /// A reload may name another URL. The fetcher before had ended the ring's only signal for good, so the
    /// new thread ended after its first fetch, and no unknown kid was asked for any more.
    #[test]
    fn a_new_fetcher_of_the_same_ring_fetches_and_is_asked() {
        let world = World::new();
        let old = Endpoint::start(Behaviour::Set(set(&[world.jwk()])));
        let fetcher = world.fetcher(url(&old), when_asked());
        assert!(fetcher.wait_for_fetches(1, PATIENCE));
        drop(fetcher);
        assert_eq!(world.verify(&world.pair, "one"), Ok(()), "the keys stay until there are new ones");
        let next = Pair::p256();
        let new = Endpoint::start(Behaviour::Set(set(&[next.jwk_with(json!({"kid": "two"}))])));
        let fetcher = world.fetcher(url(&new), when_asked());
        assert!(fetcher.wait_for_fetches(1, PATIENCE));
        assert_eq!(world.verify(&next, "two"), Ok(()));
        assert_eq!(world.verify(&world.pair, "one"), Err(AccessError::UnknownKid));
        assert!(fetcher.wait_for_fetches(2, PATIENCE), "the unknown kid asked");
        assert_eq!((old.requests(), new.requests()), (1, 2));
    }

    #[test]
    fn a_dropped_fetcher_ends_its_thread_also_in_a_fetch_that_is_not_answered() {
        for behaviour in [Behaviour::Set("{}".to_owned()), Behaviour::Silence] {
            let endpoint = Endpoint::start(behaviour);
            let (ended, is_ended) = mpsc::channel::<()>();
            let ring = Arc::new(KeyRing::new());
            let fetcher = JwksFetcher::start(url(&endpoint), when_asked(), ring, move |_| {
                // Moves the sender into the thread: the receiver hears when the thread drops it.
                let _ = &ended;
            });
            drop(fetcher.unwrap());
            assert_eq!(is_ended.recv_timeout(PATIENCE), Err(mpsc::RecvTimeoutError::Disconnected));
        }
    }

    #[cfg(feature = "https")]
    mod with_tls {
        use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
        use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
        use rustls::{ServerConfig, ServerConnection, StreamOwned};

        use super::*;

        /// An endpoint with a certificate for this name, and the certificate of its authority in PEM.
        fn endpoint(name: &str, behaviour: Behaviour) -> (Endpoint, String) {
            let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
            let key = KeyPair::generate().unwrap();
            let leaf =
                CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
            let config = ServerConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![leaf.der().clone()], private)
                .unwrap();
            let config = Arc::new(config);
            let endpoint = Endpoint::start_with(behaviour, move |socket| {
                Box::new(StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), socket))
            });
            (endpoint, authority.pem())
        }

        fn fetched(endpoint: &Endpoint, trusted: Option<String>, world: &World) -> JwksFetcher {
            let mut options = when_asked();
            options.timeout = Duration::from_secs(20);
            options.root_certificates_pem = trusted;
            let source = JwksSource::url(&format!("https://localhost:{}/", endpoint.port())).unwrap();
            let fetcher = world.fetcher(source, options);
            assert!(fetcher.wait_for_fetches(1, PATIENCE));
            fetcher
        }

        #[test]
        fn keys_come_from_an_endpoint_that_is_trusted() {
            let world = World::new();
            let (endpoint, authority) = endpoint("localhost", Behaviour::Set(set(&[world.jwk()])));
            let fetcher = fetched(&endpoint, Some(authority), &world);
            assert_eq!(fetcher.status().error, None);
            assert_eq!(world.verify(&world.pair, "one"), Ok(()));
        }

        #[test]
        fn an_endpoint_that_is_not_trusted_gives_no_keys() {
            let world = World::new();
            let good = || Behaviour::Set(set(&[world.jwk()]));
            let (untrusted, _) = endpoint("localhost", good());
            let (_, other_authority) = endpoint("localhost", good());
            let (wrong_name, its_authority) = endpoint("example.com", good());
            let cases = [
                (&untrusted, None),
                (&untrusted, Some(other_authority)),
                (&untrusted, Some("no certificate".to_owned())),
                (&wrong_name, Some(its_authority)),
            ];
            for (endpoint, trusted) in cases {
                let fetcher = fetched(endpoint, trusted, &world);
                assert!(matches!(fetcher.status().error, Some(JwksError::Io(_))), "{:?}", fetcher.status());
                assert_eq!(world.verify(&world.pair, "one"), Err(AccessError::NoKeysYet));
            }
        }
    }
}
