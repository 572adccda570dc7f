//! The event log of one run, collected in memory until the run is over.

use groundswell_common::run::RunEvent;

/// How much of a run's event log is kept, in bytes.
const CAP: usize = 64 << 20;

/// The events of one run as JSON lines.
#[derive(Debug, Default)]
pub struct EventLog {
    lines: Vec<u8>,
    dropped: u64,
}

impl EventLog {
    /// The log that another coordinator has begun.
    #[must_use]
    pub fn continued(lines: Vec<u8>) -> Self {
        Self { lines, dropped: 0 }
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
