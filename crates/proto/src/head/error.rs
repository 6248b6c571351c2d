//! Why a request head is refused, and with which status.

use std::fmt;

use crate::problem::ProblemKind;

/// Why a request head is refused; the peer is at fault. The connection ends after the answer.
///
/// The message says what is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HeadError {
    /// The peer begins a TLS handshake.
    TlsHello,
    /// The peer speaks HTTP/2 without asking (RFC 9113, section 3.4).
    Http2Preface,
    /// The method is empty or has a byte in it that is not allowed.
    Method,
    /// The method is longer than any that exists.
    MethodTooLong,
    /// The target has a byte in it that is not allowed.
    TargetByte,
    /// The target is neither a path nor an http(s) URL, nor `*` for OPTIONS.
    TargetForm,
    /// The request line ends behind the target, as in HTTP/0.9.
    VersionMissing,
    /// The version is not one of HTTP.
    Version,
    /// The version is one of HTTP, but neither 1.0 nor 1.1.
    VersionNotSupported,
    /// A line ends with LF alone.
    BareLf,
    /// A CR is not followed by LF.
    BareCr,
    /// A line begins with space: a folded header line, or space before the first one.
    FoldedLine,
    /// A header's name is empty or has a byte in it that is not allowed.
    HeaderName,
    /// There is space between a header's name and its colon.
    SpaceBeforeColon,
    /// A header's value has a control character in it.
    HeaderValue,
    /// An HTTP/1.1 request has no `Host`.
    HostMissing,
    /// There is more than one `Host`.
    HostRepeated,
    /// The host, in the header or the target, is not a host with an optional port.
    Host,
    /// `Content-Length` is not one number.
    ContentLength,
    /// There is more than one `Content-Length`.
    ContentLengthRepeated,
    /// `Transfer-Encoding` is not `chunked`, once.
    TransferEncoding,
    /// HTTP/1.0 has no `Transfer-Encoding`.
    TransferEncodingInHttp10,
    /// There are both `Content-Length` and `Transfer-Encoding`.
    TwoLengths,
    /// Two parsers read the head differently.
    Ambiguous,
    /// The request line is over its limit.
    RequestLineTooLong,
    /// The head is over its limit.
    HeadTooLong,
    /// There are more headers than allowed.
    TooManyHeaders,
}

impl HeadError {
    /// The status of the answer (RFC 9110, section 15; 431: RFC 6585, section 5).
    pub fn status(&self) -> u16 {
        self.problem().status()
    }

    /// The kind of the answer.
    pub fn problem(&self) -> ProblemKind {
        match self {
            HeadError::RequestLineTooLong => ProblemKind::UriTooLong,
            HeadError::HeadTooLong | HeadError::TooManyHeaders => ProblemKind::HeadTooLarge,
            // "A server that receives a method longer than any that it implements SHOULD respond with a 501"
            // (RFC 9112, section 3).
            HeadError::MethodTooLong => ProblemKind::MethodNotImplemented,
            HeadError::Http2Preface | HeadError::VersionNotSupported => ProblemKind::HttpVersionNotSupported,
            _ => ProblemKind::MalformedRequest,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            HeadError::TlsHello => {
                "this port speaks plain HTTP, not TLS; use http:// or a proxy that ends TLS"
            }
            HeadError::Http2Preface => "this port speaks HTTP/1.1, not HTTP/2 without negotiation",
            HeadError::Method => "the request does not begin with an HTTP method",
            HeadError::MethodTooLong => "the method is longer than any that exists",
            HeadError::TargetByte => {
                "the request target has a byte in it that has to be percent-encoded, or a fragment (#)"
            }
            HeadError::TargetForm => {
                "the request target has to be a path that begins with /, or an http(s) URL"
            }
            HeadError::VersionMissing => "the request line has no HTTP version",
            HeadError::Version => "the request line does not end with an HTTP version",
            HeadError::VersionNotSupported => "the HTTP version has to be 1.0 or 1.1",
            HeadError::BareLf => "a line of the request head ends with LF alone; end it with CRLF",
            HeadError::BareCr => "a CR in the request head is not followed by LF",
            HeadError::FoldedLine => {
                "a header line begins with space; folded lines are obsolete, send one line"
            }
            HeadError::HeaderName => "a header name is empty or has a byte in it that is not allowed",
            HeadError::SpaceBeforeColon => "there is space between a header name and its colon",
            HeadError::HeaderValue => "a header value has a control character in it",
            HeadError::HostMissing => "an HTTP/1.1 request needs a Host header",
            HeadError::HostRepeated => "there is more than one Host header",
            HeadError::Host => "the host is not a name or address with an optional port",
            HeadError::ContentLength => "Content-Length has to be one number in digits only",
            HeadError::ContentLengthRepeated => "there is more than one Content-Length header",
            HeadError::TransferEncoding => "Transfer-Encoding has to be \"chunked\", once",
            HeadError::TransferEncodingInHttp10 => "HTTP/1.0 has no Transfer-Encoding; send Content-Length",
            HeadError::TwoLengths => "send either Content-Length or Transfer-Encoding, not both",
            HeadError::Ambiguous => "the request head can be read in more than one way",
            HeadError::RequestLineTooLong => "the request line is too long; name fewer topics in one request",
            HeadError::HeadTooLong => {
                "the request head is too long; send fewer or shorter headers, such as cookies"
            }
            HeadError::TooManyHeaders => "the request has too many headers",
        }
    }
}

impl fmt::Display for HeadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())
    }
}

impl std::error::Error for HeadError {}
