//! The matrix of the King data set: round trips in microseconds, one row per line, columns separated by
//! blanks. Regions are named by their number, from 0. A pair that was not measured is negative.

use std::sync::Arc;
use std::time::Duration;

use super::regions::{Read, Regions, Way};
use super::shape::LONGEST;
use crate::diagnostic::{Diagnostic, SourceFile};

pub(super) fn read(source: &Arc<SourceFile>, wanted: &[String]) -> Result<Read, Diagnostic> {
    let error = |span: std::ops::Range<usize>, message: String, help: &str| {
        Err(Diagnostic::error(source, span, message, help))
    };
    let lines = || source.text.lines().filter(|line| !line.trim().is_empty());
    let size = lines().count();
    let numbers: Vec<Option<usize>> = wanted.iter().map(|name| name.parse().ok()).collect();
    let mut regions = Regions::blank(wanted);
    for (row, line) in lines().enumerate() {
        let start = line.as_ptr() as usize - source.text.as_ptr() as usize;
        let values: Vec<&str> = line.split_whitespace().collect();
        if values.len() != size {
            let message = format!("row {row} has {} values for {size} rows", values.len());
            return error(start..start + line.len(), message, "a matrix is square");
        }
        let Some(from) = numbers.iter().position(|number| *number == Some(row)) else { continue };
        for (to, number) in numbers.iter().enumerate() {
            let Some(text) = number.and_then(|number| values.get(number)) else { continue };
            let Ok(micros) = text.parse::<f64>() else {
                let at = text.as_ptr() as usize - source.text.as_ptr() as usize;
                let message = format!("`{text}` is not a round trip");
                return error(
                    at..at + text.len(),
                    message,
                    "write microseconds; a negative number is unknown",
                );
            };
            let trip = Duration::try_from_secs_f64(micros / 1e6).ok();
            if let Some(trip) = trip.filter(|trip| *trip <= LONGEST) {
                regions.set(from, to, Way { latency: trip / 2, ..Way::default() });
            }
        }
    }
    Ok(Read { regions, known: (0..size).map(|number| number.to_string()).collect() })
}
