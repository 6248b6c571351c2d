//! What would be sent, for people: the requests of a run as they go over the wire.

use super::run::{check, topics_of};
use super::{Kind, Load};
use crate::clock;
use crate::failure::{Failure, Outcome};
use crate::stamp::Stamp;
use crate::target::{Template, Values};

/// The requests, the first of each kind. Nothing is connected.
pub(crate) fn requests(kind: &Kind, load: &Load) -> Outcome<String> {
    check(kind, load)?;
    let templates = load.templates()?;
    let names = topics_of(kind, load)?;
    let mut data = Vec::new();
    let stamp = Stamp { run: 0, topic: 0, sequence: 0, intended: clock::now() };
    stamp.write(load.size, load.payload, &mut data);
    let data = String::from_utf8(data)
        .map_err(|_| Failure::new("the data is no UTF-8; this is a bug of the load test"))?;
    let first = Values { topic: &names[0], ..Values::default() };
    let mut text = String::new();
    let mut add = |title: &str, template: &Template, values: Values<'_>, has_body: bool| -> Outcome<()> {
        let mut bytes = Vec::new();
        match has_body {
            true => template.request(values, &mut bytes)?,
            false => {
                template.head(values, &mut bytes)?;
                bytes.extend_from_slice(b"\r\n");
            }
        }
        let told = String::from_utf8_lossy(&bytes).replace("\r\n", "\n");
        text.push_str(&format!("# {title}\n{}\n\n", told.trim_end()));
        Ok(())
    };
    let publishes = !matches!(kind, Kind::Listen(_)) && load.can_publish();
    if publishes && let Some(prepare) = &templates.prepare {
        add(&format!("before the run, for each of {} topics", names.len()), prepare, first, true)?;
    }
    let title = format!("subscription, {} streams over {} topics", load.subscribers, names.len());
    add(&title, &templates.subscribe, first, false)?;
    if publishes {
        let title = format!("publish, {} events a second for {} s", load.rate, load.duration.as_secs_f64());
        add(&title, &templates.publish, Values { data: &data, ..first }, true)?;
    }
    Ok(text.trim_end().to_owned())
}
