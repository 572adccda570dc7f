//! One connection's part of [`streams`](super::streams).

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use tokio::sync::watch;

use super::libp2p::core::{InboundUpgrade, OutboundUpgrade, UpgradeInfo};
use super::libp2p::swarm::handler::{
    ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound,
};
use super::libp2p::swarm::{
    ConnectionHandler, ConnectionHandlerEvent, Stream, StreamProtocol, StreamUpgradeError,
    SubstreamProtocol,
};
use super::streams::{Request, Waiter};

/// A stream that the peer has opened.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(super) protocol: StreamProtocol,
    pub(super) stream: Stream,
}

/// Opens and takes the streams of one connection.
pub(crate) struct Handler {
    accepted: watch::Receiver<Vec<StreamProtocol>>,
    requests: VecDeque<Request>,
    incoming: VecDeque<Accepted>,
}

impl Handler {
    pub(super) fn new(accepted: watch::Receiver<Vec<StreamProtocol>>) -> Self {
        Self { accepted, requests: VecDeque::new(), incoming: VecDeque::new() }
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Request;
    type ToBehaviour = Accepted;
    type InboundProtocol = Agreement;
    type OutboundProtocol = Agreement;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = Waiter;

    fn listen_protocol(&self) -> SubstreamProtocol<Agreement, ()> {
        SubstreamProtocol::new(Agreement(self.accepted.borrow().clone()), ())
    }

    fn on_behaviour_event(&mut self, request: Request) {
        self.requests.push_back(request);
    }

    fn poll(
        &mut self,
        _: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Agreement, Waiter, Accepted>> {
        if let Some(accepted) = self.incoming.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(accepted));
        }
        let Some(Request { protocol, waiter }) = self.requests.pop_front() else {
            return Poll::Pending;
        };
        let protocol = SubstreamProtocol::new(Agreement(vec![protocol]), waiter);
        Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol })
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "versions differ in what else there is")]
    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<'_, Agreement, Agreement, (), Waiter>,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: (stream, protocol),
                ..
            }) => self.incoming.push_back(Accepted { protocol, stream }),
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol: (stream, _),
                info: waiter,
            }) => waiter.opened(stream),
            ConnectionEvent::DialUpgradeError(DialUpgradeError { error, info: waiter }) => {
                waiter.failed(match error {
                    StreamUpgradeError::NegotiationFailed => {
                        "the peer does not speak this protocol".to_owned()
                    }
                    StreamUpgradeError::Timeout => "the peer did not answer in time".to_owned(),
                    StreamUpgradeError::Io(err) => err.to_string(),
                    StreamUpgradeError::Apply(never) => match never {},
                });
            }
            _ => {}
        }
    }
}

/// Both sides agree on one of these protocols, and that is all.
#[derive(Debug)]
pub(crate) struct Agreement(Vec<StreamProtocol>);

impl UpgradeInfo for Agreement {
    type Info = StreamProtocol;
    type InfoIter = std::vec::IntoIter<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.clone().into_iter()
    }
}

impl InboundUpgrade<Stream> for Agreement {
    type Output = (Stream, StreamProtocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, protocol: StreamProtocol) -> Self::Future {
        ready(Ok((stream, protocol)))
    }
}

impl OutboundUpgrade<Stream> for Agreement {
    type Output = (Stream, StreamProtocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_outbound(self, stream: Stream, protocol: StreamProtocol) -> Self::Future {
        ready(Ok((stream, protocol)))
    }
}
