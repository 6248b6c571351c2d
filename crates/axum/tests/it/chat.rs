//! The test of the example `chat`, as its author would write it.

use std::time::Duration;

use fanfare::Engine;
use fanfare_axum::testing::{get, post};

use crate::examples::chat::app;

#[tokio::test]
async fn two_users_talk_in_a_room() {
    let engine = Engine::builder().presence_linger(Duration::ZERO).start().unwrap();
    let app = app(engine.hub());
    let mut ann = get(&app, "/room/tea/talk?name=Ann").await.unwrap();
    let mut seen = async |kind: &str, data: &str| {
        let event = ann.next().await.unwrap().unwrap();
        assert_eq!((event.kind(), event.data()), (kind, data));
    };
    seen("join", "Ann").await;
    let bob = get(&app, "/room/tea/talk?name=Bob").await.unwrap();
    seen("join", "Bob").await;
    assert_eq!(post(&app, "/room/tea/talk?name=Bob", "hello").await.unwrap().status(), 200);
    seen("message", "Bob: hello").await;
    drop(bob);
    seen("leave", "Bob").await;
    let members = get(&app, "/room/tea/members").await.unwrap();
    assert_eq!(members.text().await.unwrap(), "Ann");
}
