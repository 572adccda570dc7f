//! How many instances a second a runtime makes ready and lets go.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use groundswell_common::ids::{Attempt, Epoch, InstanceId, RunId, WorkerId};
use groundswell_common::messages::{ImageKind, ImageRef, Resources};
use groundswell_common::network::DataPath;
use groundswell_common::objects::file_digest;
use tokio::time::Instant;

use crate::network::wire::WireSpec;
use crate::runtime::{Created, InstanceLabels, InstanceSpec, Runtime};

/// How long the steps took for all instances together.
#[derive(Debug, Clone, Copy)]
pub struct Took {
    /// Until all were ready to be let go.
    pub ready: Duration,
    /// Until all were let go.
    pub started: Duration,
    /// Until all were ended and removed.
    pub removed: Duration,
}

/// An image with nothing in it, whose process is a program of the host that waits.
///
/// # Errors
/// When it cannot be written.
pub fn waiting_image(blob: &Path) -> anyhow::Result<ImageRef> {
    let mut archive = tar::Builder::new(zstd::Encoder::new(Vec::new(), 1)?);
    let mut header = tar::Header::new_gnu();
    header.set_size(0);
    header.set_mode(0o644);
    archive.append_data(&mut header, "nothing", std::io::empty())?;
    fs::write(blob, archive.into_inner()?.finish()?)?;
    image(blob, &["/bin/sleep", "1000"])
}

/// The image that a blob holds.
///
/// # Errors
/// When it cannot be read.
pub fn image(blob: &Path, command: &[&str]) -> anyhow::Result<ImageRef> {
    Ok(ImageRef {
        kind: ImageKind::Bundle,
        digest: file_digest(blob)?,
        size: fs::metadata(blob)?.len(),
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        workdir: String::new(),
        env: BTreeMap::new(),
    })
}

/// Makes `count` instances as fast as the runtime takes them, lets them go, and removes them. `dir` is for what
/// they write.
///
/// # Errors
/// When one of them cannot be made or removed.
pub async fn starts(
    runtime: &dyn Runtime,
    worker: &WorkerId,
    (image, blob): (&ImageRef, &Path),
    dir: &Path,
    count: u32,
) -> anyhow::Result<Took> {
    runtime.fetch(image, blob).await?;
    let specs = (0..count).map(|number| spec(worker, image, dir, number));
    let specs = specs.collect::<Result<Vec<_>, _>>()?;

    let began = Instant::now();
    let making = specs.into_iter().map(|spec| runtime.create(spec));
    let made: Vec<Created> = futures::future::try_join_all(making).await?;
    let ready = began.elapsed();

    let began = Instant::now();
    let starting = made.iter().map(|created| created.instance.start());
    for started in futures::future::join_all(starting).await {
        started?;
    }
    let started = began.elapsed();

    let began = Instant::now();
    for created in &made {
        created.instance.kill().await;
    }
    for created in &made {
        created.instance.remove().await?;
    }
    Ok(Took { ready, started, removed: began.elapsed() })
}

fn spec(
    worker: &WorkerId,
    image: &ImageRef,
    dir: &Path,
    number: u32,
) -> anyhow::Result<InstanceSpec> {
    let [outputs, temp] = ["outputs", "temp"].map(|name| dir.join(format!("{name}-{number}")));
    fs::create_dir_all(&outputs)?;
    fs::create_dir_all(&temp)?;
    Ok(InstanceSpec {
        labels: InstanceLabels {
            run: RunId::new(1_700_000_000),
            attempt: Attempt::FIRST,
            instance: InstanceId(number),
            worker: worker.clone(),
            epoch: Epoch(1),
            plan: "bench".to_owned(),
            case: "start".to_owned(),
            group: "all".to_owned(),
            in_group: number,
        },
        image: image.clone(),
        env: (0..20).map(|n| (format!("TEST_VARIABLE_{n}"), "some value".to_owned())).collect(),
        hostname: format!("instance-{number}"),
        outputs,
        temp,
        datasets: Vec::new(),
        hosts: BTreeMap::from([("testground-sync-service".to_owned(), Ipv4Addr::LOCALHOST)]),
        resources: Resources { pids: Some(100), memory_bytes: Some(64 << 20), cpu_cores: None },
        ulimits: Vec::new(),
        wire: WireSpec {
            address: Ipv4Addr::from(0x1000_0002 + number),
            prefix: 16,
            mtu: 1500,
            data_path: DataPath::Switch,
        },
        behind: None,
        keep: false,
        read_only_root: false,
        again: false,
    })
}
