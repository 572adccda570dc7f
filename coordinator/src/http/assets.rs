//! The web page and its files, which are part of the binary when they were built.
//!
//! `coordinator/web/dist` is committed; a build never runs npm. Without it everything but the page works.

use std::io::Write as _;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use rust_embed::{EmbeddedFile, RustEmbed};

use super::failure::Failure;

#[derive(RustEmbed)]
#[folder = "web/dist"]
#[allow_missing = true]
struct Dist;

/// The page that reads its address itself.
const PAGE: &str = "index.html";
/// What is never sent as it is.
const NOT_SENT: [&str; 2] = ["export.html", "assets.json"];
/// What is said where the page is not built in.
const NO_PAGE: &str = "This coordinator was built without its web page; its API under /api/v1/ works.\n\
    With Node.js, run `npm ci && npm run build` in coordinator/web and build the coordinator again.\n";

/// A file, or the page for whatever is none.
pub(super) async fn file(method: Method, uri: Uri, headers: HeaderMap) -> Response {
    if method != Method::GET && method != Method::HEAD {
        return Failure::method().into_response();
    }
    let path = uri.path().trim_start_matches('/');
    let known = if NOT_SENT.contains(&path) { None } else { get(path) };
    match known {
        Some(file) if !path.is_empty() => answer(path, &file, &headers),
        None if path.starts_with("assets/") => StatusCode::NOT_FOUND.into_response(),
        Some(_) | None => match get(PAGE) {
            Some(page) => answer(PAGE, &page, &headers),
            None => (StatusCode::NOT_FOUND, NO_PAGE).into_response(),
        },
    }
}

/// A file of the page.
pub(super) fn get(path: &str) -> Option<EmbeddedFile> {
    <Dist as RustEmbed>::get(path)
}

fn answer(path: &str, file: &EmbeddedFile, headers: &HeaderMap) -> Response {
    let tag = format!("\"{}\"", data_encoding::HEXLOWER.encode(&file.metadata.sha256_hash()[..16]));
    let known = headers.get(header::IF_NONE_MATCH).is_some_and(|known| known == tag.as_str());
    let mut response =
        if known { StatusCode::NOT_MODIFIED.into_response() } else { content(path, file, headers) };
    let cache = if path.starts_with("assets/") {
        "public, max-age=31536000, immutable"
    } else {
        "no-cache"
    };
    let said = response.headers_mut();
    said.insert(header::CACHE_CONTROL, HeaderValue::from_static(cache));
    said.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    said.extend(HeaderValue::from_str(&tag).ok().map(|tag| (header::ETAG, tag)));
    response
}

/// The file, packed for whoever takes that.
fn content(path: &str, file: &EmbeddedFile, headers: &HeaderMap) -> Response {
    let takes = headers.get(header::ACCEPT_ENCODING).and_then(|takes| takes.to_str().ok());
    let takes =
        takes.is_some_and(|takes| takes.split(',').any(|one| one.trim().starts_with("gzip")));
    let packed = takes.then(|| gzip(&file.data)).flatten();
    let is_packed = packed.is_some();
    let data = packed.unwrap_or_else(|| file.data.to_vec());
    let mut response = Response::new(Body::from(Bytes::from(data)));
    let said = response.headers_mut();
    said.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind(path)));
    if is_packed {
        said.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

/// A browser asks once for what does not change, so this costs nothing worth keeping.
fn gzip(content: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(content).ok()?;
    encoder.finish().ok()
}

fn kind(path: &str) -> &'static str {
    match path.rsplit_once('.').map(|(_, end)| end) {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("json" | "map") => "application/json",
        Some("webmanifest") => "application/manifest+json",
        Some("txt") => "text/plain; charset=utf-8",
        Some("png") => "image/png",
        Some("ico") => "image/x-icon",
        Some("woff2") => "font/woff2",
        Some(_) | None => "application/octet-stream",
    }
}
