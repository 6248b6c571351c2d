//! What nodes tell each other, and keep together.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use fanfare_backplane::{NatsBackplane, TellError};

use crate::support::{PATIENCE, options, server, wait_for};

fn see_each_other(nodes: &[Arc<NatsBackplane>]) {
    for node in nodes {
        wait_for("the other nodes", || (node.others().len() + 1 == nodes.len()).then_some(()));
    }
}

#[test]
fn nodes_see_each_other_and_tell_and_ask() {
    let server = server();
    let nodes: Vec<Arc<NatsBackplane>> = ["x", "y", "z"]
        .map(|name| NatsBackplane::connect(options(&server).name(name)).unwrap())
        .into_iter()
        .collect();
    see_each_other(&nodes);
    assert!(nodes[0].node_name().starts_with("x-"), "{}", nodes[0].node_name());
    assert!(nodes[0].others().contains(&nodes[1].node_name().to_owned()));

    let heard = Arc::new(Mutex::new(Vec::new()));
    for (index, node) in nodes.iter().enumerate() {
        let heard = Arc::clone(&heard);
        node.on_message("news", move |from, payload| {
            heard.lock().unwrap().push((index, from.to_owned(), payload.to_vec()));
        })
        .unwrap();
        node.on_question("size", move |_, payload| [payload, &[b'0' + index as u8]].concat()).unwrap();
    }
    nodes[0].broadcast("news", b"hello".to_vec()).unwrap();
    nodes[0].broadcast("unknown", Vec::new()).unwrap();
    wait_for("the messages", || (heard.lock().unwrap().len() == 2).then_some(()));
    let mut got = heard.lock().unwrap().clone();
    got.sort_unstable();
    let from = nodes[0].node_name().to_owned();
    assert_eq!(got, [(1, from.clone(), b"hello".to_vec()), (2, from, b"hello".to_vec())]);

    let mut answers = nodes[1].ask("size", b"n".to_vec(), PATIENCE).unwrap();
    answers.sort_unstable();
    let wanted =
        [0, 2].map(|index: usize| (nodes[index].node_name().to_owned(), format!("n{index}").into_bytes()));
    assert_eq!(answers, wanted);
    assert_eq!(nodes[0].ask("nobody", Vec::new(), Duration::from_millis(100)), Ok(Vec::new()));

    assert_eq!(nodes[0].broadcast("no kind", Vec::new()), Err(TellError::Kind));
    assert!(matches!(nodes[0].broadcast("news", vec![0; 2 << 20]), Err(TellError::TooLarge { .. })));
    let gone = nodes[2].node_name().to_owned();
    fanfare::Backplane::end(&*nodes[2]);
    wait_for("the end of a node", || (!nodes[0].others().contains(&gone)).then_some(()));
}

#[test]
fn nodes_share_values() {
    let server = server();
    let nodes = [(); 2].map(|()| NatsBackplane::connect(options(&server)).unwrap());
    assert_eq!(nodes[0].get("colour").unwrap(), None);
    assert!(nodes[0].put("colour", b"red".to_vec(), None).unwrap());
    let found = nodes[1].get("colour").unwrap().unwrap();
    assert_eq!(found.value, b"red");
    assert!(nodes[1].put("colour", b"green".to_vec(), Some(found.revision)).unwrap());
    assert!(
        !nodes[0].put("colour", b"blue".to_vec(), Some(found.revision)).unwrap(),
        "it has another value now"
    );
    assert!(!nodes[0].put("colour", b"blue".to_vec(), Some(0)).unwrap(), "it was set before");
    assert!(nodes[0].put("shape", b"round".to_vec(), Some(0)).unwrap());
    assert!(nodes[0].get("no key").is_err());

    let seen = Arc::new(Mutex::new(std::collections::BTreeMap::new()));
    let watched = Arc::clone(&seen);
    nodes[1].watch(move |key, value| {
        watched.lock().unwrap().insert(key.to_owned(), value.map(<[u8]>::to_vec));
    });
    let has = |key: &str, value: Option<&[u8]>| {
        wait_for("a value", || {
            (seen.lock().unwrap().get(key) == Some(&value.map(<[u8]>::to_vec))).then_some(())
        });
    };
    has("colour", Some(b"green"));
    has("shape", Some(b"round"));
    nodes[0].put("shape", b"square".to_vec(), None).unwrap();
    has("shape", Some(b"square"));
    let mut other = server.client().unwrap();
    other.publish_acked("$KV.FANFARE_state.shared.shape", &[("KV-Operation", "DEL")], b"").unwrap();
    has("shape", None);
    assert_eq!(nodes[0].get("shape").unwrap(), None);
    // One that was deleted is none.
    assert!(nodes[1].put("shape", b"oval".to_vec(), Some(0)).unwrap());
    has("shape", Some(b"oval"));
    assert!(!nodes[0].put("shape", b"round".to_vec(), Some(0)).unwrap());
}
