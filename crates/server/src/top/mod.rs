//! `fanfare top`: the figures of the dashboard in a terminal. It reads the same stream.

mod screen;

use std::collections::VecDeque;
use std::io::{self, IsTerminal};
use std::time::Duration;

use fanfare::{Decoded, Decoder};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use crate::back_off::BackOff;
use crate::cli::{ServerOptions, TopOptions};
use crate::command_server::{Attempt, Failure, Server, block_on, late, write_output};

/// The longest event that is taken, in bytes. That of a server with hundreds of shards is shorter.
const EVENT_BYTES: usize = 1 << 20;

/// Seconds of the drawing of deliveries.
const HISTORY: usize = 300;

/// The longest wait before a new connection.
const MOST_WAIT: Duration = Duration::from_secs(5);

/// The state that the screen shows.
#[derive(Debug, Default)]
struct View {
    /// The newest figures. Null before the first ones.
    figures: Value,
    /// Deliveries of each of the last seconds, the newest last.
    deliveries: VecDeque<u64>,
    /// Since when there is no stream, and why.
    lost: Option<(Instant, String)>,
}

impl View {
    fn take(&mut self, figures: Value) {
        if let Some(rate) = figures["rates"]["deliveries"].as_f64() {
            self.deliveries.push_back(rate.round() as u64);
            if self.deliveries.len() > HISTORY {
                self.deliveries.pop_front();
            }
        }
        self.figures = figures;
        self.lost = None;
    }

    fn has_rates(&self) -> bool {
        self.figures["rates"].is_object()
    }

    fn lose(&mut self, reason: String) {
        let since = self.lost.take().map_or_else(Instant::now, |(since, _)| since);
        self.lost = Some((since, reason));
    }
}

pub(crate) fn top(options: &TopOptions) -> Result<(), Failure> {
    // The address of the page means the same.
    let url = options.url.trim_end_matches('/');
    let url = url.strip_suffix("/dashboard").unwrap_or(url);
    let server = Server::new(&ServerOptions {
        token_file: None,
        url: format!("{url}/dashboard"),
        connect_timeout: options.connect_timeout,
        timeout: options.timeout,
    })?;
    if options.once || !io::stdout().is_terminal() {
        return block_on(print(&server, options.timeout));
    }
    let terminal = ratatui::try_init().map_err(|error| Failure::Local(format!("no terminal: {error}")))?;
    let result = block_on(show(&server, options.timeout, terminal));
    ratatui::restore();
    result
}

/// Prints the figures of one second.
async fn print(server: &Server, patience: Duration) -> Result<(), Failure> {
    let mut figures = Figures::open(server, patience).await?;
    let mut view = View::default();
    while !view.has_rates() {
        let next = figures.next().await?;
        view.take(next);
    }
    write_output(screen::text(&view).as_bytes())?;
    Ok(())
}

/// Shows figures until the user ends it.
async fn show(server: &Server, patience: Duration, mut terminal: DefaultTerminal) -> Result<(), Failure> {
    let mut keys = keys();
    let mut view = View::default();
    let mut back_off = BackOff::default();
    let mut figures: Option<Figures> = None;
    loop {
        draw(&mut terminal, &view)?;
        let next = async {
            match &mut figures {
                Some(figures) => figures.next().await.map(Next::Figures),
                None => Figures::open(server, patience).await.map(Next::Stream),
            }
        };
        tokio::select! {
            key = keys.recv() => match key {
                // Another size of the terminal.
                Some(Key::Redraw) => {}
                Some(Key::End) | None => return Ok(()),
            },
            next = next => match next {
                Ok(Next::Stream(stream)) => figures = Some(stream),
                Ok(Next::Figures(now)) => {
                    back_off.has_succeeded();
                    view.take(now);
                }
                // A server that was never there is a mistake; one that was will come back.
                Err(failure) if view.figures.is_null() => return Err(failure),
                Err(failure) => {
                    figures = None;
                    view.lose(failure.to_string());
                    draw(&mut terminal, &view)?;
                    let wait = back_off.next(None).min(MOST_WAIT);
                    tokio::select! {
                        () = sleep(wait) => {}
                        key = keys.recv() => if !matches!(key, Some(Key::Redraw)) { return Ok(()) },
                    }
                }
            },
        }
    }
}

enum Next {
    Stream(Figures),
    Figures(Value),
}

fn draw(terminal: &mut DefaultTerminal, view: &View) -> Result<(), Failure> {
    let drawn = terminal.draw(|frame| screen::draw(view, frame.area(), frame.buffer_mut()));
    drawn.map(drop).map_err(|error| Failure::Local(format!("cannot write to the terminal: {error}")))
}

/// An action of the user.
enum Key {
    Redraw,
    End,
}

/// Reads the keyboard on a thread of its own, which ends with the process.
fn keys() -> mpsc::Receiver<Key> {
    let (sender, keys) = mpsc::channel(16);
    std::thread::spawn(move || {
        loop {
            let key = match event::read() {
                Ok(Event::Resize(..)) => Key::Redraw,
                Ok(Event::Key(key)) if key.kind == KeyEventKind::Press => {
                    let is_control_c =
                        key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
                    match key.code {
                        KeyCode::Char('q') | KeyCode::Esc => Key::End,
                        _ if is_control_c => Key::End,
                        _ => continue,
                    }
                }
                Ok(_) => continue,
                Err(_) => Key::End,
            };
            let is_end = matches!(key, Key::End);
            if sender.blocking_send(key).is_err() || is_end {
                return;
            }
        }
    });
    keys
}

/// The stream of figures.
struct Figures {
    body: Incoming,
    decoder: Decoder,
    /// Figures that have come and were not asked for yet.
    waiting: VecDeque<Value>,
    patience: Duration,
}

impl Figures {
    async fn open(server: &Server, patience: Duration) -> Result<Figures, Failure> {
        let attempt = server.stream("", "").await.map_err(|failure| match failure {
            Failure::Refused(text) => {
                Failure::Refused(format!("{text}; --url names the admin listener of the server (--admin)"))
            }
            _ => failure,
        });
        match attempt? {
            Attempt::Stream(body) => {
                let decoder = Decoder::new(EVENT_BYTES);
                Ok(Figures { body, decoder, waiting: VecDeque::new(), patience })
            }
            Attempt::NothingMore => Err(Failure::Refused("the server answered 204".to_owned())),
            Attempt::Later { failure, .. } => Err(failure),
        }
    }

    /// Waits for the next figures. A call that is dropped loses none.
    async fn next(&mut self) -> Result<Value, Failure> {
        loop {
            if let Some(figures) = self.waiting.pop_front() {
                return Ok(figures);
            }
            let received = match timeout(self.patience, self.body.frame()).await {
                Ok(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
                Ok(Some(Err(error))) => {
                    return Err(Failure::Unavailable(format!("the stream broke: {error}")));
                }
                Ok(None) => return Err(Failure::Unavailable("the stream ended".to_owned())),
                Err(_) => return Err(Failure::Unavailable(late("--timeout", self.patience))),
            };
            let waiting = &mut self.waiting;
            let mut is_json = true;
            let fed = self.decoder.feed(&received, &mut |decoded| {
                if let Decoded::Event { kind: "figures", data, .. } = decoded {
                    match serde_json::from_str(data) {
                        Ok(figures) => waiting.push_back(figures),
                        Err(_) => is_json = false,
                    }
                }
            });
            fed.map_err(|error| Failure::Refused(error.to_string()))?;
            if !is_json {
                return Err(Failure::Refused("the stream has figures that are no JSON".to_owned()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_history_is_bounded_and_a_restart_leaves_no_trace_in_the_rates() {
        let mut view = View::default();
        for number in 0..2 * HISTORY {
            view.take(json!({ "rates": { "deliveries": number as f64 } }));
        }
        assert_eq!(view.deliveries.len(), HISTORY);
        view.lose("gone".to_owned());
        let since = view.lost.as_ref().map(|(since, _)| *since);
        view.lose("still gone".to_owned());
        assert_eq!(view.lost.as_ref().map(|(since, _)| *since), since, "since the first time");
        // The first figures of a server have no rates.
        view.take(json!({ "rates": null }));
        assert!(view.lost.is_none() && !view.has_rates());
        assert_eq!(view.deliveries.back(), Some(&(2 * HISTORY as u64 - 1)));
    }
}
