//! The event log of one run, collected in memory until the run is over.

use groundswell_common::api::EventsPage;
use groundswell_common::run::RunEvent;

/// How much of a run's event log is kept, in bytes.
const CAP: usize = 64 << 20;
/// How much of it is given at once, in bytes: a message of NATS holds a mebibyte.
const PAGE: usize = 256 << 10;

/// The events of one run as JSON lines.
#[derive(Debug, Default)]
pub struct EventLog {
    lines: Vec<u8>,
    /// Where each line ends.
    ends: Vec<usize>,
    dropped: u64,
}

impl EventLog {
    /// The log that another coordinator has begun.
    #[must_use]
    pub fn continued(lines: Vec<u8>) -> Self {
        let ends = lines.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
        let ends = ends.map(|(at, _)| at + 1).collect();
        Self { lines, ends, dropped: 0 }
    }

    /// Adds an event. Beyond the cap only the number of those left out is kept.
    pub fn push(&mut self, event: &RunEvent) {
        let line = serde_json::to_vec(event).expect("an event is plain data that always encodes");
        if self.lines.len() + line.len() + 1 > CAP {
            self.dropped += 1;
            return;
        }
        self.lines.extend(line);
        self.lines.push(b'\n');
        self.ends.push(self.lines.len());
    }

    /// How many lines there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.ends.len() as u64
    }

    /// Lines from this number on, as many as fit into one message; a negative number counts from the end.
    #[must_use]
    pub fn page(&self, from: i64) -> EventsPage {
        let total = self.ends.len();
        let steps = usize::try_from(from.unsigned_abs()).unwrap_or(usize::MAX);
        let first = if from < 0 { total.saturating_sub(steps) } else { steps.min(total) };
        let start = |line: usize| line.checked_sub(1).map_or(0, |before| self.ends[before]);
        let fits = |line: &usize| self.ends[*line] - start(first) <= PAGE || *line == first;
        let text = |line: usize| {
            String::from_utf8_lossy(&self.lines[start(line)..self.ends[line] - 1]).into_owned()
        };
        let lines = (first..total).take_while(fits).map(text).collect();
        EventsPage { from: first as u64, total: total as u64, lines }
    }

    /// Everything so far as JSON lines; the last one says how many events were left out, if any.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut all = self.lines.clone();
        if self.dropped > 0 {
            let event = RunEvent {
                at_ms: 0,
                kind: "dropped".to_owned(),
                text: format!("{} events did not fit", self.dropped),
                worker: None,
                group: None,
                instance: None,
            };
            all.extend(serde_json::to_vec(&event).unwrap_or_default());
            all.push(b'\n');
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(text: &str) -> RunEvent {
        RunEvent {
            at_ms: 7,
            kind: "message".to_owned(),
            text: text.to_owned(),
            worker: None,
            group: None,
            instance: None,
        }
    }

    #[test]
    fn pages_follow_each_other_without_a_gap() {
        let mut log = EventLog::default();
        for number in 0..2_000 {
            log.push(&event(&format!("{number} {}", "x".repeat(400))));
        }
        let mut log = EventLog::continued(log.to_bytes());
        log.push(&event("the last one"));
        assert_eq!(log.count(), 2_001);
        let (mut next, mut seen, mut pages) = (0, Vec::new(), 0);
        while seen.len() < 2_001 {
            let page = log.page(next);
            assert_eq!(page.from, seen.len() as u64);
            assert!(!page.lines.is_empty());
            next += i64::try_from(page.lines.len()).expect("few");
            seen.extend(page.lines);
            pages += 1;
        }
        assert!(pages > 1, "{pages}");
        assert!(seen[1_999].contains("1999 x") && seen[2_000].contains("the last one"));
        assert_eq!(log.page(-1).from, 2_000);
        assert_eq!(log.page(9_999).lines, Vec::<String>::new());
        assert_eq!(log.page(-9_999).from, 0);
    }

    #[test]
    fn each_event_is_one_line_of_json() {
        let mut log = EventLog::default();
        for kind in ["phase", "warning"] {
            log.push(&RunEvent {
                at_ms: 7,
                kind: kind.to_owned(),
                text: "two\nlines".to_owned(),
                worker: None,
                group: None,
                instance: None,
            });
        }
        let text = String::from_utf8(log.to_bytes()).expect("text");
        let kinds: Vec<String> = text
            .lines()
            .map(|line| serde_json::from_str::<RunEvent>(line).expect("an event").kind)
            .collect();
        assert_eq!(kinds, ["phase", "warning"]);
    }
}
