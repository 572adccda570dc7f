//! Write test plans in Rust, for Groundswell and for Testground.
//!
//! A plan is a program whose instances run in many places at once. This crate is what they have in common: the run's
//! parameters, coordination between instances, the shape of the network, KPIs, and the outcome.
//!
//! ```no_run
//! use std::process::ExitCode;
//! use std::time::Duration;
//!
//! use groundswell_sdk::prelude::*;
//! use serde::Deserialize;
//!
//! #[derive(Deserialize)]
//! struct P {
//!     latency: Duration,   // "100ms"
//!     size: Bytes,         // "64KiB"
//! }
//!
//! fn main() -> ExitCode {
//!     groundswell_sdk::run(Cases::new().case("transfer", transfer))
//! }
//!
//! async fn transfer(cx: Ctx) -> Result {
//!     let p: P = cx.params()?;
//!     let net = cx.network();
//!     net.shape(Shape::new().latency(p.latency)).await?;
//!     let listener = tokio::net::TcpListener::bind((net.ip()?, 0)).await?;
//!
//!     // Everybody learns everybody's address.
//!     let peers = cx.exchange("addrs", &listener.local_addr()?).await?;
//!
//!     cx.phase("transfer", async {
//!         cx.stagger(Duration::from_secs(2)).await;
//!         let fetch = cx.timer("fetch_s");
//!         for peer in &peers {
//!             let stream = fetch.time(tokio::net::TcpStream::connect(peer.value)).await;
//!             cx.check(stream.is_ok(), format!("instance {} does not answer", peer.index));
//!         }
//!         Ok(())
//!     })
//!     .await?;
//!     cx.point("sent", p.size.0).unit("B").record();
//!     Ok(())
//! }
//! ```
//!
//! * [`run`] picks the case, and tells the platform how it ended: `Ok` is success, an error is a failure, a panic a
//!   crash, and so is being stopped a failure, `aborted`.
//! * [`Ctx`] is what a case works with.
//! * [`testing`] runs a case with all its instances in one `#[tokio::test]`. `cargo run -- --local 5` runs the plan in
//!   five processes, with nothing installed.
//!
//! Three parameters mean something to the crate itself: `seed` (what all randomness comes from; the run's, unless it is
//! given), `timeout` (when the case has to be over) and `role`.
//!
//! On Groundswell an instance survives the loss of its connection to the sync service, and nothing it asked for is
//! done twice. Other services do not know what that takes: there a lost connection ends the instance.

mod check;
mod context;
mod env;
mod events;
mod instance;
mod lines;
mod local;
mod metrics;
mod network;
mod outcome;
mod panics;
mod params;
mod rng;
mod run;
mod sampler;
mod sync;
mod units;

pub use context::Ctx;
pub use env::{EnvError, RunEnv, Subnet};
pub use events::Event;
pub use local::testing;
pub use metrics::{Counter, Histogram, Measure, Point};
pub use network::{Configuration, Filter, Network, NetworkError, Shape};
pub use outcome::{Outcome, Result};
pub use params::{ParamError, Params};
pub use rng::Rng;
pub use run::{Cases, run};
pub use sync::barrier::Barrier;
pub use sync::exchange::{Exchange, Member};
pub use sync::subscription::Subscription;
pub use sync::{Sync, SyncError};
pub use units::{Bytes, Percent, Rate, UnitError, duration};

/// What most plans use.
pub mod prelude {
    pub use crate::{
        Bytes, Cases, Ctx, Event, Filter, Member, Percent, Rate, Result, Rng, Shape, ensure,
    };
}
