//! One instance of the plan.

use testground::client::Client;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Waits until the network is there and every instance has come this far.
    let client = Client::new_and_init().await?;
    let params = client.run_parameters();
    let done = match params.test_case.as_str() {
        "hello" => hello(&client).await,
        case => Err(format!("there is no case {case}").into()),
    };
    // An instance that ends without saying how has failed.
    match done {
        Ok(()) => client.record_success().await?,
        Err(err) => client.record_failure(err.to_string()).await?,
    }
    Ok(())
}

async fn hello(client: &Client) -> Result<(), Box<dyn std::error::Error>> {
    let params = client.run_parameters();
    let greeting = params.test_instance_params.get("greeting").cloned().unwrap_or_default();
    client.record_message(format!("{greeting}, from instance {}", client.global_seq()));

    // Everyone says hello, and nobody leaves before all have.
    client.signal_and_wait("said-hello", params.test_instance_count).await?;
    Ok(())
}
