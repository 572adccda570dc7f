//! The Rust half: says hello, hears everyone, and insists on having heard both languages.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::error::Error;

use futures::StreamExt;
use serde_json::json;
use testground::client::Client;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let client = Client::new_and_init().await?;
    match meet(&client).await {
        Ok(()) => client.record_success().await?,
        Err(err) => client.record_failure(err.to_string()).await?,
    }
    Ok(())
}

async fn meet(client: &Client) -> Result<(), Box<dyn Error>> {
    let all = client.run_parameters().test_instance_count;
    client.publish("hello", Cow::Owned(json!({ "language": "rust" }))).await?;
    let mut heard = Vec::new();
    let mut stream = client.subscribe("hello", u16::MAX.into()).await;
    while (heard.len() as u64) < all {
        let hello = stream.next().await.ok_or("the subscription ended early")??;
        heard.push(hello["language"].as_str().unwrap_or_default().to_owned());
    }
    let languages: BTreeSet<&str> = heard.iter().map(String::as_str).collect();
    if languages != BTreeSet::from(["js", "rust"]) {
        return Err(format!("heard only {languages:?}").into());
    }
    client.signal_and_wait("done", all).await?;
    Ok(())
}
