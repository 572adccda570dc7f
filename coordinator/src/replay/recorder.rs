//! Takes in what happens in a run, and has it as a replay file.

use std::collections::VecDeque;

use groundswell_common::run::RunEvent;

use super::format::{self, BLOCK_MS, Change, Header, Place, Step, Unreadable};

/// Blocks that are not written yet: events of workers come with their own times, a little late.
const OPEN: usize = 2;
/// What steps tell anyway.
const LEFT_OUT: &str = "instance_started";

/// A file that grows.
#[derive(Debug)]
pub struct Recorder {
    /// Header and whole blocks.
    bytes: Vec<u8>,
    blocks: Vec<Place>,
    /// In the order of time; the last one takes steps.
    open: VecDeque<Open>,
    /// The newest values, channel by channel.
    values: Vec<Vec<u8>>,
}

/// A block that is not written yet.
#[derive(Debug)]
struct Open {
    start_ms: u64,
    keyframe: Vec<Vec<u8>>,
    steps: Vec<Step>,
    events: Vec<(u64, Vec<u8>)>,
}

impl Open {
    fn end_ms(&self) -> u64 {
        (self.start_ms / BLOCK_MS + 1) * BLOCK_MS
    }

    fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.events.is_empty()
    }
}

impl Recorder {
    /// A file without blocks. All values are 0.
    #[must_use]
    pub fn new(header: &Header) -> Self {
        let instances = usize::try_from(header.instances).unwrap_or(0);
        Self {
            bytes: format::header(header),
            blocks: Vec::new(),
            open: VecDeque::new(),
            values: vec![vec![0; instances]; header.channels.len()],
        }
    }

    /// Goes on with a file of another coordinator, behind its last whole block.
    ///
    /// # Errors
    /// When it is not such a file.
    pub fn continued(mut bytes: Vec<u8>) -> Result<Self, Unreadable> {
        let (header, start, blocks) = format::read(&bytes)?;
        let end = blocks.last().map_or(start, |last| {
            usize::try_from(last.offset).unwrap_or(start) + last.length as usize
        });
        bytes.truncate(end);
        Ok(Self { bytes, blocks, ..Self::new(&header) })
    }

    /// How many instances it is about.
    #[must_use]
    pub fn instances(&self) -> usize {
        self.values.first().map_or(0, Vec::len)
    }

    /// Every instance has these values in a channel from a moment on, in milliseconds since the submission. Moments do
    /// not go back; an earlier one counts as the last one.
    pub fn sample(&mut self, at_ms: u64, channel: usize, values: &[u8]) {
        let Some(known) = self.values.get(channel).filter(|known| known.len() == values.len())
        else {
            return;
        };
        let Some(what) = Change::between(known, values) else { return };
        let keyframe = self.values.clone();
        let block = self.newest(at_ms, keyframe);
        let at = at_ms.saturating_sub(block.start_ms).min(block.end_ms() - block.start_ms - 1);
        let last = block.steps.last().map_or(0, |step| step.at);
        let at = u16::try_from(at).unwrap_or(u16::MAX).max(last);
        block.steps.push(Step { at, channel: u8::try_from(channel).unwrap_or(0), what });
        self.values[channel] = values.to_vec();
    }

    /// Something happened. What is too late for its block is in the event log only.
    pub fn event(&mut self, event: &RunEvent) {
        if event.kind == LEFT_OUT {
            return;
        }
        let Ok(mut line) = serde_json::to_vec(event) else { return };
        line.push(b'\n');
        let newest = self.open.back().is_none_or(|block| event.at_ms >= block.end_ms());
        if newest {
            let keyframe = self.values.clone();
            self.newest(event.at_ms, keyframe);
        }
        let is_its = |block: &&mut Open| (block.start_ms..block.end_ms()).contains(&event.at_ms);
        if let Some(block) = self.open.iter_mut().find(is_its) {
            block.events.push((event.at_ms, line));
        }
    }

    /// The block of a moment, or the newest one if that is later.
    fn newest(&mut self, at_ms: u64, keyframe: Vec<Vec<u8>>) -> &mut Open {
        if self.open.back().is_none_or(|block| at_ms >= block.end_ms()) {
            let written = self.blocks.last().map_or(0, |last| u64::from(last.end_ms));
            // The first one may begin anywhere; what another coordinator has written is not written again.
            let start_ms = (at_ms / BLOCK_MS * BLOCK_MS).max(written);
            let open = Open { start_ms, keyframe, steps: Vec::new(), events: Vec::new() };
            self.open.push_back(open);
        }
        while self.open.len() > OPEN {
            let block = self.open.pop_front();
            block.into_iter().for_each(|block| self.write(block, None));
        }
        let last = self.open.len() - 1;
        &mut self.open[last]
    }

    fn write(&mut self, mut block: Open, end_ms: Option<u64>) {
        if block.is_empty() {
            return;
        }
        let end_ms = end_ms.unwrap_or(u64::MAX).clamp(block.start_ms + 1, block.end_ms());
        let time = |ms: u64| u32::try_from(ms).unwrap_or(u32::MAX);
        let times = (time(block.start_ms), time(end_ms));
        block.events.sort_by_key(|(at_ms, _)| *at_ms);
        let events: Vec<u8> = block.events.into_iter().flat_map(|(_, line)| line).collect();
        // Packing in memory does not fail.
        let Ok(bytes) = format::block(times, &block.keyframe, &block.steps, &events) else {
            return;
        };
        self.blocks.push(Place {
            start_ms: times.0,
            end_ms: times.1,
            offset: self.bytes.len() as u64,
            length: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
        });
        self.bytes.extend(bytes);
    }

    /// Writes the blocks that are over for so long that nothing of them is expected any more.
    pub fn advance(&mut self, now_ms: u64) {
        let over = |block: &Open| now_ms >= block.end_ms() + BLOCK_MS;
        while self.open.front().is_some_and(over) {
            let block = self.open.pop_front();
            block.into_iter().for_each(|block| self.write(block, None));
        }
    }

    /// How many blocks are written.
    #[must_use]
    pub fn written(&self) -> usize {
        self.blocks.len()
    }

    /// The file as far as it is written.
    #[must_use]
    pub fn so_far(&self) -> &[u8] {
        &self.bytes
    }

    /// The whole file of a run that was over at a moment.
    #[must_use]
    pub fn finish(&self, end_ms: u64) -> Vec<u8> {
        let mut whole = Self {
            bytes: self.bytes.clone(),
            blocks: self.blocks.clone(),
            open: VecDeque::new(),
            values: Vec::new(),
        };
        let last = self.open.len().saturating_sub(1);
        for (number, block) in self.open.iter().enumerate() {
            let block = Open {
                start_ms: block.start_ms,
                keyframe: block.keyframe.clone(),
                steps: block.steps.clone(),
                events: block.events.clone(),
            };
            let latest = block.events.iter().map(|(at_ms, _)| *at_ms).max().unwrap_or(0);
            let steps = block.steps.last().map_or(0, |step| block.start_ms + u64::from(step.at));
            let end = (number == last).then(|| end_ms.max(latest + 1).max(steps + 1));
            whole.write(block, end);
        }
        let offset = whole.bytes.len() as u64;
        let end = format::end(offset, &whole.blocks);
        whole.bytes.extend(end);
        whole.bytes
    }
}
