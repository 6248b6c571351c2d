//! What has to come: items, separated by `;`, in the order in which they have to come.
//!
//! | item | means |
//! |---|---|
//! | `400` | an answer with this status; from 400 on it is `application/problem+json` with a reason |
//! | `head 200` | an answer to a `HEAD` |
//! | `Allow: GET, HEAD` | the last answer has exactly this field |
//! | `no Upgrade` | the last answer has no such field |
//! | `body live\n` | the last answer's body has this in it |
//! | `stream a/b` | a stream begins, and what is published to `a/b` comes on it; nothing follows this |
//! | `more a/b` | what is published to `a/b` after that comes on the stream, too |
//! | `end` | the connection ends, and nothing more came |
//! | `open` | nothing more came, and the connection takes another request |
//! | `either` | as `end` where the last answer says so, else as `open`: a shard ends with a refusal, the control plane need not |
//! | `delivers x` | the topic `allowed` has an event with the data `x` from this, whenever; anything else there is smuggled |

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Item {
    Answer { status: u16, to_head: bool },
    Field(String, String),
    NoField(String),
    Body(String),
    Stream(String),
    More(String),
    End,
    Open,
    Either,
    Delivers(String),
}

pub(crate) fn items(text: &str) -> Result<Vec<Item>, String> {
    text.split("; ").map(|item| parse(item).ok_or_else(|| format!("not an item: {item:?}"))).collect()
}

fn parse(item: &str) -> Option<Item> {
    let (word, rest) = item.split_once(' ').unwrap_or((item, ""));
    if let Some(name) = word.strip_suffix(':') {
        return Some(Item::Field(name.to_owned(), rest.to_owned()));
    }
    Some(match (word, rest) {
        ("end", "") => Item::End,
        ("open", "") => Item::Open,
        ("either", "") => Item::Either,
        ("head", status) => Item::Answer { status: status.parse().ok()?, to_head: true },
        ("no", name) => Item::NoField(name.to_owned()),
        ("body", part) => Item::Body(part.to_owned()),
        ("stream", topic) => Item::Stream(topic.to_owned()),
        ("more", topic) => Item::More(topic.to_owned()),
        ("delivers", data) => Item::Delivers(data.to_owned()),
        (status, "") => Item::Answer { status: status.parse().ok()?, to_head: false },
        _ => return None,
    })
}
