//! Response heads: the start of a stream, refusals, and other whole answers.

use std::fmt::Write;
use std::io::Write as _;
use std::time::SystemTime;

use fanfare_proto::frame::WireFormat;
use fanfare_proto::json::json_string;
use fanfare_proto::link::{Encoding, Transport};
use httpdate::HttpDate;

use crate::admission::{Answer, Refusal, Subscribe};

/// Appends the head of a stream: the one that another server has written, or the engine's own. `Content-Type`
/// is bare because some clients compare it for equality; `no-transform` and `X-Accel-Buffering` keep proxies
/// from holding events back. "An origin server with a clock MUST generate a Date header field in all 2xx
/// (Successful), 3xx (Redirection), and 4xx (Client Error) responses" (RFC 9110, section 6.6.1).
pub(crate) fn stream_head(
    subscribe: &Subscribe,
    encoding: Encoding,
    gap: bool,
    date: SystemTime,
    out: &mut Vec<u8>,
) {
    let gap: &[u8] = if gap { b"Fanfare-Gap: true\r\n" } else { b"" };
    if let Some(written) = &subscribe.written_head {
        debug_assert!(written.announces(encoding), "the hub has checked it");
        return written.write(&[gap, subscribe.headers.as_bytes()], out);
    }
    debug_assert_eq!(encoding.transport, Transport::Http1);
    out.extend_from_slice(
        b"HTTP/1.1 200 OK\r\n\
          Content-Type: text/event-stream\r\n\
          Cache-Control: no-store, no-cache, no-transform\r\n\
          X-Accel-Buffering: no\r\n",
    );
    let _ = write!(out, "Date: {}\r\n", HttpDate::from(date));
    out.extend_from_slice(match encoding.format {
        WireFormat::Chunked => b"Transfer-Encoding: chunked\r\n".as_slice(),
        // Such a stream ends with its connection.
        _ => b"Connection: close\r\n",
    });
    out.extend_from_slice(gap);
    out.extend_from_slice(subscribe.headers.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// A whole refusal, head and body.
pub(crate) fn refusal(refusal: &Refusal, date: SystemTime) -> Vec<u8> {
    let status = refusal.status;
    let (kind, title) =
        refusal.kind.map_or(("about:blank", reason_phrase(status)), |kind| (kind.reference(), kind.title()));
    let detail = json_string(&refusal.detail);
    let body = format!(r#"{{"type":"{kind}","title":"{title}","status":{status},"detail":{detail}}}"#) + "\n";
    whole(status, "application/problem+json", &refusal.headers, &body, date)
}

/// Another whole answer, head and body. The answer to a HEAD has no body, and the same head (RFC 9110,
/// section 9.3.2).
pub(crate) fn answer(answer: &Answer, to_head: bool, date: SystemTime) -> Vec<u8> {
    let mut bytes = whole(answer.status, answer.content_type, &answer.headers, &answer.text, date);
    if to_head && answer.status != 204 {
        bytes.truncate(bytes.len() - answer.text.len());
    }
    bytes
}

/// A status of 204 has no body, whatever is given (RFC 9110, section 15.3.5).
fn whole(status: u16, content_type: &str, headers: &str, body: &str, date: SystemTime) -> Vec<u8> {
    let title = reason_phrase(status);
    let date = HttpDate::from(date);
    let mut out = format!("HTTP/1.1 {status} {title}\r\nDate: {date}\r\n");
    let body = if status == 204 { "" } else { body };
    if status != 204 {
        let length = body.len();
        let _ = write!(out, "Content-Type: {content_type}\r\nContent-Length: {length}\r\n");
    }
    let _ = write!(out, "Cache-Control: no-store\r\nConnection: close\r\n{headers}\r\n{body}");
    out.into_bytes()
}

fn reason_phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        421 => "Misdirected Request",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        _ => "Refused",
    }
}

#[cfg(test)]
mod tests {
    use fanfare_proto::problem::ProblemKind;

    use super::*;

    #[test]
    fn a_refusal_is_a_whole_response_with_its_exact_length() {
        let text =
            refusal(&Refusal::new(400, "say \"what\"\n").own_header("Allow", "GET"), SystemTime::UNIX_EPOCH);
        let text = String::from_utf8(text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 400 Bad Request\r\n"));
        assert!(head.contains("\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n"));
        assert!(head.contains("\r\nAllow: GET"));
        assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())));
        assert!(body.contains(r#""detail":"say \"what\"\u000a""#));
    }

    #[test]
    fn a_refusal_says_its_kind_and_an_embedder_s_has_none() {
        let body = |made: &Refusal| {
            let text = String::from_utf8(refusal(made, SystemTime::UNIX_EPOCH)).unwrap();
            text.split_once("\r\n\r\n").unwrap().1.to_owned()
        };
        assert_eq!(
            body(&Refusal::of(ProblemKind::HeadTimeout, "late")),
            "{\"type\":\"/problems/head-timeout\",\"title\":\"The request head came too late\",\"status\":408,\
             \"detail\":\"late\"}\n"
        );
        assert_eq!(
            body(&Refusal::new(403, "no")),
            "{\"type\":\"about:blank\",\"title\":\"Forbidden\",\"status\":403,\"detail\":\"no\"}\n"
        );
        for kind in ProblemKind::ALL {
            assert_ne!(reason_phrase(kind.status()), "Refused", "{kind}: the status has no phrase");
        }
    }

    #[test]
    fn another_answer_is_whole_and_one_without_content_has_no_body() {
        let head = answer(&Answer::new(200, "live\n"), true, SystemTime::UNIX_EPOCH);
        let text = answer(&Answer::new(200, "live\n"), false, SystemTime::UNIX_EPOCH);
        assert_eq!(text.strip_suffix(b"live\n"), Some(head.as_slice()));
        let text = String::from_utf8(text).unwrap();
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n"));
        assert!(text.contains("\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 5\r\n"));
        assert!(text.contains("\r\nConnection: close\r\n") && text.ends_with("\r\n\r\nlive\n"));
        let page = answer(&Answer::html("<p>\u{e4}"), false, SystemTime::UNIX_EPOCH);
        let page = String::from_utf8(page).unwrap();
        assert!(page.starts_with("HTTP/1.1 200 OK\r\n"));
        assert!(
            page.contains("\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: 5\r\n"),
            "{page}"
        );
        for text in [
            answer(&Answer::new(204, "no body"), true, SystemTime::UNIX_EPOCH),
            answer(&Answer::new(204, "no body"), false, SystemTime::UNIX_EPOCH),
            refusal(&Refusal::new(204, "no body"), SystemTime::UNIX_EPOCH),
        ] {
            let text = String::from_utf8(text).unwrap();
            assert!(text.ends_with("\r\n\r\n") && !text.contains("Content-"), "{text}");
        }
    }
}
