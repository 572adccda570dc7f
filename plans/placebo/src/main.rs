//! Ends in every way an instance can end, so that the test bed can show what it makes of each.

use std::error::Error;

use testground::client::Client;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let case = std::env::var("TEST_CASE")?;
    if case == "silent" {
        println!(r#"{{"event":{{"success_event":{{"group":"all"}}}}}}"#);
        return Ok(());
    }
    let client = Client::new_and_init().await?;
    match case.as_str() {
        "ok" => client.record_success().await?,
        "fail" => client.record_failure("asked to fail").await?,
        "contradict" => {
            client.clone().record_failure("first a failure").await?;
            client.record_success().await?;
        }
        "exit-code" => {
            client.record_success().await?;
            std::process::exit(7);
        }
        "panic" => panic!("asked to panic"),
        "kill" => std::process::abort(),
        "oom" => eat(),
        "stall" => stall(&client).await?,
        other => client.record_failure(format!("there is no case `{other}`")).await?,
    }
    Ok(())
}

/// Takes memory until the kernel ends it.
fn eat() {
    let mut kept: Vec<Vec<u8>> = Vec::new();
    loop {
        kept.push(vec![kept.len() as u8 | 1; 1 << 20]);
        std::hint::black_box(&kept);
    }
}

/// The first instance never comes to the barrier in which all others wait.
async fn stall(client: &Client) -> Result<(), Box<dyn Error>> {
    if client.global_seq() == 1 {
        std::future::pending::<()>().await;
    }
    let wait = client.signal_and_wait("never", client.run_parameters().test_instance_count);
    wait.await?;
    Ok(())
}
