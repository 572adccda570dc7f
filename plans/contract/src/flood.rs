//! What is printed is kept, all of it and in order.

use std::io::{BufWriter, Write};

use groundswell_sdk::prelude::*;
use serde::Deserialize;

/// One in so many lines of stdout is followed by a KPI.
const KPI_EVERY: u32 = 100;
/// What fills a line up.
const PADDING: &str = "the quick brown fox jumps over the lazy dog, again and again and again";

#[derive(Debug, Deserialize)]
struct Params {
    lines: u32,
}

/// Prints numbered lines to stdout and to stderr.
pub(crate) async fn print(cx: Ctx) -> Result {
    let params: Params = cx.params()?;
    cx.signal_and_wait("together").await?;
    let kpis = lines(std::io::stdout().lock(), params.lines, Some(KPI_EVERY))?;
    lines(std::io::stderr().lock(), params.lines, None)?;
    cx.point("flood_planned", kpis).unit("count").record();
    cx.signal_and_wait("printed").await?;
    Ok(())
}

/// Prints the lines, and returns how many KPIs are among them.
fn lines(to: impl Write, count: u32, kpi_every: Option<u32>) -> std::io::Result<u32> {
    let mut out = BufWriter::new(to);
    let mut kpis = 0;
    for number in 0..count {
        writeln!(out, "flood {number} {PADDING}")?;
        if kpi_every.is_some_and(|every| number % every == 0) {
            writeln!(out, "kpi flood_seen=1 count")?;
            kpis += 1;
        }
    }
    out.flush()?;
    Ok(kpis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_numbered_and_kpis_stand_between_them() {
        let mut printed = Vec::new();
        assert_eq!(lines(&mut printed, 101, Some(100)).unwrap(), 2);
        let text = String::from_utf8(printed).unwrap();
        let all: Vec<&str> = text.lines().collect();
        assert_eq!(all.len(), 103);
        assert!(all[0].starts_with("flood 0 "));
        assert_eq!((all[1], all[102]), ("kpi flood_seen=1 count", "kpi flood_seen=1 count"));
    }
}
