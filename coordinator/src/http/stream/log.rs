//! Everything that was told lately on all channels, in one order, and who listens to what. Pure.
//!
//! One order is what makes a sequence a place to go on from: whoever has seen a message has seen all before it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Messages that are remembered for whoever comes back.
const REMEMBERED: usize = 1024;

/// The name of an event and its data in JSON.
pub(super) type Said = (&'static str, String);

/// One event of the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) sequence: u64,
    /// The channel it is told on.
    pub(super) channel: u64,
    /// What is said; absent when the channel ends here.
    pub(super) said: Option<Said>,
}

/// What was told.
#[derive(Debug)]
pub(super) struct Log<K> {
    sequence: u64,
    /// The last sequence that is not remembered.
    forgotten: u64,
    last: VecDeque<Arc<Message>>,
    channels: BTreeMap<K, Channel>,
    /// Numbers of channels that were given.
    given: u64,
}

#[derive(Debug)]
struct Channel {
    number: u64,
    /// The sequence it began after.
    began: u64,
    full: Vec<Said>,
}

impl<K> Default for Log<K> {
    fn default() -> Self {
        let (last, channels) = (VecDeque::new(), BTreeMap::new());
        Self { sequence: 0, forgotten: 0, last, channels, given: 0 }
    }
}

impl<K: Ord + Clone> Log<K> {
    /// The last sequence.
    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The number of a channel.
    pub(super) fn channel(&self, key: &K) -> Option<u64> {
        self.channels.get(key).map(|channel| channel.number)
    }

    /// Opens a channel that begins with a full state, in the place of one of the same key.
    pub(super) fn open(&mut self, key: K, full: Vec<Said>) -> u64 {
        self.given += 1;
        let channel = Channel { number: self.given, began: self.sequence, full };
        self.channels.insert(key, channel);
        self.given
    }

    /// Ends a channel. Returns its last message.
    pub(super) fn close(&mut self, key: &K, number: u64) -> Arc<Message> {
        if self.channel(key) == Some(number) {
            self.channels.remove(key);
        }
        self.push(number, None)
    }

    /// Tells something on a channel, and what its full state is from now on.
    pub(super) fn tell(
        &mut self,
        key: &K,
        said: Vec<Said>,
        full: Option<Vec<Said>>,
    ) -> Vec<Arc<Message>> {
        let Some(channel) = self.channels.get_mut(key) else { return Vec::new() };
        let number = channel.number;
        channel.full = full.unwrap_or_else(|| std::mem::take(&mut channel.full));
        said.into_iter().map(|said| self.push(number, Some(said))).collect()
    }

    fn push(&mut self, channel: u64, said: Option<Said>) -> Arc<Message> {
        self.sequence += 1;
        let message = Arc::new(Message { sequence: self.sequence, channel, said });
        self.last.push_back(Arc::clone(&message));
        if self.last.len() > REMEMBERED
            && let Some(oldest) = self.last.pop_front()
        {
            self.forgotten = oldest.sequence;
        }
        message
    }

    /// The full states of channels, as messages at this moment.
    pub(super) fn full(&self, numbers: &[u64]) -> Vec<Arc<Message>> {
        let of = |number: &u64| self.channels.values().find(|one| one.number == *number);
        let (sequence, channels) = (self.sequence, numbers.iter().filter_map(of));
        channels
            .flat_map(|one| one.full.iter().map(|said| (one.number, said.clone())))
            .map(|(channel, said)| Arc::new(Message { sequence, channel, said: Some(said) }))
            .collect()
    }

    /// What was told on channels after a sequence; absent when that is not remembered.
    pub(super) fn after(&self, sequence: u64, numbers: &[u64]) -> Option<Vec<Arc<Message>>> {
        let is_ours = |channel: &&Channel| numbers.contains(&channel.number);
        let began = self.channels.values().filter(is_ours).map(|channel| channel.began).max();
        let known = self.forgotten.max(began.unwrap_or(0))..=self.sequence;
        let is_later =
            |one: &&Arc<Message>| one.sequence > sequence && numbers.contains(&one.channel);
        known.contains(&sequence).then(|| self.last.iter().filter(is_later).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(number: u64) -> Said {
        ("run", number.to_string())
    }

    fn texts(messages: &[Arc<Message>]) -> Vec<String> {
        let text =
            |message: &Arc<Message>| message.said.clone().map_or_else(String::new, |said| said.1);
        messages.iter().map(text).collect()
    }

    #[test]
    fn who_comes_back_is_told_what_was_missed_on_its_channels() {
        let mut log = Log::default();
        let one = log.open("one", vec![said(0)]);
        let other = log.open("other", vec![said(100)]);
        for number in 1..=5 {
            log.tell(&"one", vec![said(number)], Some(vec![said(number)]));
            log.tell(&"other", vec![said(100 + number)], None);
        }
        assert_eq!(texts(&log.after(6, &[one]).expect("remembered")), ["4", "5"]);
        assert_eq!(texts(&log.after(7, &[one, other]).expect("remembered")), ["104", "5", "105"]);
        assert_eq!(texts(&log.full(&[one, other])), ["5", "100"]);
        assert_eq!(log.full(&[one])[0].sequence, 10);
        assert_eq!(log.after(11, &[one]), None, "of another server");
    }

    #[test]
    fn what_is_too_old_or_older_than_the_channel_is_not_remembered() {
        let mut log = Log::default();
        log.open("busy", Vec::new());
        for number in 0..REMEMBERED as u64 + 10 {
            log.tell(&"busy", vec![said(number)], None);
        }
        let busy = log.channel(&"busy").expect("open");
        assert_eq!(log.after(9, &[busy]), None);
        assert_eq!(log.after(10, &[busy]).map(|messages| messages.len()), Some(REMEMBERED));
        let late = log.open("late", Vec::new());
        assert_eq!(log.after(20, &[busy, late]), None);
    }

    #[test]
    fn the_end_of_a_channel_is_told_and_a_later_one_is_another() {
        let mut log = Log::default();
        let first = log.open("one", vec![said(1)]);
        let second = log.open("one", vec![said(2)]);
        let end = log.close(&"one", first);
        assert_eq!((end.channel, end.said.is_none()), (first, true));
        assert_eq!(log.channel(&"one"), Some(second));
        log.close(&"one", second);
        assert_eq!(log.channel(&"one"), None);
        assert!(log.tell(&"one", vec![said(3)], None).is_empty());
    }
}
