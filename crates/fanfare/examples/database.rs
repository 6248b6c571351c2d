//! An admission that asks a database, without a thread for each question: it gives a ticket to a task, and
//! the request waits for it. The "database" knows the sessions `ada` and `bob`, and takes as many
//! milliseconds as the first argument says.
//!
//! Try `curl -N -b session=ada 'http://127.0.0.1:8844/events?topic=news'`, and the same with another session.

use std::time::Duration;

use fanfare::{Admission, Decision, Engine, Event, Refusal, Request, Subscribe, Topic};
use tokio::runtime::{Handle, Runtime};
use tokio::time::sleep;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let wait = Duration::from_millis(std::env::args().nth(1).map_or(Ok(50), |text| text.parse())?);
    let runtime = Runtime::new()?;
    let admission = admission(runtime.handle().clone(), wait);
    let engine = Engine::builder().listen("127.0.0.1:8844".parse()?).admission(admission).start()?;
    println!("curl -N -b session=ada 'http://{}/events?topic=news'", engine.addresses()[0]);
    let (hub, news) = (engine.hub(), Topic::new("news")?);
    loop {
        std::thread::sleep(Duration::from_secs(1));
        hub.publish_wait(&mut vec![Event::new(news.clone()).with_data("tick")], Duration::from_secs(1))?;
    }
}

pub(crate) fn admission(tasks: Handle, wait: Duration) -> impl Admission {
    move |request: &Request<'_>| {
        // What the task needs of the request is taken out of it now.
        let subscribe = Subscribe::from_request(request, 8);
        let session = session(request).map(str::to_owned);
        let (later, ticket) = Decision::later();
        tasks.spawn(async move {
            ticket.decide(match (subscribe, user_of(session.as_deref(), wait).await) {
                (Ok(subscribe), Some(user)) => match subscribe.with_subject(user) {
                    Ok(subscribe) => Decision::Subscribe(subscribe),
                    Err(error) => Decision::Refuse(Refusal::new(400, error.to_string())),
                },
                (Ok(_), None) => {
                    Decision::Refuse(Refusal::new(401, "sign in first: there is no such session"))
                }
                (Err(error), _) => Decision::Refuse(error.into()),
            });
        });
        later
    }
}

/// The cookie `session`.
fn session<'a>(request: &Request<'a>) -> Option<&'a str> {
    let cookies = std::str::from_utf8(request.header("cookie")?).ok()?;
    cookies.split("; ").find_map(|cookie| cookie.strip_prefix("session="))
}

/// The database: whose session this is.
async fn user_of(session: Option<&str>, wait: Duration) -> Option<String> {
    sleep(wait).await;
    session.filter(|session| ["ada", "bob"].contains(session)).map(str::to_owned)
}
