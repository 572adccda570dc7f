//! A topic as a stream.

use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::Stream;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use super::SyncError;
use super::calls::Item;

/// Messages kept for a reader that is behind. The service is asked for the rest when it has caught up.
pub(super) const BUFFER: usize = 1024;

/// Every message of a topic, from its first, in order. Dropping it ends the subscription.
///
/// It is a [`Stream`], and [`Subscription::next`] is there for those who do not use streams.
#[derive(Debug)]
pub struct Subscription<T> {
    topic: String,
    items: mpsc::Receiver<Item>,
    of: PhantomData<fn() -> T>,
}

impl<T> Subscription<T> {
    pub(super) fn new(topic: &str, items: mpsc::Receiver<Item>) -> Self {
        Self { topic: topic.to_owned(), items, of: PhantomData }
    }
}

impl<T: DeserializeOwned> Subscription<T> {
    /// The next message. It waits for ever where there is none.
    ///
    /// # Errors
    /// When the message is of another type, or the sync is lost.
    pub async fn next(&mut self) -> Result<T, SyncError> {
        match self.items.recv().await {
            Some(item) => self.read(item),
            None => Err(super::gone()),
        }
    }

    fn read(&self, item: Item) -> Result<T, SyncError> {
        serde_json::from_value(item?).map_err(|err| SyncError::Unreadable {
            topic: self.topic.clone(),
            why: err.to_string(),
        })
    }
}

impl<T: DeserializeOwned> Stream for Subscription<T> {
    type Item = Result<T, SyncError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.items.poll_recv(context).map(|item| item.map(|item| self.read(item)))
    }
}
