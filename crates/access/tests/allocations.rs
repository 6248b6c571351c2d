//! What a question about revocations allocates: nothing, because it is asked for each subscription and each
//! publish.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

mod support;

use std::alloc::System;

use cap::Cap;
use fanfare_access::{Algorithm, Key, KeyRing, Revocations, Revoked, TokenRules, TokenSigner, Verifier};
use serde_json::json;
use support::{NOW, SECRET, mint};

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

/// Each question copied both names of the token. One test, because the allocator counts for the whole
/// process.
#[test]
fn a_question_about_revocations_allocates_nothing() {
    let signer = TokenSigner::from_secret(Algorithm::Hs256, SECRET).unwrap();
    let ring = KeyRing::of_key(Key::from_secret(Algorithm::Hs256, SECRET).unwrap());
    let verifier = Verifier::new(ring.into(), TokenRules::default());
    let verified = |subject: &str, id: &str| {
        let claims = json!({ "exp": NOW + 100, "iat": NOW, "sub": subject, "jti": id });
        verifier.verify(&mint(&signer, &claims), NOW).unwrap()
    };
    let tokens = [verified("ada", "a1"), verified("bob", "b1"), verified("eve", "e1")];
    let list = Revocations::default();
    list.revoke(Revoked::Subject("ada".into()), NOW, NOW + 100).unwrap();
    list.revoke(Revoked::TokenId("b1".into()), NOW, NOW + 100).unwrap();
    // From here on, an allocation finds no memory, which ends the process.
    ALLOCATOR.set_limit(ALLOCATOR.allocated()).unwrap();
    let barred = [0, 1, 2].map(|index| list.bars(&tokens[index], NOW));
    ALLOCATOR.set_limit(usize::MAX).unwrap();
    assert_eq!(barred, [true, true, false]);
}
