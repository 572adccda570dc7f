//! An object store that answers 503, hangs or breaks connections while outputs are stored.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use tokio::time::sleep;

use super::lab::{Lab, Setup};
use crate::hosts::Site;
use crate::services::S3;

/// What stands between the cluster and its object store.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Pass,
    Busy,
    Refuse,
    Hang,
    Reset,
}

/// A relay that may be told to misbehave.
struct Relay {
    mode: Arc<AtomicU8>,
}

impl Relay {
    fn start(listener: TcpListener, dial: impl Fn() -> TcpStream + Send + Sync + 'static) -> Self {
        let mode = Arc::new(AtomicU8::new(Mode::Pass as u8));
        let (now, dial) = (Arc::clone(&mode), Arc::new(dial));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let server = dial();
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let (from, to) = (from.try_clone(), to.try_clone());
                    let (client, now) = (client.try_clone(), Arc::clone(&now));
                    let (Ok(from), Ok(to), Ok(client)) = (from, to, client) else { continue };
                    std::thread::spawn(move || pump(from, to, &client, &now));
                }
            }
        });
        Self { mode }
    }

    fn be(&self, mode: Mode) {
        self.mode.store(mode as u8, Ordering::SeqCst);
    }
}

/// Carries what comes from one end to the other until it is told otherwise.
fn pump(mut from: TcpStream, mut to: TcpStream, mut client: &TcpStream, now: &AtomicU8) {
    let is = |mode: Mode| now.load(Ordering::SeqCst) == mode as u8;
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        let answer = [(Mode::Busy, "503 Slow Down"), (Mode::Refuse, "403 Forbidden")];
        if let Some((_, status)) = answer.into_iter().find(|(mode, _)| is(*mode)) {
            let text =
                format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            let _ = client.write_all(text.as_bytes());
            break;
        }
        while is(Mode::Hang) {
            #[expect(clippy::disallowed_methods, reason = "it hangs")]
            std::thread::sleep(Duration::from_millis(50));
        }
        if is(Mode::Reset) || to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make chaos"]
async fn outputs_wait_for_a_store_that_misbehaves() {
    // The store is on the hub, which is not there before the lab is: the lab finds it at an address that it knows.
    let variables = vec![
        ("GROUNDSWELL_S3_ENDPOINT", format!("http://{}:9000", Site::HUB)),
        ("AWS_ACCESS_KEY_ID", "key".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "secret".to_owned()),
    ];
    let objects = Some("s3://bucket/chaos".to_owned());
    let site = Site::new(9);
    let (inner, outer) = site.hub.enter(|| {
        let inner = TcpListener::bind("127.0.0.1:0").expect("bound");
        (inner, TcpListener::bind((Site::HUB, 9000)).expect("bound"))
    });
    let s3 = S3::on(inner);
    let address = s3.endpoint.trim_start_matches("http://").to_owned();
    let hub = site.hub.share();
    let relay = Relay::start(outer, move || {
        hub.enter(|| TcpStream::connect(&address).expect("the store is there"))
    });
    let lab = Lab::start_on(site, Setup { variables, objects, ..Setup::faster(4) }).await;
    for (mode, name) in [
        (Mode::Busy, "answers 503"),
        (Mode::Refuse, "answers 403"),
        (Mode::Hang, "hangs"),
        (Mode::Reset, "breaks every connection"),
    ] {
        let running =
            lab.submit("run = { test_params = { rounds = \"5\", pause_ms = \"10\" } }", "");
        running.until("phase=running");
        relay.be(mode);
        running.until("phase=collecting");
        sleep(Duration::from_secs(30)).await;
        relay.be(Mode::Pass);
        lab.ended(running, "passed");
        lab.note(&format!("object store {name} for 30 s while outputs are stored"), "passed");
    }
    // Its server has a runtime of its own, which ends by waiting.
    tokio::task::block_in_place(move || drop(s3));
}
