//! `fanfare token`: mints and inspects access tokens, and mints signed URLs, for trying out.
//!
//! No secret and no token is an argument of the command, because other users of the machine can read
//! arguments: secrets come from files, and a token to inspect from the standard input.

use std::error::Error;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use fanfare::Topic;
use fanfare_access::{
    Algorithm, AudienceRule, DEFAULT_MAX_TOKEN_BYTES, Key, KeyRing, KeySet, Pattern, RsaPadding, TokenRules,
    TokenSigner, UnverifiedToken, UrlSigner, Verifier,
};
use serde_json::{Map, Value, json};

use crate::clock::unix_time;
use crate::key_files::{read_secret, read_text};

#[derive(Args)]
pub(crate) struct TokenOptions {
    #[command(subcommand)]
    pub(crate) command: TokenCommand,
}

#[derive(Subcommand)]
pub(crate) enum TokenCommand {
    /// Print a token that is signed with your key
    Mint(MintOptions),
    /// Read a token from the standard input, and say what it grants and whether it is good
    Inspect(InspectOptions),
    /// Print the query of a signed subscribe URL
    Url(UrlOptions),
}

/// The key of a token. One of them is needed.
#[derive(Args)]
#[group(required = true, multiple = false)]
struct SigningKey {
    /// File with the secret of HS256, HS384 or HS512; a line end at its end does not count
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// File with a private key in PEM (PKCS #8): RSA, EC P-256, EC P-384 or Ed25519
    #[arg(long, value_name = "FILE")]
    private_key_file: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct MintOptions {
    #[command(flatten)]
    key: SigningKey,
    /// Algorithm of a secret
    #[arg(long, value_enum, default_value_t = SecretAlgorithm::Hs256)]
    algorithm: SecretAlgorithm,
    /// Sign with PS256 where the key is an RSA key, and not with RS256
    #[arg(long)]
    pss: bool,
    /// Name of the key (kid)
    #[arg(long, value_name = "NAME")]
    kid: Option<String>,
    /// Topics whose private events are seen: a name, a beginning and `*`, or a URI template; may be given
    /// several times
    #[arg(long, value_name = "PATTERN", value_parser = pattern)]
    subscribe: Vec<String>,
    /// Topics that may be published to; may be given several times
    #[arg(long, value_name = "PATTERN", value_parser = pattern)]
    publish: Vec<String>,
    /// The bearer of the token (sub)
    #[arg(long, value_name = "TEXT")]
    subject: Option<String>,
    /// Name of the token itself (jti)
    #[arg(long, value_name = "TEXT")]
    token_id: Option<String>,
    /// The audience of the token (aud)
    #[arg(long, value_name = "TEXT")]
    audience: Option<String>,
    /// The issuer of the token (iss)
    #[arg(long, value_name = "TEXT")]
    issuer: Option<String>,
    /// Time until the token expires
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "1h")]
    lifetime: Duration,
}

/// The algorithms with a secret.
#[derive(Clone, Copy, ValueEnum)]
enum SecretAlgorithm {
    Hs256,
    Hs384,
    Hs512,
}

impl From<SecretAlgorithm> for Algorithm {
    fn from(algorithm: SecretAlgorithm) -> Algorithm {
        match algorithm {
            SecretAlgorithm::Hs256 => Algorithm::Hs256,
            SecretAlgorithm::Hs384 => Algorithm::Hs384,
            SecretAlgorithm::Hs512 => Algorithm::Hs512,
        }
    }
}

/// The key that a token is checked with. Without one, the signature is not checked.
#[derive(Args)]
#[group(required = false, multiple = false)]
struct VerifyingKey {
    /// File with the secret of HS256, HS384 or HS512; a line end at its end does not count
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// File with a public key in PEM
    #[arg(long, value_name = "FILE")]
    public_key_file: Option<PathBuf>,
    /// File with a JWK Set
    #[arg(long, value_name = "FILE")]
    jwks_file: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct InspectOptions {
    #[command(flatten)]
    key: VerifyingKey,
    /// Algorithm of a secret
    #[arg(long, value_enum, default_value_t = SecretAlgorithm::Hs256)]
    algorithm: SecretAlgorithm,
    /// Accept PS256 where the key is an RSA key in PEM, and not RS256
    #[arg(long)]
    pss: bool,
    /// Audience that the token must have [default: any]
    #[arg(long, value_name = "TEXT")]
    audience: Option<String>,
    /// Issuer that the token must have [default: any]
    #[arg(long, value_name = "TEXT")]
    issuer: Option<String>,
    /// Say whether the token covers this topic; may be given several times
    #[arg(long, value_name = "NAME", value_parser = topic)]
    topic: Vec<Topic>,
}

#[derive(Args)]
pub(crate) struct UrlOptions {
    /// File with the secret that signs URLs, of at least 32 bytes; a line end at its end does not count
    #[arg(long, value_name = "FILE")]
    secret_file: PathBuf,
    /// Topic of the URL; may be given several times
    #[arg(long, value_name = "NAME", required = true, value_parser = topic)]
    topic: Vec<Topic>,
    /// The subscriber
    #[arg(long, value_name = "TEXT")]
    subject: Option<String>,
    /// Time until the URL expires
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "1h")]
    lifetime: Duration,
}

pub(crate) fn run(command: &TokenCommand) -> Result<(), Box<dyn Error>> {
    match command {
        TokenCommand::Mint(options) => mint(options),
        TokenCommand::Inspect(options) => inspect(options),
        TokenCommand::Url(options) => url(options),
    }
}

fn mint(options: &MintOptions) -> Result<(), Box<dyn Error>> {
    let signer = match (&options.key.secret_file, &options.key.private_key_file) {
        (Some(file), _) => TokenSigner::from_secret(options.algorithm.into(), &read_secret(file)?)?,
        (None, Some(file)) => TokenSigner::from_pem(&read_text(file)?, padding(options.pss))?,
        (None, None) => return Err("a key is needed: --secret-file or --private-key-file".into()),
    };
    let signer = match &options.kid {
        Some(kid) => signer.with_kid(kid),
        None => signer,
    };
    let now_unix_s = unix_time().as_secs();
    let mut claims = Map::new();
    let texts = [
        ("sub", &options.subject),
        ("jti", &options.token_id),
        ("aud", &options.audience),
        ("iss", &options.issuer),
    ];
    for (name, text) in texts {
        if let Some(text) = text {
            claims.insert(name.to_owned(), json!(text));
        }
    }
    claims.insert("iat".to_owned(), json!(now_unix_s));
    claims.insert("exp".to_owned(), json!(now_unix_s.saturating_add(options.lifetime.as_secs())));
    let grants = json!({"subscribe": options.subscribe, "publish": options.publish});
    claims.insert("fanfare".to_owned(), grants);
    let token = signer.mint(&claims).ok_or("the key does not sign")?;
    // A token that no server would take is told here, and not at the first request.
    UnverifiedToken::read(&token)?;
    if token.len() > DEFAULT_MAX_TOKEN_BYTES {
        return Err(format!("the token would have {} bytes; give it fewer patterns", token.len()).into());
    }
    if options.subscribe.is_empty() && options.publish.is_empty() {
        eprintln!("fanfare: this token grants nothing; name topics with --subscribe or --publish");
    }
    println!("{token}");
    Ok(())
}

fn inspect(options: &InspectOptions) -> Result<(), Box<dyn Error>> {
    let mut token = String::new();
    io::stdin().take(DEFAULT_MAX_TOKEN_BYTES as u64 + 2).read_to_string(&mut token)?;
    let token = token.trim();
    if token.is_empty() {
        return Err("write the token to the standard input: fanfare token inspect < FILE".into());
    }
    let read = UnverifiedToken::read(token)?;
    println!("header: {}", pretty(&read.header)?);
    println!("claims: {}", pretty(&read.claims)?);
    let Some(keys) = keys(options)? else {
        println!("signature: not checked, because no key was given");
        return Ok(());
    };
    let mut rules = TokenRules::default();
    rules.audience = match &options.audience {
        Some(audience) => AudienceRule::OneOf(vec![audience.clone()]),
        None => AudienceRule::Any,
    };
    rules.issuers = options.issuer.iter().cloned().collect();
    rules.demands_expiry = false;
    let now_unix_s = unix_time().as_secs();
    let verified = Verifier::new(Arc::new(KeyRing::of(keys)), rules).verify(token, now_unix_s)?;
    println!("signature: good");
    match verified.expires_unix_s() {
        Some(expires) => {
            let left = Duration::from_secs(expires.saturating_sub(now_unix_s));
            println!("expires: in {}", humantime::format_duration(left));
        }
        None => println!("expires: never; a server refuses such a token unless it is told otherwise"),
    }
    for topic in &options.topic {
        let word = |is_so: bool| if is_so { "yes" } else { "no" };
        let sees = word(verified.grants().covers(topic));
        let publishes = word(verified.grants().may_publish(std::slice::from_ref(topic)).is_ok());
        println!("topic {topic}: sees private events: {sees}; may publish: {publishes}");
    }
    Ok(())
}

fn url(options: &UrlOptions) -> Result<(), Box<dyn Error>> {
    let secret = read_secret(&options.secret_file)?;
    let signer = UrlSigner::new([secret.as_slice()])?;
    let expires_unix_s = unix_time().as_secs().saturating_add(options.lifetime.as_secs());
    println!("{}", signer.mint(&options.topic, expires_unix_s, options.subject.as_deref())?);
    Ok(())
}

fn keys(options: &InspectOptions) -> Result<Option<KeySet>, Box<dyn Error>> {
    let VerifyingKey { secret_file, public_key_file, jwks_file } = &options.key;
    let key = if let Some(file) = secret_file {
        Key::from_secret(options.algorithm.into(), &read_secret(file)?)?
    } else if let Some(file) = public_key_file {
        Key::from_pem(&read_text(file)?, padding(options.pss))?
    } else if let Some(file) = jwks_file {
        return Ok(Some(KeySet::from_jwks(&read_text(file)?)?));
    } else {
        return Ok(None);
    };
    Ok(Some(KeySet::new(vec![key])?))
}

fn padding(pss: bool) -> RsaPadding {
    if pss { RsaPadding::Pss } else { RsaPadding::Pkcs1 }
}

fn pretty(json: &str) -> Result<String, serde_json::Error> {
    serde_json::to_string_pretty(&serde_json::from_str::<Value>(json)?)
}

fn pattern(text: &str) -> Result<String, String> {
    Pattern::parse(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

fn topic(text: &str) -> Result<Topic, String> {
    Topic::new(text).map_err(|error| error.to_string())
}
