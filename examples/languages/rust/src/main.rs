//! Sends each packet back. Runs on AWS Lambda as it is.

use lambda_runtime::{run, service_fn, Error, LambdaEvent};
use serde_json::{json, Value};

async fn echo(event: LambdaEvent<Value>) -> Result<Value, Error> {
    let packets = event.payload["Messages"].as_array();
    let replies: Vec<Value> =
        packets.into_iter().flatten().map(|packet| json!({ "Tag": packet["Tag"], "Data": packet["Data"] })).collect();
    Ok(json!({ "Replies": replies }))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    run(service_fn(echo)).await
}
