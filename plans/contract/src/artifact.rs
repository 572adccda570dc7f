//! Outputs come back as they were written.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;

use groundswell_sdk::prelude::*;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tokio::task::yield_now;

/// Written at once.
const CHUNK: usize = 1 << 20;
const NAME: &str = "artifact.bin";

#[derive(Debug, Deserialize)]
struct Params {
    size: Bytes,
}

/// Writes a file of random bytes, and beside it their digest as `sha256sum --check` reads it.
pub(crate) async fn write(cx: Ctx) -> Result {
    let params: Params = cx.params()?;
    let mut rng = cx.rng("artifact");
    let mut chunk = vec![0; CHUNK];
    let mut hasher = Sha256::new();
    let mut file = File::create(cx.output(NAME))?;
    let mut left = params.size.0;
    while left > 0 {
        let length = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        let part = &mut chunk[..length];
        rng.fill(part);
        hasher.update(&*part);
        file.write_all(part)?;
        left -= length as u64;
        // The sync's connection lives on the same thread.
        yield_now().await;
    }
    file.sync_all()?;
    let digest = hex(&hasher.finalize());
    std::fs::write(cx.output("artifact.sha256"), format!("{digest}  {NAME}\n"))?;
    cx.point("artifact_B", params.size.0).unit("B").record();
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        // A string takes everything.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use groundswell_sdk::testing::Local;

    use super::*;

    #[tokio::test]
    async fn the_digest_is_that_of_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let run = Local::new(2).param("size", CHUNK + 7).outputs(dir.path());
        run.run(write).await.assert_success();
        let read = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
        let bytes = read("0/artifact.bin");
        assert_eq!(bytes.len(), CHUNK + 7);
        let digest = hex(&Sha256::digest(&bytes));
        assert_eq!(read("0/artifact.sha256"), format!("{digest}  {NAME}\n").into_bytes());
        assert_ne!(bytes, read("1/artifact.bin"));
    }
}
