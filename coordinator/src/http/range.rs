//! One range of bytes of what is asked for: RFC 9110, section 14.

use std::ops::Range;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;

use super::failure::Failure;

/// What a request wants of something of a length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted {
    /// All of it: no range is asked for, or not one that is understood.
    Whole,
    /// These bytes.
    Part(Range<u64>),
    /// Bytes that are not there.
    Outside,
}

impl Wanted {
    /// What the header `Range` says about something of `length` bytes.
    pub(super) fn of(headers: &HeaderMap, length: u64) -> Self {
        let range = headers.get(header::RANGE).and_then(|range| range.to_str().ok());
        let Some(range) = range.and_then(|range| range.strip_prefix("bytes=")) else {
            return Self::Whole;
        };
        // Several ranges may be answered with everything.
        let Some((first, last)) = range.trim().split_once('-') else { return Self::Whole };
        let (first, last) = (first.trim(), last.trim());
        let wanted = match (first.parse::<u64>(), last.parse::<u64>()) {
            (Ok(first), Ok(last)) if first <= last => first..last.saturating_add(1).min(length),
            (Ok(first), Err(_)) if last.is_empty() => first..length,
            (Err(_), Ok(count)) if first.is_empty() => length.saturating_sub(count)..length,
            (_, _) => return Self::Whole,
        };
        if wanted.start < wanted.end { Self::Part(wanted) } else { Self::Outside }
    }
}

/// The answer to a request for `content`, or for a part of it.
pub(super) fn answer(headers: &HeaderMap, content: Bytes) -> Response {
    let length = content.len() as u64;
    match Wanted::of(headers, length) {
        Wanted::Whole => whole(content),
        Wanted::Part(range) => {
            let at = |byte: u64| usize::try_from(byte).unwrap_or(usize::MAX);
            part(content.slice(at(range.start)..at(range.end)), &range, length)
        }
        Wanted::Outside => outside(length),
    }
}

fn whole(content: Bytes) -> Response {
    let mut response = Response::new(Body::from(content));
    response.headers_mut().insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    response
}

fn part(content: Bytes, range: &Range<u64>, length: u64) -> Response {
    let mut response = whole(content);
    *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    say(&mut response, &format!("bytes {}-{}/{length}", range.start, range.end - 1));
    response
}

fn outside(length: u64) -> Response {
    let mut response = Failure::outside().into_response();
    say(&mut response, &format!("bytes */{length}"));
    response
}

fn say(response: &mut Response, range: &str) {
    if let Ok(value) = HeaderValue::from_str(range) {
        response.headers_mut().insert(header::CONTENT_RANGE, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(range: &str) -> Wanted {
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, range.parse().expect("a value"));
        Wanted::of(&headers, 100)
    }

    #[test]
    fn a_range_is_within_what_there_is() {
        assert_eq!(wanted("bytes=0-9"), Wanted::Part(0..10));
        assert_eq!(wanted("bytes=90-"), Wanted::Part(90..100));
        assert_eq!(wanted("bytes=90-500"), Wanted::Part(90..100));
        assert_eq!(wanted("bytes=-10"), Wanted::Part(90..100));
        assert_eq!(wanted("bytes=-500"), Wanted::Part(0..100));
        for outside in ["bytes=100-", "bytes=100-200", "bytes=-0"] {
            assert_eq!(wanted(outside), Wanted::Outside, "{outside}");
        }
        for whole in ["bytes=9-0", "bytes=0-1,5-6", "bytes=a-b", "lines=1-2", "bytes=-"] {
            assert_eq!(wanted(whole), Wanted::Whole, "{whole}");
        }
        assert_eq!(Wanted::of(&HeaderMap::new(), 100), Wanted::Whole);
    }
}
