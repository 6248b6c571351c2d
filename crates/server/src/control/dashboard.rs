//! `/dashboard`: a page that shows what the server does, and the stream of figures that feeds it.
//!
//! The stream is Server-Sent Events, and its frames are made by the engine's own encoder. But no shard serves
//! it: subscribers of the public listeners have no way to it. Figures are made once for all dashboards, and
//! only while there is one. A dashboard that does not read gets the newest figures when it reads again, and
//! nothing is kept for it.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, Method, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use fanfare_proto::frame::{encode_unnumbered, prelude};
use tokio::sync::{Semaphore, watch};
use tokio::time::MissedTickBehavior;
use tokio_stream::wrappers::WatchStream;
use tokio_stream::{Stream, StreamExt};

use super::admin::Admin;
use super::limits::{DASHBOARDS, FIGURES_EVERY};
use super::problem::Problem;
use super::requests::StaysOpen;
use super::routes::{only, static_file};
use fanfare::ProblemKind;

/// The type of the events.
const FIGURES: &str = "figures";

/// How long a dashboard waits before it connects again.
const RETRY: Duration = Duration::from_secs(1);

/// The page has nothing from elsewhere.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub(super) fn router() -> Router<Arc<Admin>> {
    const HTML: &str = "text/html; charset=utf-8";
    const CSS: &str = "text/css; charset=utf-8";
    const SCRIPT: &str = "text/javascript; charset=utf-8";
    let file = |content_type, text| static_file(content_type, CONTENT_SECURITY_POLICY, text);
    Router::new()
        .route("/dashboard", file(HTML, include_str!("../page/dashboard.html")))
        .route("/dashboard/style.css", file(CSS, include_str!("../page/style.css")))
        .route("/dashboard/dashboard.css", file(CSS, include_str!("../page/dashboard.css")))
        .route("/dashboard/dashboard.js", file(SCRIPT, include_str!("../page/dashboard.js")))
        .route("/dashboard/uPlot.css", file(CSS, include_str!("../page/vendor/uPlot.min.css")))
        .route("/dashboard/uPlot.js", file(SCRIPT, include_str!("../page/vendor/uPlot.iife.min.js")))
        .route("/dashboard/events", only(get(events), "GET, HEAD"))
}

async fn events(State(admin): State<Arc<Admin>>, method: Method, headers: HeaderMap) -> Response {
    // The page of another site cannot read the answer, but it could take all places.
    let mut sites = headers.get_all("sec-fetch-site").iter();
    if !sites.all(|site| matches!(site.as_bytes(), b"same-origin" | b"none")) {
        return Problem::new(
            ProblemKind::OriginNotAllowed,
            "pages of other origins may not read the figures",
        )
        .into_response();
    }
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store, no-cache, no-transform"),
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    if method == Method::HEAD {
        // No stream follows, so its connection becomes idle as behind every answer.
        return headers.into_response();
    }
    let watched = Arc::clone(&admin);
    let observe = move || {
        let mut observer = watched.metrics.observer();
        move || observer.figures()
    };
    let Some(stream) = admin.dashboards.open(observe) else {
        let detail = format!("{DASHBOARDS} dashboards are open, which is the most; close one of them");
        return Problem::new(ProblemKind::DashboardsFull, detail).header("Retry-After", "5").into_response();
    };
    let mut response = (headers, Body::from_stream(stream.map(Ok::<_, Infallible>))).into_response();
    response.extensions_mut().insert(StaysOpen);
    response
}

/// The frames of one dashboard. It has its place until they are dropped.
type Frames = Pin<Box<dyn Stream<Item = Bytes> + Send>>;

/// The dashboards that are open, and the figures that they show.
pub(super) struct Dashboards {
    places: Arc<Semaphore>,
    /// The frame of the newest figures.
    newest: watch::Sender<Bytes>,
    /// Whether the task that makes figures runs.
    is_watched: AtomicBool,
}

impl Default for Dashboards {
    fn default() -> Dashboards {
        Dashboards {
            places: Arc::new(Semaphore::new(DASHBOARDS)),
            newest: watch::Sender::new(Bytes::new()),
            is_watched: AtomicBool::new(false),
        }
    }
}

impl Dashboards {
    /// The stream of one more dashboard: the newest figures, and all later ones. For the first dashboard,
    /// `observe` returns the maker of figures, which is dropped after the last dashboard. `None`: the bound
    /// of dashboards is reached.
    fn open<M: FnMut() -> String + Send + 'static>(
        self: &Arc<Dashboards>,
        observe: impl FnOnce() -> M,
    ) -> Option<Frames> {
        let place = Arc::clone(&self.places).try_acquire_owned().ok()?;
        if !self.is_watched.swap(true, Ordering::Relaxed) {
            let watched = Watched(Arc::clone(self));
            let mut figures = observe();
            self.newest.send_replace(frame(&figures()));
            tokio::spawn(watched.run(figures));
        }
        let mut first = Vec::new();
        prelude(RETRY.as_millis() as u64, &mut first);
        let figures = WatchStream::new(self.newest.subscribe());
        Some(Box::pin(tokio_stream::once(Bytes::from(first)).chain(figures).map(move |bytes| {
            let _place = &place;
            bytes
        })))
    }
}

/// Marks that figures are made, until it is dropped.
struct Watched(Arc<Dashboards>);

impl Watched {
    /// Makes figures while there are dashboards.
    async fn run(self, mut figures: impl FnMut() -> String) {
        let mut times = tokio::time::interval(FIGURES_EVERY);
        times.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first one is at once.
        times.tick().await;
        loop {
            times.tick().await;
            let Dashboards { newest, .. } = &*self.0;
            // One thread runs this and opens dashboards, so that none is opened between here and the end.
            if newest.receiver_count() == 0 {
                return;
            }
            newest.send_replace(frame(&figures()));
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.0.is_watched.store(false, Ordering::Relaxed);
    }
}

fn frame(figures: &str) -> Bytes {
    let mut frame = Vec::new();
    encode_unnumbered(Some(FIGURES), figures, &mut frame);
    frame.into()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    /// Figures that count themselves.
    fn counter(made: &Arc<AtomicU32>) -> impl FnMut() -> String + Send + use<> {
        let made = Arc::clone(made);
        move || (made.fetch_add(1, Ordering::Relaxed) + 1).to_string()
    }

    async fn next(stream: &mut Frames) -> String {
        let bytes = stream.next().await.expect("it has no end");
        String::from_utf8(bytes.to_vec()).expect("text")
    }

    /// Figures are made once for all, and only while there is a dashboard.
    #[tokio::test(start_paused = true)]
    async fn figures_are_made_while_there_is_a_dashboard_and_once_for_all() {
        let (dashboards, made) = (Arc::new(Dashboards::default()), Arc::new(AtomicU32::new(0)));
        let made_now = || made.load(Ordering::Relaxed);
        let open = || dashboards.open(|| counter(&made)).expect("there is room");
        tokio::time::sleep(100 * FIGURES_EVERY).await;
        assert_eq!(made_now(), 0, "nothing is made for no dashboard");

        let [mut one, mut other] = [open(), open()];
        for stream in [&mut one, &mut other] {
            assert_eq!(next(stream).await, ":\nretry: 1000\n");
            assert_eq!(next(stream).await, "event: figures\ndata: 1\n\n");
        }
        for number in 2..5 {
            for stream in [&mut one, &mut other] {
                assert_eq!(next(stream).await, format!("event: figures\ndata: {number}\n\n"));
            }
        }
        drop(one);
        assert_eq!(next(&mut other).await, "event: figures\ndata: 5\n\n");
        drop(other);
        tokio::time::sleep(100 * FIGURES_EVERY).await;
        assert_eq!(made_now(), 5, "figures are made for no dashboard");
        assert_eq!(Arc::strong_count(&made), 1, "what makes them is kept");

        // A new one begins with new figures.
        let mut third = open();
        next(&mut third).await;
        assert_eq!(next(&mut third).await, "event: figures\ndata: 6\n\n");
    }

    #[tokio::test(start_paused = true)]
    async fn a_dashboard_that_does_not_read_gets_the_newest_figures_alone() {
        let (dashboards, made) = (Arc::new(Dashboards::default()), Arc::new(AtomicU32::new(0)));
        let mut slow = dashboards.open(|| counter(&made)).expect("there is room");
        next(&mut slow).await;
        tokio::time::sleep(1000 * FIGURES_EVERY + FIGURES_EVERY / 2).await;
        assert_eq!(next(&mut slow).await, "event: figures\ndata: 1001\n\n");
        assert_eq!(next(&mut slow).await, "event: figures\ndata: 1002\n\n");
    }

    #[tokio::test(start_paused = true)]
    async fn there_are_so_many_dashboards_and_no_more() {
        let (dashboards, made) = (Arc::new(Dashboards::default()), Arc::new(AtomicU32::new(0)));
        let open = || dashboards.open(|| counter(&made));
        let mut all: Vec<_> = (0..DASHBOARDS).map(|_| open().expect("there is room")).collect();
        assert!(open().is_none());
        all.pop();
        assert!(open().is_some());
    }

    /// Figures that panic once would have been the last ones.
    #[tokio::test(start_paused = true)]
    async fn figures_that_fail_are_made_again_for_the_next_dashboard() {
        let (dashboards, made) = (Arc::new(Dashboards::default()), Arc::new(AtomicU32::new(0)));
        let failing = || {
            let mut count = counter(&made);
            move || {
                let text = count();
                assert_ne!(text, "2", "this is the test's own panic");
                text
            }
        };
        let _first = dashboards.open(failing).expect("there is room");
        tokio::time::sleep(10 * FIGURES_EVERY).await;
        let mut second = dashboards.open(|| counter(&made)).expect("there is room");
        next(&mut second).await;
        assert_eq!(next(&mut second).await, "event: figures\ndata: 3\n\n");
        assert_eq!(next(&mut second).await, "event: figures\ndata: 4\n\n");
    }
}
