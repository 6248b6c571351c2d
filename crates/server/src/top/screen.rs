//! The screen of `fanfare top`.

use bytesize::ByteSize;
use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Paragraph, Row, Sparkline, Table, Widget};
use serde_json::Value;

use super::View;
use crate::printable::printable;

/// The size of the text where there is no terminal.
const TEXT_SIZE: (u16, u16) = (120, 40);

/// From this part of a limit on, it is close.
const CLOSE: f64 = 0.8;

/// The screen as text.
pub(super) fn text(view: &View) -> String {
    let mut buffer = Buffer::empty(Rect::new(0, 0, TEXT_SIZE.0, TEXT_SIZE.1));
    draw(view, buffer.area, &mut buffer);
    let rows = buffer.content.chunks(usize::from(TEXT_SIZE.0));
    let lines: Vec<String> = rows
        .map(|row| row.iter().map(|cell| cell.symbol()).collect::<String>().trim_end().to_owned())
        .collect();
    format!("{}\n", lines.join("\n").trim_end())
}

pub(super) fn draw(view: &View, area: Rect, buffer: &mut Buffer) {
    let parts = [Constraint::Length(1), Constraint::Length(4), Constraint::Length(6), Constraint::Min(0)];
    let [title, numbers, history, rest] = Layout::vertical(parts).areas(area);
    draw_title(view, title, buffer);
    draw_numbers(&view.figures, numbers, buffer);
    draw_history(view, history, buffer);
    let [left, right] = Layout::horizontal([Constraint::Fill(5), Constraint::Fill(4)]).spacing(2).areas(rest);
    let shard_rows = view.figures["shards"].as_array().map_or(0, Vec::len) as u16;
    let [limits, shards] =
        Layout::vertical([Constraint::Max(10), Constraint::Max(shard_rows + 3)]).areas(left);
    let reason_rows = reasons(&view.figures).len() as u16;
    let [ends, topics] =
        Layout::vertical([Constraint::Max(reason_rows.clamp(1, 12) + 2), Constraint::Min(0)]).areas(right);
    draw_limits(&view.figures, limits, buffer);
    draw_shards(&view.figures, shards, buffer);
    draw_reasons(&view.figures, ends, buffer);
    draw_topics(&view.figures, topics, buffer);
}

fn draw_title(view: &View, area: Rect, buffer: &mut Buffer) {
    let figures = &view.figures;
    let name = Span::styled("Fanfare ", Style::new().add_modifier(Modifier::BOLD));
    let up = figures["time"].as_f64().zip(figures["started"].as_f64());
    let up = up.map_or_else(String::new, |(now, started)| {
        let seconds = std::time::Duration::from_secs((now - started).max(0.0) as u64);
        format!(", for {}", humantime::format_duration(seconds))
    });
    let about = format!("{} on {}{up}  ", shown(&figures["version"]), shown(&figures["backend"]));
    let state = match &view.lost {
        Some((since, reason)) => {
            let seconds = since.elapsed().as_secs();
            let text = format!("disconnected for {seconds} s: {}", printable(reason));
            Span::styled(text, Style::new().fg(Color::Red))
        }
        None if figures.is_null() => Span::raw("connecting"),
        None if figures["is_ready"] == true => Span::styled("ready", Style::new().fg(Color::Green)),
        None => {
            let text = format!("not ready: {}", shown(&figures["readiness"]));
            Span::styled(text, Style::new().fg(Color::Yellow))
        }
    };
    Line::from(vec![name, Span::raw(about), state]).render(area, buffer);
}

fn draw_numbers(figures: &Value, area: Rect, buffer: &mut Buffer) {
    let rates = &figures["rates"];
    let cell = |name: &str, value: String| format!("{name:<14}{value:>9}");
    let rows = [
        [
            cell("connections", count(&figures["connections"])),
            cell("deliveries/s", count(&rates["deliveries"])),
            cell("publishes/s", count(&rates["publishes"])),
        ],
        [
            cell("laggards", count(&figures["laggards"])),
            cell("lag p50", time(&figures["lag"]["p50"])),
            cell("lag p99", time(&figures["lag"]["p99"])),
        ],
        [
            cell("gaps/s", count(&rates["gaps"])),
            cell("refusals/s", count(&rates["refusals"])),
            cell("ends/s", count(&rates["ends"])),
        ],
        [
            cell("memory", bytes(&figures["process"]["resident_bytes"])),
            cell("log", bytes(&figures["log_bytes"])),
            cell("topics", count(&figures["topics"])),
        ],
    ];
    let rows = rows.map(|cells| Row::new(cells.to_vec()));
    Widget::render(Table::new(rows, [Constraint::Length(23); 3]).column_spacing(4), area, buffer);
}

fn draw_history(view: &View, area: Rect, buffer: &mut Buffer) {
    let block = titled("deliveries a second");
    let width = usize::from(block.inner(area).width);
    let newest: Vec<u64> =
        view.deliveries.iter().skip(view.deliveries.len().saturating_sub(width)).copied().collect();
    Sparkline::default().block(block).data(&newest).style(Style::new().fg(Color::Blue)).render(area, buffer);
}

fn draw_limits(figures: &Value, area: Rect, buffer: &mut Buffer) {
    let rows = list(&figures["limits"]).iter().map(|limit| {
        let (used, most) = (number(&limit["used"]), number(&limit["limit"]));
        let part = if most > 0.0 { used / most } else { 0.0 };
        let is_close = part >= CLOSE && limit["may_be_full"] != true;
        let write = if limit["is_bytes"] == true { bytes } else { count };
        let mark = if is_close { "!" } else { "" };
        let row = Row::new(vec![
            shown(&limit["name"]),
            right(write(&limit["used"]), 10),
            right(write(&limit["limit"]), 10),
            right(format!("{mark}{:.0}%", part * 100.0), 5),
        ]);
        if is_close { row.style(Style::new().fg(Color::Yellow)) } else { row }
    });
    let widths = [Constraint::Fill(1), Constraint::Length(10), Constraint::Length(10), Constraint::Length(5)];
    let table = Table::new(rows, widths).block(titled("limits: used, limit"));
    Widget::render(table, area, buffer);
}

fn draw_shards(figures: &Value, area: Rect, buffer: &mut Buffer) {
    let rows = list(&figures["shards"]).iter().enumerate().map(|(index, shard)| {
        Row::new(vec![
            index.to_string(),
            right(shard["busy"].as_f64().map_or("-".to_owned(), |busy| format!("{:.0}%", busy * 100.0)), 5),
            right(count(&shard["connections"]), 10),
            right(count(&shard["laggards"]), 8),
            right(count(&shard["deliveries"]), 9),
            right(count(&shard["mailbox_events"]), 7),
        ])
    });
    let widths = [3, 5, 10, 8, 9, 7].map(Constraint::Length);
    let header = ["", " busy", "    conns.", "laggards", " deliv./s", "mailbox"];
    let table = Table::new(rows, widths).header(Row::new(header)).block(titled("shards"));
    Widget::render(table, area, buffer);
}

fn reasons(figures: &Value) -> Vec<&Value> {
    list(&figures["ends"]).iter().chain(list(&figures["refusals"])).collect()
}

fn draw_reasons(figures: &Value, area: Rect, buffer: &mut Buffer) {
    let block = titled("ends and refusals: last second, all");
    let rows = reasons(figures);
    if rows.is_empty() {
        Paragraph::new("none since the start").block(block).render(area, buffer);
        return;
    }
    let rows = rows.into_iter().map(|reason| {
        Row::new(vec![
            format!("{}: {}", shown(&reason["kind"]), shown(&reason["reason"])),
            right(count(&reason["recent"]), 8),
            right(count(&reason["total"]), 10),
        ])
    });
    let widths = [Constraint::Fill(1), Constraint::Length(8), Constraint::Length(10)];
    Widget::render(Table::new(rows, widths).block(block), area, buffer);
}

fn draw_topics(figures: &Value, area: Rect, buffer: &mut Buffer) {
    let block = titled("topics: subscribers, laggards");
    if figures["top_topics"].is_null() {
        let is_too_many = number(&figures["topics"]) > number(&figures["top_topics_limit"]);
        let text = if is_too_many { "too many for this list; GET /topics has all" } else { "not known yet" };
        Paragraph::new(text).block(block).render(area, buffer);
        return;
    }
    let rows = list(&figures["top_topics"]).iter().map(|topic| {
        Row::new(vec![
            shown(&topic["topic"]),
            right(count(&topic["subscribers"]), 10),
            right(count(&topic["laggards"]), 8),
        ])
    });
    let widths = [Constraint::Fill(1), Constraint::Length(10), Constraint::Length(8)];
    Widget::render(Table::new(rows, widths).block(block), area, buffer);
}

fn titled(title: &str) -> Block<'_> {
    Block::new().borders(Borders::TOP).title(Span::styled(title, Style::new().add_modifier(Modifier::BOLD)))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A text of the server, in characters that a terminal may show.
fn shown(value: &Value) -> String {
    printable(value.as_str().unwrap_or("-")).into_owned()
}

fn right(text: String, width: usize) -> String {
    format!("{text:>width$}")
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(0.0)
}

fn count(value: &Value) -> String {
    match value.as_f64() {
        None => "-".to_owned(),
        Some(count) if count >= 1e7 => format!("{:.1}M", count / 1e6),
        Some(count) if count >= 1e5 => format!("{:.1}k", count / 1e3),
        Some(count) if count >= 10.0 || count.fract() == 0.0 => format!("{count:.0}"),
        Some(count) => format!("{count:.1}"),
    }
}

fn bytes(value: &Value) -> String {
    value.as_u64().map_or("-".to_owned(), |bytes| ByteSize::b(bytes).to_string())
}

fn time(value: &Value) -> String {
    match value.as_f64() {
        None => "-".to_owned(),
        Some(seconds) if seconds < 1e-3 => format!("{:.0} us", seconds * 1e6),
        Some(seconds) if seconds < 1.0 => format!("{:.1} ms", seconds * 1e3),
        Some(seconds) => format!("{seconds:.1} s"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn figures() -> Value {
        json!({
            "time": 1000.0, "started": 400.0, "version": "1.2.3", "backend": "epoll",
            "interval": 1.0, "readiness": "ready", "is_ready": true,
            "connections": 123_456, "laggards": 7, "topics": 2, "log_bytes": 1 << 20,
            "rates": { "deliveries": 250.0, "publishes": 2.5, "gaps": 0.0, "refusals": 0.0, "ends": 0.0 },
            "lag": { "p50": 0.000_25, "p99": 0.012_5 },
            "limits": [
                { "name": "connections", "used": 90, "limit": 100, "is_bytes": false, "may_be_full": false },
                { "name": "log", "used": 1 << 20, "limit": 1 << 20, "is_bytes": true, "may_be_full": true },
            ],
            "shards": [{ "busy": 0.25, "connections": 5, "laggards": 1, "deliveries": 9.0, "mailbox_events": 3 }],
            "ends": [{ "kind": "end", "reason": "peer_left", "recent": 1, "total": 20 }],
            "refusals": [],
            "process": { "resident_bytes": 5 << 20 },
            "top_topics": [{ "topic": "a\u{1b}[31mred\u{9b}m\u{7}", "subscribers": 3, "laggards": 0 }],
            "top_topics_limit": 1000,
        })
    }

    #[test]
    fn everything_is_shown_and_nothing_of_it_is_obeyed_by_a_terminal() {
        let mut view = View::default();
        view.take(figures());
        let text = text(&view);
        for shown in [
            "Fanfare 1.2.3 on epoll, for 10m  ready",
            "123.5k",
            "250 us",
            "12.5 ms",
            "!90%",
            "peer_left",
            "a\\u{1b}[31mred\\u{9b}m\\u{7}",
        ] {
            assert!(text.contains(shown), "{shown} is not in\n{text}");
        }
        assert!(!text.contains("!100%"), "a full log is no warning\n{text}");
        // Why there is no list of topics.
        for (count, reason) in [(1000, "not known yet"), (1001, "too many for this list")] {
            let mut figures = figures();
            (figures["top_topics"], figures["topics"]) = (Value::Null, json!(count));
            view.take(figures);
            assert!(super::text(&view).contains(reason), "{}", super::text(&view));
        }
        assert!(text.chars().all(|character| character == '\n' || !character.is_control()), "{text:?}");
    }

    #[test]
    fn a_terminal_of_any_size_is_drawn() {
        let mut lost = View::default();
        lost.take(figures());
        lost.lose("the stream\u{1b}[2J ended".to_owned());
        for view in [View::default(), lost] {
            for (width, height) in [(0, 0), (1, 1), (20, 5), (80, 24), (300, 100)] {
                let mut buffer = Buffer::empty(Rect::new(0, 0, width, height));
                draw(&view, buffer.area, &mut buffer);
                let text: String = buffer.content.iter().map(|cell| cell.symbol()).collect();
                assert!(!text.contains('\u{1b}'), "{text:?}");
            }
        }
    }
}
