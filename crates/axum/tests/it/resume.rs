//! Clients that come back.

use std::time::Duration;

use fanfare::Engine;

use crate::client::{Client, Events, Head};
use crate::servers::{builders, engine, publish, router, serve};

async fn subscribe(address: std::net::SocketAddr, target: &str, id: &str) -> (Head, Events) {
    let id = if id.is_empty() { String::new() } else { format!("\nLast-Event-ID: {id}") };
    Client::with(address, &format!("GET {target} HTTP/1.1\nHost: h{id}")).await.stream().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_comes_back_misses_nothing_and_sees_nothing_twice() {
    for (name, builder) in builders() {
        let engine = builder.start().unwrap();
        let hub = engine.hub();
        let address = serve(router(&hub)).await;
        let (_, mut first) = subscribe(address, "/events/a", "").await;
        first.open().await;
        publish(&hub, "a", "1");
        first.wait_for(1).await;
        let id = first.last_id();
        drop(first);
        publish(&hub, "a", "2");
        publish(&hub, "b", "another");
        let newest = publish(&hub, "a", "3");
        let by_header = subscribe(address, "/events/a", &id).await;
        let by_query = subscribe(address, &format!("/events/a?lastEventId={id}"), "").await;
        let both = subscribe(address, "/events/a?last_event_id=earliest", &id).await;
        for (head, mut again) in [by_header, by_query, both] {
            assert_eq!(head.field("fanfare-gap"), None, "{name}");
            again.wait_for(2).await;
            assert_eq!(again.data(), ["2", "3"], "{name}");
            assert_eq!(again.last_id(), newest, "{name}");
        }
        let (_, mut all) = subscribe(address, "/events/a?last_event_id=earliest", "").await;
        all.wait_for(3).await;
        assert_eq!(all.data(), ["1", "2", "3"], "{name}");
        let (_, mut new) = subscribe(address, "/all/a", "").await;
        new.wait_for(3).await;
        let (_, mut resumed) = subscribe(address, "/all/a", &id).await;
        resumed.wait_for(2).await;
        assert_eq!((new.data(), resumed.data()), (vec!["1", "2", "3"], vec!["2", "3"]), "{name}");
        let (head, mut unknown) = subscribe(address, "/events/a", "zzz-1").await;
        assert_eq!(head.field("fanfare-gap").as_deref(), Some("true"), "{name}");
        assert_eq!(unknown.wait_for(1).await[0].kind, "fanfare.gap", "{name}");
    }
}

/// What an `EventSource` does: it reads until the connection ends, waits for the time of `retry`, and comes
/// back with its last id. The server is another one by then, which goes on with the numbers of the first.
#[tokio::test(flavor = "multi_thread")]
async fn a_browser_resumes_after_a_restart() {
    let first = engine();
    let hub = first.hub();
    let address = serve(router(&hub)).await;
    let (_, mut events) = subscribe(address, "/events/a", "").await;
    events.open().await;
    publish(&hub, "a", "before");
    events.wait_for(1).await;
    let (id, text) = (events.last_id(), events.text());
    let retry = text.lines().find_map(|line| line.strip_prefix("retry: ")).unwrap();
    assert!(retry.parse::<u64>().unwrap() > 0, "{text}");
    let head_of_log = hub.head();
    first.stop_async(Duration::from_millis(20)).await.unwrap();
    assert!(events.ends_whole().await);

    let second = Engine::builder().shards(1).begin_after(head_of_log).start().unwrap();
    let hub = second.hub();
    let address = serve(router(&hub)).await;
    publish(&hub, "a", "meanwhile");
    let (head, mut events) = subscribe(address, "/events/a", &id).await;
    assert_eq!(head.field("fanfare-gap"), None);
    events.wait_for(1).await;
    publish(&hub, "a", "after");
    events.wait_for(2).await;
    assert_eq!(events.data(), ["meanwhile", "after"]);
}

/// An id of another log is a gap, which the client is told; then it gets everything new.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_with_an_empty_log_is_a_gap() {
    let (first, second) = (engine(), engine());
    let id = publish(&first.hub(), "a", "lost");
    let address = serve(router(&second.hub())).await;
    let (head, mut events) = subscribe(address, "/events/a", &id).await;
    assert_eq!(head.field("fanfare-gap").as_deref(), Some("true"));
    assert_eq!(events.wait_for(1).await[0].kind, "fanfare.gap");
    publish(&second.hub(), "a", "new");
    assert_eq!(events.wait_for(2).await[1].data, "new");
}
