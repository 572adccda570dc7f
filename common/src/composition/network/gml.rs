//! A network graph of Shadow, in GML.
//!
//! Nodes have an `id`, maybe a `label` and rates of their hosts; edges have `source`, `target`, `latency`
//! with a unit, maybe `jitter` and `packet_loss`, a share of one. A region is a node, by its label or its id. As with
//! Shadow, the way between two nodes is the one with the smallest latency, and two hosts at one node need
//! an edge from it to itself.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use super::regions::{Read, Regions, Way};
use super::shape::{LONGEST, bits_per_second};
use crate::composition::quantity;
use crate::diagnostic::{Diagnostic, SourceFile};

/// A key and its value.
#[derive(Debug)]
struct Entry<'a> {
    key: &'a str,
    span: Range<usize>,
    value: Value<'a>,
}

#[derive(Debug)]
enum Value<'a> {
    Text(&'a str),
    List(Vec<Entry<'a>>),
}

/// A word of the file and where it stands.
type Token<'a> = (Range<usize>, &'a str);

fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut rest = 0;
    while let Some(start) = text[rest..].find(|c: char| !c.is_whitespace()).map(|at| rest + at) {
        let tail = &text[start..];
        let end = match tail.as_bytes()[0] {
            b'#' => {
                rest = start + tail.find('\n').unwrap_or(tail.len());
                continue;
            }
            b'[' | b']' => 1,
            b'"' => tail[1..].find('"').map_or(tail.len(), |end| end + 2),
            _ => {
                tail.find(|c: char| c.is_whitespace() || c == '[' || c == ']').unwrap_or(tail.len())
            }
        };
        tokens.push((start..start + end, &tail[..end]));
        rest = start + end;
    }
    tokens
}

/// Lists deeper than this are no graph.
const DEEPEST: usize = 8;

fn entries<'a>(
    source: &Arc<SourceFile>,
    tokens: &mut std::iter::Peekable<std::vec::IntoIter<Token<'a>>>,
    depth: usize,
) -> Result<Vec<Entry<'a>>, Diagnostic> {
    let help = "GML is `graph [ node [ id 0 ] edge [ source 0 target 0 latency \"10 ms\" ] ]`";
    let mut list = Vec::new();
    while let Some((span, key)) = tokens.next() {
        if key == "]" && depth > 0 {
            return Ok(list);
        }
        let Some((_, value)) =
            tokens.next().filter(|_| key != "[" && key != "]" && depth < DEEPEST)
        else {
            return Err(Diagnostic::error(
                source,
                span,
                format!("`{key}` is no key with a value"),
                help,
            ));
        };
        let value = match value {
            "[" => Value::List(entries(source, tokens, depth + 1)?),
            _ => Value::Text(value.trim_matches('"')),
        };
        list.push(Entry { key, span, value });
    }
    if depth == 0 {
        return Ok(list);
    }
    Err(Diagnostic::error(source, None, "a `]` is missing at the end", help))
}

/// The entries of a list.
struct List<'a> {
    source: &'a Arc<SourceFile>,
    span: Range<usize>,
    entries: &'a [Entry<'a>],
}

impl<'a> List<'a> {
    fn text(&self, key: &str) -> Option<(&'a Range<usize>, &'a str)> {
        self.entries.iter().find(|entry| entry.key == key).and_then(|entry| match &entry.value {
            Value::Text(text) => Some((&entry.span, *text)),
            Value::List(_) => None,
        })
    }

    fn need<T>(
        &self,
        key: &str,
        what: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<T, Diagnostic> {
        let found = self.maybe(key, what, parse)?;
        found.ok_or_else(|| {
            let message = format!("`{key}` is missing");
            Diagnostic::error(
                self.source,
                self.span.clone(),
                message,
                format!("write `{key}` with {what}"),
            )
        })
    }

    fn maybe<T>(
        &self,
        key: &str,
        what: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, Diagnostic> {
        let Some((span, text)) = self.text(key) else { return Ok(None) };
        parse(text).map(Some).ok_or_else(|| {
            let message = format!("`{key}` is `{text}`, not {what}");
            Diagnostic::error(self.source, span.clone(), message, format!("write {what}"))
        })
    }

    fn lists(&self, key: &'a str) -> impl Iterator<Item = List<'a>> {
        let source = self.source;
        self.entries.iter().filter(move |entry| entry.key == key).filter_map(move |entry| {
            match &entry.value {
                Value::List(entries) => Some(List { source, span: entry.span.clone(), entries }),
                Value::Text(_) => None,
            }
        })
    }
}

/// The graph: for each node its edges.
#[derive(Default)]
struct Graph {
    numbers: HashMap<i64, usize>,
    names: Vec<(String, Option<String>)>,
    rates: Vec<(u64, u64)>,
    edges: Vec<Vec<(usize, Way)>>,
}

pub(super) fn read(source: &Arc<SourceFile>, wanted: &[String]) -> Result<Read, Diagnostic> {
    let top = entries(source, &mut tokens(&source.text).into_iter().peekable(), 0)?;
    let file = List { source, span: 0..0, entries: &top };
    let graph = file.lists("graph").next().ok_or_else(|| {
        Diagnostic::error(source, None, "there is no `graph [ … ]`", "name a GML file of Shadow")
    })?;
    let graph = build(&graph)?;
    let mut regions = Regions::blank(wanted);
    let nodes: Vec<Option<usize>> = wanted.iter().map(|name| graph.find(name)).collect();
    for (i, from) in nodes.iter().enumerate() {
        let Some(from) = *from else { continue };
        let ways = graph.ways_from(from);
        for (j, to) in nodes.iter().enumerate() {
            let way = match to {
                Some(to) if *to == from => {
                    graph.edges[from].iter().find(|edge| edge.0 == from).map(|edge| edge.1)
                }
                Some(to) => ways[*to],
                None => None,
            };
            if let Some(way) = way {
                regions.set(i, j, way);
            }
        }
    }
    let rate = |node: &Option<usize>| node.map_or((0, 0), |node| graph.rates[node]);
    regions.rates = nodes.iter().map(rate).collect();
    let known = graph.names.iter().map(|(id, label)| label.clone().unwrap_or_else(|| id.clone()));
    let known = known.chain(graph.names.iter().map(|(id, _)| id.clone())).collect();
    Ok(Read { regions, known })
}

fn build(list: &List<'_>) -> Result<Graph, Diagnostic> {
    let number = |text: &str| text.parse::<i64>().ok();
    let rate = |text: &str| bits_per_second(text);
    let mut graph = Graph::default();
    for node in list.lists("node") {
        let id = node.need("id", "a whole number", number)?;
        graph.numbers.insert(id, graph.names.len());
        graph.names.push((id.to_string(), node.text("label").map(|(_, label)| label.to_owned())));
        graph.rates.push((
            node.maybe("host_bandwidth_up", "a rate such as \"10 Mbit\"", rate)?.unwrap_or(0),
            node.maybe("host_bandwidth_down", "a rate such as \"10 Mbit\"", rate)?.unwrap_or(0),
        ));
    }
    graph.edges = vec![Vec::new(); graph.names.len()];
    let directed = list.text("directed").is_some_and(|(_, text)| text == "1");
    let end = |edge: &List<'_>, key: &str| {
        let id = edge.need(key, "the id of a node", number)?;
        graph.numbers.get(&id).copied().ok_or_else(|| {
            let message = format!("`{key}` is {id}, and there is no such node");
            Diagnostic::error(edge.source, edge.span.clone(), message, "name a node by its id")
        })
    };
    let time =
        |text: &str| quantity::duration(&text.replace(' ', "")).filter(|time| *time <= LONGEST);
    let mut edges = graph.edges.clone();
    for edge in list.lists("edge") {
        let (from, to) = (end(&edge, "source")?, end(&edge, "target")?);
        let share = |text: &str| text.parse().ok().filter(|share| (0.0..=1.0_f32).contains(share));
        let way = Way {
            latency: edge.need("latency", "a time with a unit such as \"10 ms\"", time)?,
            jitter: edge
                .maybe("jitter", "a time with a unit such as \"1 ms\"", time)?
                .unwrap_or_default(),
            loss_pct: edge.maybe("packet_loss", "a share between 0 and 1", share)?.unwrap_or(0.0)
                * 100.0,
        };
        edges[from].push((to, way));
        if !directed && from != to {
            edges[to].push((from, way));
        }
    }
    graph.edges = edges;
    Ok(graph)
}

impl Graph {
    fn find(&self, name: &str) -> Option<usize> {
        let labeled = self.names.iter().position(|(_, label)| label.as_deref() == Some(name));
        labeled.or_else(|| self.names.iter().position(|(id, _)| id == name))
    }

    /// The ways from a node to all others, by the smallest latency.
    fn ways_from(&self, from: usize) -> Vec<Option<Way>> {
        let mut best: Vec<Option<Way>> = vec![None; self.edges.len()];
        let mut done = vec![false; self.edges.len()];
        best[from] = Some(Way::default());
        let next = |best: &[Option<Way>], done: &[bool]| {
            let open = (0..best.len()).filter(|node| !done[*node]);
            open.filter_map(|node| Some((best[node]?.latency, node))).min()
        };
        while let Some((_, node)) = next(&best, &done) {
            done[node] = true;
            let way = best[node].unwrap_or_default();
            for (to, edge) in self.edges[node].iter().filter(|(to, _)| *to != node) {
                let longer = Way {
                    latency: way.latency + edge.latency,
                    jitter: way.jitter + edge.jitter,
                    loss_pct: 100.0 - (100.0 - way.loss_pct) * (100.0 - edge.loss_pct) / 100.0,
                };
                if best[*to].is_none_or(|known| longer.latency < known.latency) {
                    best[*to] = Some(longer);
                }
            }
        }
        best
    }
}
