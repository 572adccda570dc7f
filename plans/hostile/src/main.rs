//! Does what an instance must not do, so that the test bed can show that nobody else notices.
//!
//! `disk` fills directories, `sync` abuses the sync service, `host` tries to get at the host; README.md lists it all.

mod disk;
mod host;
mod sync;

use std::error::Error;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use testground::client::Client;

/// Between two barriers of those that behave.
const PAUSE: Duration = Duration::from_millis(50);

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// What an instance does; an error says what it could do and should not.
#[tokio::main]
async fn main() -> Result<()> {
    let client = Client::new_and_init().await?;
    match abuse(&client).await {
        Ok(()) => client.record_success().await?,
        Err(err) => client.record_failure(err.to_string()).await?,
    }
    Ok(())
}

async fn abuse(client: &Client) -> Result<()> {
    let what = parameter(client, "what")?;
    let time = Duration::from_secs(parameter(client, "seconds")?.parse()?);
    let outputs = client.run_parameters().test_outputs_path;
    match what.as_str() {
        "nothing" => behave(client, time).await,
        "fork" => fork(client),
        "memory" => eat(),
        "outputs" => disk::fill(&outputs),
        "temp" => disk::fill(Path::new("/temp")),
        "tmp" => disk::fill_to_the_brim(Path::new("/tmp")),
        "print" => print(time),
        "sparse" => disk::sparse(&outputs),
        "links" => disk::links(&outputs),
        "files" => disk::files(&outputs),
        "deep" => disk::deep(&outputs),
        "payload" => sync::payload(client),
        "flood" => sync::flood(client, time),
        "keys" => sync::keys(client),
        "connect" => host::connect(&parameter(client, "targets")?),
        "escape" => host::escape(),
        "write" => host::write(),
        other => Err(format!("there is no `{other}`").into()),
    }
}

fn parameter(client: &Client, name: &str) -> Result<String> {
    let given = client.run_parameters().test_instance_params;
    Ok(given.get(name).ok_or_else(|| format!("parameter `{name}` is missing"))?.clone())
}

/// Passes one barrier after the other with its group.
async fn behave(client: &Client, time: Duration) -> Result<()> {
    let parameters = client.run_parameters();
    let (group, all) = (parameters.test_group_id, parameters.test_group_instance_count);
    let mut longest = Duration::ZERO;
    for round in 0..time.as_millis() / PAUSE.as_millis() {
        let start = Instant::now();
        client.signal_and_wait(format!("{group} {round}"), all).await?;
        longest = longest.max(start.elapsed());
        tokio::time::sleep(PAUSE).await;
    }
    client.record_message(format!("longest round {} ms", longest.as_millis()));
    Ok(())
}

/// Every process makes others until there are no more to be had.
fn fork(client: &Client) -> Result<()> {
    let mut made = 0_u32;
    loop {
        // SAFETY: the child calls only what may be called after a fork, and never returns.
        match unsafe { libc::fork() } {
            0 => unsafe {
                loop {
                    if libc::fork() < 0 {
                        libc::usleep(1000);
                    }
                }
            },
            -1 => break,
            _ => made += 1,
        }
    }
    client.record_message(format!("made {made} processes myself"));
    std::thread::sleep(Duration::from_secs(1));
    Ok(())
}

/// Takes memory until the kernel ends it.
fn eat() -> Result<()> {
    let mut kept: Vec<Vec<u8>> = Vec::new();
    loop {
        kept.push(vec![kept.len() as u8 | 1; 1 << 20]);
        std::hint::black_box(&kept);
    }
}

fn print(time: Duration) -> Result<()> {
    let (begin, chunk) = (Instant::now(), "flood ".repeat(10_000));
    let mut stdout = std::io::stdout().lock();
    while begin.elapsed() < time {
        writeln!(stdout, "{chunk}")?;
    }
    Ok(())
}
