//! What would be sent, for people: the requests of a run as they go over the wire.

use super::run::{Asked, asked, check};
use super::{Kind, Load};
use crate::clock;
use crate::failure::{Failure, Outcome};
use crate::stamp::Stamp;
use crate::target::{Template, Values};

/// The requests, the first of each kind. Nothing is sent. Where a host has several addresses, the one at
/// which a connection is taken is found, as in a run.
pub(crate) fn requests(kind: &Kind, load: &Load) -> Outcome<String> {
    check(kind, load)?;
    let templates = load.templates()?;
    let asked = asked(kind, load, &templates)?;
    let subscriptions = asked.subscriptions(load, &templates)?;
    let Asked { groups, names, .. } = asked;
    let topics = match names.len() {
        1 => "one topic".to_owned(),
        several => format!("{several} topics"),
    };
    let mut data = Vec::new();
    let stamp = Stamp { run: 0, topic: 0, sequence: 0, intended: clock::now() };
    stamp.write(load.size, load.payload, &mut data);
    let data = String::from_utf8(data)
        .map_err(|_| Failure::new("the data is no UTF-8; this is a bug of the load test"))?;
    let first = Values { topic: &names[0], ..Values::default() };
    let mut text = String::new();
    let mut add = |title: &str, bytes: &[u8]| {
        let told = String::from_utf8_lossy(bytes).replace("\r\n", "\n");
        text.push_str(&format!("# {title}\n{}\n\n", told.trim_end()));
    };
    let request = |template: &Template, values: Values<'_>| -> Outcome<Vec<u8>> {
        let mut bytes = Vec::new();
        template.request(None, values, &mut bytes)?;
        Ok(bytes)
    };
    let publishes = !matches!(kind, Kind::Listen(_)) && load.can_publish();
    if publishes && let Some(prepare) = &templates.prepare {
        add(&format!("before the run, once for each of {topics}"), &request(prepare, first)?);
    }
    let title = format!("subscription, {} streams over {topics}", load.subscribers);
    let mut subscription = Vec::new();
    subscriptions.request(0, &groups[0].topics_of(0), &[], &mut subscription)?;
    add(&title, &subscription);
    if publishes {
        let title = format!("publish, {} events a second for {} s", load.rate, load.duration.as_secs_f64());
        add(&title, &request(&templates.publish, Values { data: &data, ..first })?);
    }
    Ok(text.trim_end().to_owned())
}
