//! What happens to some packets and not to others: loss, damage, duplicates, overtaking.

use std::time::Duration;

use groundswell_sdk::prelude::*;
use serde::Deserialize;

use crate::party::Party;
use crate::stream::{Fate, Stream};
use crate::theory::sigma;

#[derive(Debug, Deserialize)]
struct Params {
    shares: Vec<Percent>,
    packets: u32,
    packets_per_second: u32,
    #[serde(default)]
    latency: Duration,
}

/// What is asked of the link.
#[derive(Debug, Clone, Copy)]
enum Chance {
    Loss,
    Corrupt,
    Duplicate,
    Reorder,
}

/// Packets are lost.
pub(crate) async fn verify_loss(cx: Ctx) -> Result {
    Chance::Loss.verify(cx).await
}

/// Packets are damaged. Checksums find that, so that they are lost as well.
pub(crate) async fn corrupt(cx: Ctx) -> Result {
    Chance::Corrupt.verify(cx).await
}

/// Packets come twice.
pub(crate) async fn duplicate(cx: Ctx) -> Result {
    Chance::Duplicate.verify(cx).await
}

/// Packets overtake others, for which there has to be a latency.
pub(crate) async fn reorder(cx: Ctx) -> Result {
    Chance::Reorder.verify(cx).await
}

impl Chance {
    fn shape(self, percent: f64) -> Shape {
        let shape = Shape::new();
        match self {
            Self::Loss => shape.loss_pct(percent),
            Self::Corrupt => shape.corrupt_pct(percent),
            Self::Duplicate => shape.duplicate_pct(percent),
            Self::Reorder => shape.reorder_pct(percent),
        }
    }

    fn kpi(self) -> &'static str {
        match self {
            Self::Loss => "loss_ratio",
            Self::Corrupt => "corrupt_ratio",
            Self::Duplicate => "duplicate_ratio",
            Self::Reorder => "reorder_ratio",
        }
    }

    /// To how many packets it happened.
    fn asked(self, fate: &Fate) -> u64 {
        match self {
            Self::Loss | Self::Corrupt => fate.missing,
            Self::Duplicate => fate.copies,
            Self::Reorder => fate.ahead,
        }
    }

    /// To how many packets happened what nobody asked for.
    fn unasked(self, fate: &Fate) -> u64 {
        let Fate { missing, copies, ahead, wrong, damaged, .. } = *fate;
        match self {
            Self::Loss => copies + ahead + wrong + damaged,
            Self::Corrupt => copies + ahead + wrong,
            Self::Duplicate => missing + ahead + wrong,
            Self::Reorder => missing + copies + wrong,
        }
    }

    async fn verify(self, cx: Ctx) -> Result {
        let params: Params = cx.params()?;
        let party = Party::meet(&cx, 2).await?;
        for (round, share) in (1..).zip(&params.shares) {
            ensure!(
                share.0 > 0.0 && share.0 < 100.0,
                "the parameter `shares` has {} % in its list: what happens always or never is not verified here",
                share.0
            );
            let name = format!("{}%", share.0);
            let shape = self.shape(share.0).latency(params.latency);
            cx.phase(&format!("shape-{name}"), async {
                if party.asks() { party.shape(shape).await } else { Ok(()) }
            })
            .await?;
            let stream = Stream {
                round,
                name: &name,
                packets: params.packets,
                per_second: params.packets_per_second,
            };
            let fate = cx.phase(&format!("stream-{name}"), stream.run(&party)).await?;
            if let Some(fate) = fate {
                self.record(&party, &fate, *share, &name).await?;
            }
        }
        Ok(())
    }

    async fn record(self, party: &Party, fate: &Fate, share: Percent, name: &str) -> Result {
        let cx = &party.cx;
        let ratio = |count: u64| count as f64 / fate.sent as f64;
        cx.point(self.kpi(), ratio(self.asked(fate))).unit("ratio").tag("share", name).record();
        cx.point("unasked_ratio", ratio(self.unasked(fate))).unit("ratio").record();
        cx.point("sent", fate.sent).unit("count").record();
        cx.point("missing", fate.missing).unit("count").record();
        cx.point("damaged", fate.damaged).unit("count").record();
        cx.point("socket_full", fate.full).unit("count").record();
        // Chance is judged once, over the whole run.
        if let Some(all) = party.gather(&format!("fate-{name}"), fate).await? {
            let mut run = Fate::default();
            all.iter().for_each(|fate| run.merge(fate));
            let sigma = sigma(self.asked(&run), run.sent, share.ratio());
            cx.point("sigma", sigma).tag("share", name).record();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use groundswell_sdk::testing::Local;

    use super::*;
    use crate::party::TURN;

    #[test]
    fn what_is_asked_for_is_not_unasked() {
        let fate = Fate { sent: 9, missing: 1, copies: 2, ahead: 3, wrong: 0, damaged: 1, full: 0 };
        let told = |chance: Chance| (chance.asked(&fate), chance.unasked(&fate));
        assert_eq!(told(Chance::Loss), (1, 6));
        assert_eq!(told(Chance::Corrupt), (1, 5));
        assert_eq!(told(Chance::Duplicate), (2, 4));
        assert_eq!(told(Chance::Reorder), (3, 3));
    }

    #[tokio::test]
    async fn a_stream_goes_from_one_to_the_other() {
        let _turn = TURN.lock().await;
        let run = Local::new(2).unshaped().param("shares", r#"["5%"]"#);
        let run = run.param("packets", 100).param("packets_per_second", 1000);
        run.run(verify_loss).await.assert_success();
        let always = Local::new(2).unshaped().param("shares", r#"["100%"]"#);
        let always = always.param("packets", 1).param("packets_per_second", 1);
        assert!(!always.run(verify_loss).await.0[0].is_success());
    }
}
