//! Prints what a token costs: with the signature computed each time, and from the memory of verified tokens.
//!
//! `cargo run --release -p fanfare-access --example verify_cost`. The time is processor time of the one
//! thread, which makes no system call meanwhile, so it is user time. Nothing is asserted: a time alone says
//! little (see the loadtest).

use std::error::Error;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
    RsaKeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fanfare_access::{Algorithm, Key, KeyRing, MemoryLimits, RsaPadding, TokenRules, TokenSigner, Verifier};
use fanfare_proto::event::Topic;
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;

const NOW_UNIX_S: u64 = 1_800_000_000;
const TOKENS: usize = 1_000;
const SECRET: [u8; 64] = [7; 64];

fn main() -> Result<(), Box<dyn Error>> {
    println!("processor time for one token, of {TOKENS} different ones");
    println!("{:10} {:>12} {:>12} {:>12} {:>8}", "algorithm", "bytes", "computed", "remembered", "ratio");
    for algorithm in Algorithm::ALL {
        let (key, signer) = pair(algorithm)?;
        let tokens: Option<Vec<String>> = (0..TOKENS).map(|number| token(&signer, number)).collect();
        let tokens = tokens.ok_or("a key does not sign")?;
        let ring = Arc::new(KeyRing::of_key(key));
        let mut without = TokenRules::default();
        without.memory = MemoryLimits { tokens: 0, bytes: 0 };
        let computed = cost(&Verifier::new(ring.clone(), without), &tokens, 1)?;
        let verifier = Verifier::new(ring, TokenRules::default());
        cost(&verifier, &tokens, 1)?;
        let remembered = cost(&verifier, &tokens, 20)?;
        let ratio = computed.as_secs_f64() / remembered.as_secs_f64();
        println!("{algorithm:10} {:>12} {computed:>12.2?} {remembered:>12.2?} {ratio:>8.0}", tokens[0].len());
    }
    covers()
}

/// What the check of a topic costs with patterns of each kind.
fn covers() -> Result<(), Box<dyn Error>> {
    use fanfare_access::PatternSet;
    let topic = Topic::new("tenants/7/users/1234567/notifications")?;
    let hundred = |text: &dyn Fn(usize) -> String| (0..100).map(text).collect::<Vec<String>>();
    let explosive: String = (0..50).map(|n| format!("{{+v{n}}}t")).collect();
    let sets = [
        ("1 exact name", vec![topic.to_string()]),
        ("100 exact names", hundred(&|n| format!("tenants/{n}/users/1234567/notifications"))),
        ("100 prefixes", hundred(&|n| format!("tenants/{n}/*"))),
        ("1 template", vec!["tenants/{tenant}/users/{user}/notifications".to_owned()]),
        ("100 templates", hundred(&|n| format!("tenants/{n}/users/{{user}}/{{+rest}}"))),
        ("1 template built to explode", vec![explosive]),
    ];
    println!(
        "\nprocessor time to ask whether a set of patterns covers a topic of {} bytes",
        topic.as_str().len()
    );
    for (name, texts) in sets {
        let set = PatternSet::parse(texts.iter().map(String::as_str))?;
        let before = processor_time();
        for _ in 0..10_000 {
            black_box(set.covers(black_box(topic.as_str())));
        }
        println!("{name:30} {:>12.2?}", (processor_time() - before) / 10_000);
    }
    Ok(())
}

fn cost(verifier: &Verifier, tokens: &[String], rounds: u32) -> Result<Duration, Box<dyn Error>> {
    let before = processor_time();
    for _ in 0..rounds {
        for token in tokens {
            black_box(verifier.verify(token, NOW_UNIX_S)?);
        }
    }
    Ok((processor_time() - before) / (rounds * TOKENS as u32))
}

fn token(signer: &TokenSigner, number: usize) -> Option<String> {
    let claims = json!({
        "exp": NOW_UNIX_S + 600,
        "sub": format!("user-{number}"),
        "jti": number.to_string(),
        "fanfare": {"subscribe": [format!("users/{number}/*"), "news/{section}", "public"]},
    });
    signer.mint(claims.as_object()?)
}

fn pair(algorithm: Algorithm) -> Result<(Key, TokenSigner), Box<dyn Error>> {
    let padding = if algorithm == Algorithm::Ps256 { RsaPadding::Pss } else { RsaPadding::Pkcs1 };
    let (private, public) = match algorithm {
        Algorithm::Hs256 | Algorithm::Hs384 | Algorithm::Hs512 => {
            return Ok((
                Key::from_secret(algorithm, &SECRET)?,
                TokenSigner::from_secret(algorithm, &SECRET)?,
            ));
        }
        Algorithm::Rs256 | Algorithm::Ps256 => {
            let pair = RsaKeyPair::generate(KeySize::Rsa2048)?;
            let private = AsDer::<Pkcs8V1Der<'_>>::as_der(&pair)?.as_ref().to_vec();
            (private, AsDer::<PublicKeyX509Der<'_>>::as_der(pair.public_key())?.as_ref().to_vec())
        }
        Algorithm::Es256 | Algorithm::Es384 => {
            let is_p256 = algorithm == Algorithm::Es256;
            let curve =
                if is_p256 { &ECDSA_P256_SHA256_FIXED_SIGNING } else { &ECDSA_P384_SHA384_FIXED_SIGNING };
            let pair = EcdsaKeyPair::generate(curve)?;
            let private = pair.to_pkcs8v1()?.as_ref().to_vec();
            (private, AsDer::<PublicKeyX509Der<'_>>::as_der(pair.public_key())?.as_ref().to_vec())
        }
        Algorithm::EdDsa => {
            let pair = Ed25519KeyPair::generate()?;
            let private = pair.to_pkcs8v1()?.as_ref().to_vec();
            (private, AsDer::<PublicKeyX509Der<'_>>::as_der(pair.public_key())?.as_ref().to_vec())
        }
    };
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(public));
    Ok((Key::from_pem(&pem, padding)?, TokenSigner::from_pkcs8(&private, padding)?))
}

fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
