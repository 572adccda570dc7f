//! A cluster with the configuration that is shipped for its servers: TLS, keys, and permissions for each role.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::stream::Config;
use async_nats::{Client, ConnectOptions};
use futures::StreamExt as _;
use groundswell_common::nats_server;
use nix::sys::signal::{Signal, kill};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::time::{sleep, timeout};

use crate::harness::{Composition, Home, LIMIT, pid, repository, wait_until};

const WORKER: &str = "e2e-access";

/// One server, a coordinator and a worker, each with a key of its own.
struct Cluster {
    home: Home,
    url: String,
    processes: Vec<Child>,
}

impl Cluster {
    /// `config` is that of the coordinator, `viewer` what somebody needs who looks at the cluster.
    async fn start(config: &str, viewer: &[&str]) -> Self {
        let dir = Home::new();
        let port = free_port();
        let url = format!("tls://127.0.0.1:{port}");
        let store = format!("file://{}", dir.dir.path().join("store").display());
        let ca = dir.dir.path().join("ca.pem");
        let home = dir
            .with("GROUNDSWELL_NATS", url.clone())
            .with("GROUNDSWELL_OBJECTS", store.clone())
            .with("GROUNDSWELL_CA", ca.display().to_string());
        certificates(home.dir.path());
        let users: String = [
            ["--role", "coordinator", "coordinator.seed"].as_slice(),
            &["--role", "worker", "--name", WORKER, "worker.seed"],
            &["--role", "submitter", "submitter.seed"],
            &["--role", "viewer", "viewer.seed"],
        ]
        .map(|arguments| home.run(&[&["nkey"], arguments].concat()).ends_with(0).stdout)
        .concat();
        home.write("users.conf", &format!("users = [\n{users}]\n"));
        home.write("serve.toml", config);
        let server = server(&home, port).await;
        let mut cluster = Self { home, url, processes: vec![server] };
        let serve = cluster
            .home
            .command(&["serve", "--credentials", "coordinator.seed", "--config", "serve.toml"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("it serves");
        cluster.processes.push(serve);
        let worker = cluster.worker(&store);
        cluster.processes.push(worker);
        wait_until("the worker is there", LIMIT, || {
            let look = ["workers", "--json", "--credentials", "viewer.seed"];
            let listed = cluster.home.run(&[&look, viewer].concat());
            listed.stdout.contains("\"ready\"")
        });
        cluster
    }

    fn worker(&self, store: &str) -> Child {
        let binary = Path::new(env!("CARGO_BIN_EXE_coordinator")).with_file_name("worker");
        let config = format!(
            "name = \"{WORKER}\"\nslots = 10\nstate_dir = \"worker\"\n\
             [nats]\nurl = \"{}\"\ncredentials = \"worker.seed\"\nca = \"ca.pem\"\n\
             [objects]\nurl = \"{store}\"\n",
            self.url
        );
        self.home.write("worker.toml", &config);
        Command::new(binary)
            .args(["run", "--config", "worker.toml"])
            .current_dir(self.home.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the worker runs")
    }

    /// Connects as the owner of a seed; what the server refuses is collected.
    async fn connect(&self, seed: &str) -> (Client, Arc<Mutex<Vec<String>>>) {
        let dir = self.home.dir.path();
        let seed = std::fs::read_to_string(dir.join(seed)).expect("a seed");
        let refused = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&refused);
        let client = ConnectOptions::new()
            .nkey(seed.trim().to_owned())
            .add_root_certificates(dir.join("ca.pem"))
            .require_tls(true)
            .request_timeout(Some(Duration::from_millis(500)))
            .custom_inbox_prefix(format!("_INBOX_{WORKER}"))
            .event_callback(move |event| {
                noted.lock().expect("not poisoned").push(event.to_string());
                async {}
            })
            .connect(&self.url)
            .await
            .expect("connected");
        (client, refused)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // The worker cleans up, then the coordinator, then the server.
        for process in self.processes.iter_mut().rev() {
            let _ = kill(pid(process), Signal::SIGTERM);
            let _ = process.wait();
        }
    }
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("bound").port()
}

/// An authority, and a certificate of it for the server.
fn certificates(dir: &Path) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key"));
    let ca = ca.expect("an authority");
    let key = KeyPair::generate().expect("a key");
    let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
    let server = CertificateParams::new(names).expect("names").signed_by(&key, &ca);
    let write = |name: &str, pem: String| std::fs::write(dir.join(name), pem).expect("written");
    write("ca.pem", ca.pem());
    write("server.pem", server.expect("a certificate").pem());
    write("server-key.pem", key.serialize_pem());
}

/// A server with the shipped configuration, alone, on a port and with a store of this test.
async fn server(home: &Home, port: u16) -> Child {
    let shipped = repository().join("deploy/nats/server.conf");
    let shipped = std::fs::read_to_string(shipped).expect("a configuration");
    let (alone, _) = shipped.split_once("\ncluster {").expect("it has a part for clusters");
    let config = alone
        .replace("0.0.0.0:4222", &format!("127.0.0.1:{port}"))
        .replace("http: 127.0.0.1:8222", "")
        .replace("/var/lib/nats", &home.dir.path().join("nats").display().to_string());
    home.write("server.conf", &config);
    let binary: PathBuf = nats_server::find().await.expect("a nats-server");
    let mut server = Command::new(binary)
        .args(["-c", "server.conf"])
        .env("NATS_NAME", "alone")
        .current_dir(home.dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    let up = async {
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            let ended = server.try_wait().expect("it is ours");
            assert!(ended.is_none(), "the server ended: {ended:?}");
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LIMIT, up).await.expect("the server comes up");
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn each_role_does_its_own_and_nothing_else() {
    let cluster = Cluster::start("", &[]).await;
    let path = cluster.home.composition(&Composition::netns("placebo", "ok", 2));

    let submitted = cluster.home.run(&["submit", &path, "--credentials", "submitter.seed"]);
    submitted.ends_with(0).says("2 = 2 success");
    let listed = cluster.home.run(&["ls", "--credentials", "viewer.seed"]);
    listed.ends_with(0);
    let forbidden = cluster.home.run(&["submit", &path, "--credentials", "viewer.seed"]);
    forbidden.ends_with(5).says("these credentials do not allow `submit`");
    let stranger = cluster.home.run(&["ls"]);
    stranger.ends_with(5).says("failed to connect to NATS");

    let (worker, refused) = cluster.connect("worker.seed").await;
    for subject in [
        "$KV.gs_ctl.leader",
        "$KV.gs_sync_c8k3vmlrirtj2p8lcec0_1.another.1.1",
        "$JS.API.STREAM.DELETE.GS_ASSIGN",
        "$JS.API.CONSUMER.CREATE.GS_ASSIGN",
        "$JS.API.STREAM.MSG.GET.KV_gs_ctl",
        "$JS.API.DIRECT.GET.GS_ASSIGN",
        "$JS.API.DIRECT.GET.GS_ASSIGN.gs.v1.assign.another",
        "gs.v1.heartbeat.another",
        "gs.v1.api.cancel",
        "gs.v1.assign.another",
    ] {
        let answer = worker.request(subject, "{}".into()).await;
        assert!(answer.is_err(), "{subject}: {answer:?}");
        let said = format!("Publish to \"{subject}\"").to_lowercase();
        until(&refused, &said).await;
    }
    for subject in ["_INBOX.>", "_INBOX_user.>", "gs.v1.assigned.another", "gs.v1.api.>", "$KV.>"] {
        let mut heard = worker.subscribe(subject).await.expect("asked for");
        until(&refused, &format!("Subscription to \"{subject}\"").to_lowercase()).await;
        let nothing = timeout(Duration::from_millis(50), heard.next()).await;
        assert!(!matches!(nothing, Ok(Some(_))), "{subject}");
    }
    let jetstream = async_nats::jetstream::new(worker);
    let config = Config { name: "mine".to_owned(), ..Config::default() };
    jetstream.create_stream(config).await.expect_err("no streams of its own");
    let config = pull::Config::default();
    jetstream.create_consumer_on_stream(config, "GS_ASSIGN").await.expect_err("no consumers");
}

/// Waits until the server has said that it refuses something.
async fn until(refused: &Mutex<Vec<String>>, said: &str) {
    let told = async {
        while !refused.lock().expect("not poisoned").iter().any(|e| e.to_lowercase().contains(said))
        {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LIMIT, told).await.unwrap_or_else(|_| panic!("not refused: {said}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_a_token_may_do_what_it_is_for_until_it_is_revoked() {
    let config = "[access]\ntokens_required = true\nfirst_token = \"admin.token\"\n";
    let cluster = Cluster::start(config, &["--token-file", "admin.token"]).await;
    let seed = ["--credentials", "submitter.seed"];
    let run = |arguments: &[&str]| cluster.home.run(&[arguments, &seed].concat());
    let with =
        |token: &str, arguments: &[&str]| run(&[arguments, &["--token-file", token]].concat());
    let mode = std::fs::metadata(cluster.home.dir.path().join("admin.token")).expect("it is there");
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode.permissions()) & 0o777, 0o600);

    run(&["ls"]).ends_with(5).says("this cluster asks for a token").says("--token-file");
    let make = ["token", "create", "--name", "ci", "--scope", "submit", "--scope", "read"];
    let make = [&make, ["--team", "core", "--expires", "90d", "ci.token"].as_slice()].concat();
    with("admin.token", &make).ends_with(0).says("is in ci.token, and nowhere else");
    with("admin.token", &make).ends_with(2).says("secrets are not overwritten");

    let path = cluster.home.composition(&Composition::netns("placebo", "ok", 2));
    with("ci.token", &["submit", &path]).ends_with(0).says("2 = 2 success");
    with("ci.token", &["cancel", "latest"]).ends_with(4).says("is over already");
    with("ci.token", &["token", "ls"]).ends_with(5).says("does not have the scope `admin`");
    let listed = with("admin.token", &["token", "ls", "--json"]).ends_with(0);
    let tokens: serde_json::Value = serde_json::from_str(&listed.stdout).expect("JSON");
    let ci = tokens.as_array().expect("a list").iter().find(|one| one["name"] == "ci");
    let ci = ci.expect("it is listed");
    assert!(ci["used_ms"].is_u64() && ci["team"] == "core", "{ci}");
    let secret =
        std::fs::read_to_string(cluster.home.dir.path().join("ci.token")).expect("a token");
    let secret = secret.trim();
    assert!(!listed.stdout.contains(&secret[secret.len() - 43..]));

    let id = ci["id"].as_str().expect("an id");
    with("admin.token", &["token", "revoke", id]).ends_with(0);
    with("ci.token", &["ls"]).ends_with(5).says("the token is not one of this cluster's");
    with("admin.token", &["token", "revoke", id]).ends_with(4).says("there is no token");
    with("missing.token", &["ls"]).ends_with(2).says("failed to read the token file");
}
