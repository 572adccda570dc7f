//! Lines that wait for the store, bounded, and the books about them. Pure.
//!
//! A line is waiting from when it is put in until the store has taken it or it is lost, also while the batch it is
//! in is on its way. When there is no room the oldest line that is not on its way goes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::loss::{Losses, Reason};
use crate::ids::RunId;

/// How long the store may take before what waits counts as late.
const SLOW: Duration = Duration::from_secs(1);

/// How much may wait, and how much is sent at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Lines that may wait.
    pub lines: usize,
    /// Their bytes together.
    pub bytes: usize,
    /// Lines of a batch.
    pub batch_lines: usize,
    /// Bytes of a batch, unless it is one line.
    pub batch_bytes: usize,
    /// How long a line may wait for others to be sent with.
    pub gather: Duration,
    /// How long a request may take.
    pub request: Duration,
    /// How long to wait before a batch is sent again for the first time; each further wait is twice as long.
    pub first_wait: Duration,
    /// The longest wait, whatever the store asks for.
    pub longest_wait: Duration,
    /// How long the last batches may take when the process ends.
    pub farewell: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            lines: 200_000,
            bytes: 64 << 20,
            batch_lines: 5_000,
            batch_bytes: 512 << 10,
            gather: Duration::from_secs(1),
            request: Duration::from_secs(10),
            first_wait: Duration::from_millis(250),
            longest_wait: Duration::from_secs(60),
            farewell: Duration::from_secs(2),
        }
    }
}

/// A line, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Without its end.
    pub(super) line: String,
    pub(super) run: Option<RunId>,
}

/// The books of one run, or of what belongs to none.
#[derive(Debug, Clone, Default)]
struct Account {
    waiting: u64,
    lost: BTreeMap<Reason, u64>,
    refusal: String,
    /// Nobody will ask any more.
    closed: bool,
}

#[derive(Debug)]
pub(super) struct Queue {
    limits: Limits,
    entries: VecDeque<Entry>,
    bytes: usize,
    accounts: BTreeMap<Option<RunId>, Account>,
    sent: u64,
    lost: BTreeMap<Reason, u64>,
    waiting: u64,
    /// The batch that the store is to take next, and since when it is.
    on_its_way: Option<(Batch, Instant)>,
    /// Why the store took nothing the last time.
    trouble: Option<String>,
    /// What waits is to be sent without waiting for more.
    flush: bool,
}

/// Lines that are sent at once.
pub(super) type Batch = Arc<Vec<Entry>>;

impl Queue {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            entries: VecDeque::new(),
            bytes: 0,
            accounts: BTreeMap::new(),
            sent: 0,
            lost: BTreeMap::new(),
            waiting: 0,
            on_its_way: None,
            trouble: None,
            flush: false,
        }
    }

    /// Puts a line in; the oldest go until there is room.
    pub(super) fn push(&mut self, entry: Entry) {
        self.bytes += entry.line.len();
        self.waiting += 1;
        let account = self.accounts.entry(entry.run.clone()).or_default();
        account.waiting += 1;
        account.closed = false;
        self.entries.push_back(entry);
        while self.entries.len() > self.limits.lines || self.bytes > self.limits.bytes {
            let Some(oldest) = self.entries.pop_front() else { break };
            self.bytes -= oldest.line.len();
            self.lose(&[oldest], Reason::Overflow, "");
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn is_full_batch(&self) -> bool {
        self.entries.len() >= self.limits.batch_lines || self.bytes >= self.limits.batch_bytes
    }

    /// Whether something is to be sent without waiting for more.
    pub(super) fn is_due(&self) -> bool {
        self.is_full_batch() || (self.flush && !self.is_empty())
    }

    /// Asks that what waits is sent without waiting for more.
    pub(super) fn flush(&mut self) {
        self.flush = !self.is_empty();
    }

    /// The lines the store is to take next: the oldest, as many as are sent at once.
    pub(super) fn batch(&mut self, now: Instant) -> Option<Batch> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while let Some(next) = self.entries.front() {
            bytes += next.line.len() + 1;
            let full = batch.len() >= self.limits.batch_lines || bytes > self.limits.batch_bytes;
            if full && !batch.is_empty() {
                break;
            }
            self.bytes -= next.line.len();
            batch.extend(self.entries.pop_front());
        }
        self.flush &= !self.is_empty();
        let batch = (!batch.is_empty()).then(|| Arc::new(batch))?;
        self.on_its_way = Some((Arc::clone(&batch), now));
        Some(batch)
    }

    /// The store has taken the batch.
    pub(super) fn on_stored(&mut self) {
        let Some((batch, _)) = self.on_its_way.take() else { return };
        self.trouble = None;
        self.sent += batch.len() as u64;
        for entry in batch.iter() {
            self.settle(&entry.run, |_| {});
        }
    }

    /// The store does not take the batch, and says why.
    pub(super) fn on_refused(&mut self, refusal: &str) {
        let Some((batch, _)) = self.on_its_way.take() else { return };
        self.trouble = None;
        self.lose(&batch, Reason::Refused, refusal);
    }

    /// The batch is too large for the store. Smaller ones are made from here on.
    pub(super) fn on_too_large(&mut self, refusal: &str) {
        let Some((batch, since)) = self.on_its_way.take() else { return };
        self.trouble = None;
        if batch.len() < 2 {
            self.on_its_way = Some((batch, since));
            return self.on_refused(refusal);
        }
        let bytes: usize = batch.iter().map(|entry| entry.line.len() + 1).sum();
        self.limits.batch_lines = (batch.len() / 2).max(1);
        self.limits.batch_bytes = (bytes / 2).max(1);
        for entry in batch.iter().rev() {
            self.bytes += entry.line.len();
            self.entries.push_front(entry.clone());
        }
        self.flush = true;
    }

    /// The store did not take the batch, which is to be tried again.
    pub(super) fn on_later(&mut self, why: &str) {
        self.trouble = Some(why.to_owned());
    }

    /// Lines that were waiting are gone.
    fn lose(&mut self, entries: &[Entry], reason: Reason, refusal: &str) {
        if entries.is_empty() {
            return;
        }
        *self.lost.entry(reason).or_default() += entries.len() as u64;
        for entry in entries {
            self.settle(&entry.run, |account| {
                *account.lost.entry(reason).or_default() += 1;
                if account.refusal != refusal {
                    refusal.clone_into(&mut account.refusal);
                }
            });
        }
    }

    /// Metrics were lost that never waited.
    pub(super) fn never_sent(&mut self, run: Option<RunId>, reason: Reason, count: u64) {
        *self.lost.entry(reason).or_default() += count;
        *self.accounts.entry(run).or_default().lost.entry(reason).or_default() += count;
    }

    fn settle(&mut self, run: &Option<RunId>, book: impl FnOnce(&mut Account)) {
        self.waiting = self.waiting.saturating_sub(1);
        let Some(account) = self.accounts.get_mut(run) else { return };
        account.waiting = account.waiting.saturating_sub(1);
        book(account);
        if account.closed && account.waiting == 0 {
            self.accounts.remove(run);
        }
    }

    /// Everything that waits is lost. Says how much that is.
    pub(super) fn lose_rest(&mut self) -> u64 {
        let on_its_way = self.on_its_way.take();
        let mut rest: Vec<Entry> = self.entries.drain(..).collect();
        rest.extend(on_its_way.into_iter().flat_map(|(batch, _)| batch.to_vec()));
        self.bytes = 0;
        self.lose(&rest, Reason::Ended, "");
        rest.len() as u64
    }

    /// What of a run did not get through until now.
    pub(super) fn losses(&self, run: Option<&RunId>, now: Instant) -> Losses {
        let Some(account) = self.accounts.get(&run.cloned()) else { return Losses::default() };
        let since =
            self.on_its_way.as_ref().map(|(_, since)| now.saturating_duration_since(*since));
        let slow = since.is_some_and(|since| since >= SLOW);
        let why_late = match &self.trouble {
            Some(trouble) => trouble.clone(),
            None if slow => "the store is slow".to_owned(),
            None => String::new(),
        };
        Losses {
            lost: account.lost.clone(),
            late: if why_late.is_empty() { 0 } else { account.waiting },
            why_late,
            refusal: account.refusal.clone(),
        }
    }

    /// Nobody will ask for a run any more.
    pub(super) fn close(&mut self, run: &RunId) {
        let key = Some(run.clone());
        if let Some(account) = self.accounts.get_mut(&key) {
            account.closed = true;
            if account.waiting == 0 {
                self.accounts.remove(&key);
            }
        }
    }

    /// Sent, waiting, and lost by reason.
    pub(super) fn totals(&self) -> (u64, u64, BTreeMap<Reason, u64>) {
        (self.sent, self.waiting, self.lost.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(lines: usize) -> Limits {
        Limits { lines, bytes: 1000, batch_lines: 3, batch_bytes: 100, ..Limits::default() }
    }

    fn entry(line: &str, run: Option<&RunId>) -> Entry {
        Entry { line: line.to_owned(), run: run.cloned() }
    }

    fn lines(batch: Option<Batch>) -> Vec<String> {
        batch.into_iter().flat_map(|batch| batch.to_vec()).map(|entry| entry.line).collect()
    }

    fn now() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    #[test]
    fn the_oldest_go_when_there_is_no_room_and_are_on_their_runs_account() {
        let (a, b) = (RunId::new(1), RunId::new(2));
        let mut queue = Queue::new(limits(2));
        queue.push(entry("1", Some(&a)));
        queue.push(entry("2", Some(&b)));
        queue.push(entry("3", Some(&b)));
        assert_eq!(lines(queue.batch(now())), ["2", "3"]);
        assert_eq!(queue.losses(Some(&a), now()).lost, BTreeMap::from([(Reason::Overflow, 1)]));
        assert_eq!(queue.losses(Some(&b), now()), Losses::default());
        assert_eq!(queue.totals(), (0, 2, BTreeMap::from([(Reason::Overflow, 1)])));
        // Bytes count as well.
        queue.push(entry(&"x".repeat(900), None));
        queue.push(entry(&"y".repeat(200), None));
        assert_eq!(lines(queue.batch(now()))[0].len(), 200);
    }

    #[test]
    fn batches_are_bounded_by_lines_and_bytes_and_a_long_line_is_one_by_itself() {
        let mut queue = Queue::new(limits(10));
        for line in ["1", "2", "3", "4"] {
            queue.push(entry(line, None));
        }
        assert!(queue.is_due());
        assert_eq!(lines(queue.batch(now())), ["1", "2", "3"]);
        assert!(!queue.is_due());
        let long = "l".repeat(200);
        queue.push(entry(&long, None));
        queue.push(entry("5", None));
        assert_eq!(lines(queue.batch(now())), ["4"]);
        assert_eq!(lines(queue.batch(now())), [long.as_str()]);
        assert_eq!(lines(queue.batch(now())), ["5"]);
        assert!(queue.is_empty() && queue.batch(now()).is_none());
    }

    #[test]
    fn what_waits_is_late_only_when_the_store_is_in_trouble_or_slow() {
        let run = RunId::new(1);
        let mut queue = Queue::new(limits(10));
        queue.push(entry("1", Some(&run)));
        assert_eq!(queue.losses(Some(&run), now()).count(), 0);
        queue.batch(now());
        assert_eq!(queue.losses(Some(&run), now()).count(), 0);
        let later = now() + SLOW;
        assert_eq!(queue.losses(Some(&run), later).why_late, "the store is slow");
        queue.on_later("no connection");
        let losses = queue.losses(Some(&run), now());
        assert_eq!((losses.late, losses.why_late.as_str()), (1, "no connection"));
        queue.on_stored();
        assert_eq!(queue.losses(Some(&run), later), Losses::default());
        assert_eq!(queue.totals(), (1, 0, BTreeMap::new()));
    }

    #[test]
    fn the_account_of_a_run_is_closed_when_nothing_of_it_waits() {
        let run = RunId::new(1);
        let mut queue = Queue::new(limits(10));
        queue.never_sent(Some(run.clone()), Reason::Malformed, 2);
        queue.push(entry("1", Some(&run)));
        queue.close(&run);
        assert_eq!(queue.losses(Some(&run), now()).count(), 2);
        assert_eq!(queue.lose_rest(), 1);
        assert!(queue.accounts.is_empty(), "{:?}", queue.accounts);
        let lost = BTreeMap::from([(Reason::Malformed, 2), (Reason::Ended, 1)]);
        assert_eq!(queue.totals(), (0, 0, lost));
    }

    #[test]
    fn a_batch_that_is_too_large_is_sent_in_parts_and_a_line_that_is_is_refused() {
        let mut queue = Queue::new(limits(10));
        for line in ["1", "2", "3"] {
            queue.push(entry(line, None));
        }
        assert_eq!(lines(queue.batch(now())), ["1", "2", "3"]);
        queue.on_too_large("413");
        assert!(queue.is_due());
        assert_eq!(lines(queue.batch(now())), ["1"]);
        queue.on_too_large("413");
        assert_eq!(queue.losses(None, now()).refusal, "413");
        assert_eq!(lines(queue.batch(now())), ["2"]);
        queue.on_stored();
        assert_eq!(lines(queue.batch(now())), ["3"]);
        queue.on_stored();
        assert_eq!(queue.totals(), (2, 0, BTreeMap::from([(Reason::Refused, 1)])));
    }

    #[test]
    fn what_is_on_its_way_at_the_end_is_lost_too() {
        let mut queue = Queue::new(limits(10));
        queue.push(entry("1", None));
        queue.batch(now());
        queue.push(entry("2", None));
        assert_eq!(queue.lose_rest(), 2);
        queue.on_stored();
        assert_eq!(queue.totals(), (0, 0, BTreeMap::from([(Reason::Ended, 2)])));
    }
}
