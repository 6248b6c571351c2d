//! Forms and queries: `application/x-www-form-urlencoded` (URL standard, section 5.1).

use std::borrow::Cow;

/// The fields of a form or a query, in order, decoded to bytes. Empty pieces between `&` are skipped.
pub fn form_fields(text: &[u8]) -> impl Iterator<Item = (Cow<'_, [u8]>, Cow<'_, [u8]>)> {
    text.split(|byte| *byte == b'&').filter(|field| !field.is_empty()).map(|field| {
        let equals = memchr::memchr(b'=', field).unwrap_or(field.len());
        let value = field.get(equals + 1..).unwrap_or_default();
        (form_decode(&field[..equals]), form_decode(value))
    })
}

/// Decodes `+` and `%XX`; a `%` that begins no escape stands for itself (URL standard, sections 1.3 and 5.1).
///
/// The usual decoders replace invalid UTF-8, so that two different wrong topics would become the same; this
/// one leaves the bytes to the caller.
fn form_decode(bytes: &[u8]) -> Cow<'_, [u8]> {
    if !bytes.iter().any(|byte| matches!(byte, b'+' | b'%')) {
        return Cow::Borrowed(bytes);
    }
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        match (first, after) {
            (b'+', _) => decoded.push(b' '),
            (b'%', [high, low, after_escape @ ..]) => match (hex_digit(*high), hex_digit(*low)) {
                (Some(high), Some(low)) => {
                    decoded.push(high * 16 + low);
                    rest = after_escape;
                }
                _ => decoded.push(b'%'),
            },
            _ => decoded.push(first),
        }
    }
    Cow::Owned(decoded)
}

fn hex_digit(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}
