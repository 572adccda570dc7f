//! The stored outputs of a run: the list, and single files.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use groundswell_common::outputs::{self, IndexEntry};
use groundswell_common::run::RunRecord;
use serde::{Deserialize, Serialize};

use super::ask::{Caller, Params};
use super::failure::Failure;
use super::{Shared, Web, range};

/// Files an answer has when nothing is said.
const USUAL: usize = 500;
/// Files an answer has at most.
const MOST: usize = 2_000;

/// Which instances are wanted.
#[derive(Debug, Default, Clone)]
pub(super) struct Instances {
    group: Option<String>,
    number: Option<Number>,
}

/// One instance.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Number {
    InRun(u32),
    InGroup(String, u32),
}

impl Instances {
    /// What the parameters `group` and `instance` say.
    pub(super) fn new(group: Option<String>, instance: Option<&str>) -> Result<Self, Failure> {
        let Some(text) = instance else { return Ok(Self { group, number: None }) };
        let number = match text.rsplit_once(':') {
            Some((group, number)) => {
                number.parse().ok().map(|number| Number::InGroup(group.to_owned(), number))
            }
            None => text.parse().ok().map(Number::InRun),
        };
        let help = "its number in the run, 17, or its group and number there, seeders:3";
        let wrong = || Failure::invalid(&format!("`{text}` is not an instance"), help);
        Ok(Self { group, number: Some(number.ok_or_else(wrong)?) })
    }

    pub(super) fn takes(&self, file: &IndexEntry) -> bool {
        let number = match &self.number {
            None => true,
            Some(Number::InRun(number)) => file.instance.0 == *number,
            Some(Number::InGroup(group, number)) => {
                file.group == *group && file.in_group == *number
            }
        };
        number && self.group.as_ref().is_none_or(|group| *group == file.group)
    }
}

/// Which files are wanted.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Wanted {
    group: Option<String>,
    instance: Option<String>,
    q: Option<String>,
    from: usize,
    limit: Option<usize>,
}

/// Files of a run.
#[derive(Debug, Serialize)]
pub(super) struct Artifacts {
    files: Vec<IndexEntry>,
    total: usize,
    bytes: u64,
    more: bool,
    skipped: Vec<String>,
}

pub(super) async fn list(
    State(web): Shared,
    caller: Caller,
    Path(run): Path<String>,
    Params(wanted): Params<Wanted>,
) -> Result<Json<Artifacts>, Failure> {
    let limit = wanted.limit.unwrap_or(USUAL);
    if !(1..=MOST).contains(&limit) {
        return Err(Failure::invalid(&format!("`limit` is 1 to {MOST}"), ""));
    }
    let instances = Instances::new(wanted.group, wanted.instance.as_deref())?;
    let run = web.run(&caller, &run).await?.run;
    let (mut files, skipped) = web.files(&web.record(&run).await?).await?;
    let text = wanted.q.unwrap_or_default();
    files.retain(|file| instances.takes(file) && file.path.contains(&text));
    let (total, bytes) = (files.len(), files.iter().map(|file| file.size).sum());
    let page: Vec<IndexEntry> = files.into_iter().skip(wanted.from).take(limit).collect();
    let more = wanted.from.saturating_add(page.len()) < total;
    Ok(Json(Artifacts { files: page, total, bytes, more, skipped }))
}

/// How a file is wanted.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct View {
    view: Option<u32>,
}

pub(super) async fn file(
    State(web): Shared,
    caller: Caller,
    Path((run, group, number, path)): Path<(String, String, u32, String)>,
    Params(View { view }): Params<View>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let run = web.run(&caller, &run).await?.run;
    let (files, _) = web.files(&web.record(&run).await?).await?;
    let is_it =
        |file: &&IndexEntry| file.group == group && file.in_group == number && file.path == path;
    let none = || Failure::not_found(&format!("{group}[{number}] has stored no `{path}`"));
    let entry = files.iter().find(is_it).ok_or_else(none)?;
    let tag = format!("\"{}\"", entry.sha256);
    let known = headers.get(header::IF_NONE_MATCH).is_some_and(|known| known == tag.as_str());
    let mut response = if known {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        range::answer(&headers, outputs::read_file(&web.objects, entry).await?)
    };
    // Never as a type that a browser executes: the plan wrote it.
    let (kind, disposition) = match view {
        Some(1) => ("text/plain; charset=utf-8", "inline"),
        Some(_) | None => ("application/octet-stream", "attachment"),
    };
    let said = response.headers_mut();
    said.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    said.insert(header::CONTENT_DISPOSITION, HeaderValue::from_static(disposition));
    said.extend(HeaderValue::from_str(&tag).ok().map(|tag| (header::ETAG, tag)));
    Ok(response)
}

impl Web {
    /// The stored files of a run by group, number in it and path, and what was left out.
    pub(super) async fn files(
        &self,
        record: &RunRecord,
    ) -> Result<(Vec<IndexEntry>, Vec<String>), Failure> {
        if record.indexes.is_empty() {
            let run = &record.status.run;
            return Err(Failure::not_found(&format!("run `{run}` has stored no outputs (yet)")));
        }
        let (mut files, mut skipped) = (Vec::new(), Vec::new());
        for key in &record.indexes {
            let index = outputs::read_index(&self.objects, key).await?;
            files.extend(index.files);
            skipped.extend(index.skipped);
        }
        files.sort_by(|a, b| (a.instance, &a.path).cmp(&(b.instance, &b.path)));
        Ok((files, skipped))
    }
}
