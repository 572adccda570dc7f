//! The `netns` runtime against the real kernel. Needs root.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test, in helpers too")]

mod common_netns;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use common_netns::{Rig, docker_image, leftovers, output, processes_with, wait_until};
use groundswell_common::ids::WorkerId;
use groundswell_common::nat::NatKind;
use groundswell_worker::network::nat::TreeSpec;
use groundswell_worker::network::wire::SYNC_PORT;
use groundswell_worker::runtime::{Behind, Created, LinkState, Runtime, RuntimeError};
use tokio::net::TcpSocket;

const LIMIT: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_held_instance_runs_nothing_until_it_is_started() {
    let rig = Rig::new().await;
    let spec = rig.spec(0, "echo hello; echo trouble >&2; echo written > /outputs/file");
    let outputs = spec.outputs.clone();
    let created = rig.runtime.create(spec).await.unwrap();
    assert!(!outputs.join("file").exists());
    created.instance.start().await.unwrap();
    let exit = created.instance.wait().await;
    assert_eq!((exit.code, exit.signal, exit.oom_killed), (Some(0), None, false));
    assert_eq!(output(created.stdout).await, "hello\n");
    assert_eq!(output(created.stderr).await, "trouble\n");
    assert_eq!(std::fs::read_to_string(outputs.join("file")).unwrap(), "written\n");
    created.instance.remove().await.unwrap();
    assert!(rig.runtime.missing().is_empty(), "{:?}", rig.runtime.missing());
}

#[tokio::test]
async fn the_environment_is_the_given_one_and_a_path() {
    let rig = Rig::new().await;
    let mut spec = rig.spec(0, "");
    spec.image.command = vec!["/usr/bin/env".to_owned()];
    spec.env.insert("TEST_INSTANCE_PARAMS".to_owned(), "a=b|c={\"d\":[1]}".to_owned());
    let (_, text, _) = rig.run(spec).await;
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(lines[0].starts_with("PATH=/usr"));
    assert_eq!(lines[1], "TEST_INSTANCE_PARAMS=a=b|c={\"d\":[1]}");
}

#[tokio::test]
async fn an_instance_sees_its_own_things_and_nothing_private_of_the_host() {
    let rig = Rig::new().await;
    let script = "hostname; cat /etc/hosts; pwd; ./run.sh; \
        touch /x /usr/x /plan/x && echo writable; echo x > /proc/sys/kernel/panic && echo settings; \
        touch /tmp/x /temp/x /dev/shm/x && echo scratch; ls /home /root /run; \
        ls -d /etc/shadow /var/lib /sys; grep -E 'NoNewPrivs|Seccomp:|CapBnd|SigBlk|SigIgn' /proc/self/status; \
        cat /proc/self/oom_score_adj; unshare -U true || echo no namespaces; \
        ulimit -c; ulimit -n; echo pid $$ of $(ls -d /proc/[0-9]* | wc -l)";
    let mut spec = rig.spec(3, script);
    spec.hosts.insert("testground-sync-service".to_owned(), Ipv4Addr::LOCALHOST);
    spec.ulimits = vec!["nofile=777:999".to_owned()];
    let (_, text, errors) = rig.run(spec).await;
    for expected in [
        "instance-3\n",
        "127.0.0.1\ttestground-sync-service\n",
        "16.0.0.5\tinstance-3\n",
        "\n/plan\nran\n",
        "\nscratch\n/home:\n\n/root:\n\n/run:\n",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        "\n500\nno namespaces\n",
        "CapBnd:\t00000000000004fb",
        "SigBlk:\t0000000000000000",
        "SigIgn:\t0000000000000000",
        "\n0\n777\npid 2 of ",
    ] {
        assert!(text.contains(expected), "{expected:?} is not in:\n{text}\n{errors}");
    }
    assert!(!text.contains("writable") && !text.contains("settings"), "{text}");
    for hidden in ["/etc/shadow", "/var/lib", "/sys"] {
        assert!(errors.contains(&format!("'{hidden}': No such file")), "{hidden}: {errors}");
    }
}

#[tokio::test]
async fn an_exit_code_and_a_signal_are_told_apart() {
    let rig = Rig::new().await;
    let (exit, _, _) = rig.run(rig.spec(0, "exit 7")).await;
    assert_eq!((exit.code, exit.signal), (Some(7), None));
    let (exit, _, _) = rig.run(rig.spec(1, "kill -SEGV $$")).await;
    assert_eq!((exit.code, exit.signal), (None, Some(11)));
}

#[tokio::test]
async fn a_command_that_cannot_run_is_the_plans_fault() {
    let rig = Rig::new().await;
    let mut spec = rig.spec(0, "");
    spec.image.command = vec!["no-such-program".to_owned()];
    let refused = rig.runtime.create(spec).await.err();
    assert!(
        matches!(&refused, Some(RuntimeError::Plan(text)) if text.contains("no-such-program")),
        "{refused:?}"
    );
    let mut spec = rig.spec(1, "");
    spec.image.command = vec!["broken".to_owned()];
    let created = rig.runtime.create(spec).await.unwrap();
    let refused = created.instance.start().await.err();
    assert!(
        matches!(&refused, Some(RuntimeError::Plan(text)) if text.contains("interpreter")),
        "{refused:?}"
    );
    assert_eq!(created.instance.wait().await.code, Some(127));
}

#[tokio::test]
async fn running_out_of_memory_is_counted() {
    let rig = Rig::new().await;
    let mut spec = rig.spec(0, "exec tail /dev/zero");
    spec.resources.memory_bytes = Some(32 << 20);
    let (exit, _, _) = rig.run(spec).await;
    assert_eq!((exit.signal, exit.oom_killed), (Some(9), true));
}

#[tokio::test]
async fn a_fork_bomb_meets_its_limit() {
    let rig = Rig::new().await;
    let script = "i=0; while [ $i -lt 200 ]; do sleep 1000 & i=$((i+1)); done; echo all";
    let mut spec = rig.spec(0, script);
    spec.image.command[0] = "sh".to_owned();
    spec.resources.pids = Some(20);
    spec.resources.cpu_cores = Some(0.5);
    let (exit, text, errors) = rig.run(spec).await;
    assert_ne!(exit.code, Some(0));
    assert!(!text.contains("all"), "{text}");
    assert!(errors.to_lowercase().contains("fork"), "{errors}");
}

#[tokio::test]
async fn terminate_asks_and_kill_does_not() {
    let rig = Rig::new().await;
    let script = "trap 'echo asked; exit 3' TERM; echo up; while :; do sleep 0.05; done";
    let mut created = rig.runtime.create(rig.spec(0, script)).await.unwrap();
    created.instance.start().await.unwrap();
    rig.expect_line(&mut created.stdout, "up").await;
    created.instance.terminate().await;
    assert_eq!(created.instance.wait().await.code, Some(3));

    let script = "trap '' TERM; sleep 1000 & echo up; sleep 1000";
    let mut created = rig.runtime.create(rig.spec(1, script)).await.unwrap();
    created.instance.start().await.unwrap();
    rig.expect_line(&mut created.stdout, "up").await;
    created.instance.kill().await;
    assert_eq!(created.instance.wait().await.signal, Some(9));
    assert_eq!(created.instance.wait().await.signal, Some(9));
}

#[tokio::test]
async fn each_instance_has_a_data_interface_with_its_address() {
    let rig = Rig::new().await;
    for instance in [0_u8, 1] {
        let spec = rig.spec(u32::from(instance), "ip -4 -o addr show; ip -4 route");
        let created = rig.runtime.create(spec).await.unwrap();
        let address = Ipv4Addr::new(16, 0, 1, instance + 2);
        let link = LinkState { up: false, address, prefix: 16 };
        created.instance.set_link(link).await.unwrap();
        created.instance.set_link(LinkState { up: true, ..link }).await.unwrap();
        created.instance.start().await.unwrap();
        created.instance.wait().await;
        let text = output(created.stdout).await;
        assert!(text.contains(&format!("eth1    inet {address}/16")), "{text}");
        assert!(text.contains("16.0.0.0/16 dev eth1"), "{text}");
        assert_eq!(text.matches("eth1    inet").count(), 1, "{text}");
    }
}

#[tokio::test]
async fn a_packet_to_a_neighbour_comes_out_of_the_device_and_nothing_else() {
    let rig = Rig::new().await;
    let spec = rig.spec(0, "echo ping > /dev/udp/16.0.9.9/7777");
    let created = rig.runtime.create(spec).await.unwrap();
    created.instance.start().await.unwrap();
    assert_eq!(created.instance.wait().await.code, Some(0), "{}", output(created.stderr).await);
    let mut device = std::fs::File::from(created.wired.device.unwrap());
    let mut packet = [0; 2000];
    let size = device.read(&mut packet).unwrap();
    // The device's own header comes first.
    let packet = &packet[10..size];
    assert_eq!(packet[0], 0x45, "an IPv4 packet comes first, and nothing of IPv6");
    assert_eq!(packet[16..20], [16, 0, 9, 9]);
    assert!(packet.ends_with(b"ping\n"));
}

#[tokio::test]
async fn listeners_are_reached_inside_and_accepted_outside() {
    let rig = Rig::new().await;
    let script = "exec 3<>/dev/tcp/127.0.0.1/5050; read answer <&3; echo $answer; \
        exec 4<>/dev/tcp/127.0.0.1/8086; read answer <&4; echo $answer";
    let created = rig.runtime.create(rig.spec(0, script)).await.unwrap();
    let sync = tokio::net::TcpListener::from_std(created.wired.sync.into()).unwrap();
    let influx = tokio::net::TcpListener::from_std(created.wired.influx.into()).unwrap();
    created.instance.start().await.unwrap();
    for (listener, answer) in [(&sync, "one\n"), (&influx, "two\n")] {
        let (stream, _) = tokio::time::timeout(LIMIT, listener.accept()).await.unwrap().unwrap();
        stream.into_std().unwrap().write_all(answer.as_bytes()).unwrap();
    }
    created.instance.wait().await;
    assert_eq!(output(created.stdout).await, "one\ntwo\n");
}

#[tokio::test]
async fn another_namespace_can_be_wired_from_here() {
    let mut other = Command::new("unshare").args(["-n", "sleep", "1000"]).spawn().unwrap();
    let path = format!("/proc/{}/ns/net", other.id());
    let own = std::fs::read_link("/proc/self/ns/net").unwrap();
    wait_until(LIMIT, || std::fs::read_link(&path).is_ok_and(|link| link != own)).await;
    let netns = std::fs::File::open(&path).unwrap();
    let spec = groundswell_worker::network::wire::WireSpec {
        address: Ipv4Addr::new(16, 0, 0, 2),
        prefix: 16,
        mtu: 1400,
        data_path: groundswell_common::network::DataPath::Switch,
    };
    let wired = groundswell_worker::network::wire::wire_in(std::os::fd::AsFd::as_fd(&netns), &spec);
    let shown = Command::new("nsenter")
        .args([&format!("--net={path}"), "ip", "-o", "addr", "show", "eth1"])
        .output();
    other.kill().unwrap();
    other.wait().unwrap();
    wired.unwrap();
    let text = String::from_utf8(shown.unwrap().stdout).unwrap();
    assert!(text.contains("inet 16.0.0.2/16"), "{text}");
    assert_eq!(std::fs::read_link("/proc/self/ns/net").unwrap(), own);
}

#[tokio::test]
async fn dropping_an_instance_ends_it() {
    let rig = Rig::new().await;
    let script = format!("echo up; sleep 1000; echo {}", rig.mark());
    let mut created = rig.runtime.create(rig.spec(0, &script)).await.unwrap();
    created.instance.start().await.unwrap();
    rig.expect_line(&mut created.stdout, "up").await;
    assert!(processes_with(&rig.mark()).len() >= 3);
    drop(created);
    // The spawner itself stays.
    wait_until(LIMIT, || processes_with(&rig.mark()).len() == 1).await;
}

#[tokio::test]
async fn a_hundred_instances_leave_nothing() {
    let rig = Rig::new().await;
    let mut all = Vec::new();
    for number in 0..100 {
        let created = rig.runtime.create(rig.spec(number, "true")).await.unwrap();
        created.instance.start().await.unwrap();
        all.push(created);
    }
    for created in all {
        assert_eq!(created.instance.wait().await.code, Some(0));
        created.instance.remove().await.unwrap();
    }
    wait_until(LIMIT, || processes_with(&rig.mark()).len() == 1).await;
    assert_eq!(rig.cgroup_leaves(), Vec::<String>::new());
    let worker = rig.worker.clone();
    assert!(rig.runtime.reap(&worker).await.is_empty());
    assert_eq!(rig.close(), Vec::<String>::new());
}

#[tokio::test]
async fn a_docker_image_runs_without_docker_and_keeps_nothing_it_writes() {
    let rig = Rig::new().await;
    let mut image = docker_image(&rig).await;
    image.command = [
        "sh",
        "-c",
        "pwd; echo $FROM_IMAGE; echo x > file; cat file; echo in > /tmp/x; \
        cd /proc/self; while read a b c; do [ $a = Uid: ] && echo $b; done < status; echo /*",
    ]
    .map(str::to_owned)
    .to_vec();
    for number in [0, 1] {
        let mut spec = rig.spec(number, "");
        spec.image = image.clone();
        let (exit, text, errors) = rig.run(spec).await;
        let expected =
            "/srv\n1\nx\n1234\n/bin /datasets /dev /etc /outputs /proc /srv /temp /tmp\n";
        assert_eq!(text, expected, "{exit} {errors}");
    }
}

#[tokio::test]
async fn a_docker_image_is_read_only_on_request() {
    let rig = Rig::new().await;
    let mut spec = rig.spec(0, "");
    spec.image = docker_image(&rig).await;
    let script = "for where in /srv/x /bin/x /tmp/x; do \
                  echo x > $where && echo $where; done";
    spec.image.command = ["sh", "-c", script].map(str::to_owned).to_vec();
    spec.read_only_root = true;
    let (_, text, errors) = rig.run(spec).await;
    assert_eq!(text, "/tmp/x\n", "{errors}");
    assert!(errors.contains("ead-only file system"), "{errors}");
}

/// Where a test that runs this executable again, as another process, tells it where to work.
const DIRECTORY: &str = "GROUNDSWELL_TEST_DIRECTORY";

#[tokio::test]
#[ignore = "the process that the next test kills"]
async fn a_process_that_is_killed() {
    let rig = Rig::within(PathBuf::from(std::env::var(DIRECTORY).unwrap())).await;
    let mut held = Vec::new();
    for number in 0..5 {
        let mut spec =
            rig.spec(number, &format!("setsid sleep 1000 & sleep 1000; echo {}", rig.mark()));
        spec.resources.memory_bytes = Some(64 << 20);
        let created = rig.runtime.create(spec).await.unwrap();
        if number > 0 {
            created.instance.start().await.unwrap();
        }
        held.push(created);
    }
    println!("worker {}", rig.worker);
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_worker_killed_by_kill_9_leaves_nothing() {
    let dir = tempfile::Builder::new().prefix("gs-netns-").tempdir().unwrap();
    let mut process = Command::new(std::env::current_exe().unwrap())
        .args(["a_process_that_is_killed", "--exact", "--ignored", "--nocapture"])
        .env(DIRECTORY, dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok);
    let worker = lines.into_iter().find_map(|line| line.strip_prefix("worker ").map(str::to_owned));
    let worker = WorkerId::from_lossy(&worker.unwrap());
    let ours = namespaces(std::process::id());
    let mut theirs = Vec::new();
    for pid in processes_with(&dir.path().display().to_string()) {
        theirs.extend(namespaces(pid).into_iter().filter(|link| !ours.contains(link)));
    }
    assert!(theirs.len() > 20, "{theirs:?}");
    assert!(leftovers(dir.path(), &worker).len() > 10);
    // The kernel gives the numbers of namespaces that are gone to others: what counts is who is in them now.
    let is_in = |pid: &u32| namespaces(*pid).iter().any(|link| theirs.contains(link));
    let inside: Vec<u32> = all_processes().into_iter().filter(is_in).collect();
    assert!(inside.len() > 10, "{inside:?}");
    process.kill().unwrap();
    process.wait().unwrap();
    wait_until(LIMIT, || leftovers(dir.path(), &worker).is_empty()).await;
    // The one that cleans up is itself in a namespace of its own, and ends after all others.
    wait_until(LIMIT, || !inside.iter().any(is_in)).await;
}

fn namespaces(pid: u32) -> Vec<PathBuf> {
    let link = |name: &str| std::fs::read_link(format!("/proc/{pid}/ns/{name}")).ok();
    ["net", "mnt", "pid", "uts", "ipc"].into_iter().filter_map(link).collect()
}

/// Has two instances behind one NAT send a packet each, and lets the NAT go.
async fn send_through_a_nat(rig: &Rig) {
    let mut trial = TreeSpec::trial();
    trial.plan.layers[0].members = 2;
    trial.instances = 2;
    let (nat, device) = rig.runtime.make_nat(trial).await.unwrap();
    for (member, inner) in (0..).zip(["192.168.1.2/24", "192.168.1.3/24"]) {
        let script = "ip -4 -o addr show eth1; echo ping > /dev/udp/16.0.9.9/7777";
        let mut spec = rig.spec(100 + member, script);
        spec.behind = Some(Behind { nat: Arc::clone(&nat), member });
        let (exit, text, trouble) = rig.run(spec).await;
        assert_eq!(exit.code, Some(0), "{trouble}");
        assert!(text.contains(inner), "{text}");
        let mut packet = [0; 2000];
        let size = nix::unistd::read(&device, &mut packet).unwrap();
        // The device's own header comes first.
        let packet = &packet[10..size];
        assert_eq!(packet[12..16], [16, 0, 0, 2], "from the router");
        assert_eq!(packet[16..20], [16, 0, 9, 9]);
        assert!(packet.ends_with(b"ping\n"));
    }
    nat.rebind().await.unwrap();
    nat.become_kind(Some(NatKind::Symmetric)).await.unwrap();
    nat.become_kind(None).await.unwrap();
    nat.readdress(Ipv4Addr::new(16, 0, 0, 3)).await.unwrap();
    nat.close().await;
}

#[tokio::test]
async fn instances_share_a_nat_and_nothing_of_it_is_left() {
    let rig = Rig::new().await;
    send_through_a_nat(&rig).await;
    // One that nobody closes goes with the runtime.
    std::mem::forget(rig.runtime.make_nat(TreeSpec::trial()).await.unwrap());
    assert_eq!(rig.close(), Vec::<String>::new());
}

/// Connects to what listens inside an instance, from outside.
async fn dial(created: &Created) {
    let socket = TcpSocket::from_std_stream(created.instance.socket().await.unwrap().into());
    let stream = socket.connect((Ipv4Addr::LOCALHOST, SYNC_PORT).into()).await.unwrap();
    let listener = std::net::TcpListener::from(created.wired.sync.try_clone().unwrap());
    assert_eq!(listener.accept().unwrap().1, stream.local_addr().unwrap());
}

#[tokio::test]
async fn a_socket_of_an_instance_reaches_what_listens_inside() {
    let rig = Rig::new().await;
    let created = rig.runtime.create(rig.spec(0, "true")).await.unwrap();
    dial(&created).await;
    // Both answers come, each to its own request.
    let link = LinkState { up: true, address: Ipv4Addr::new(16, 0, 7, 7), prefix: 16 };
    let (set, made) = tokio::join!(created.instance.set_link(link), created.instance.socket());
    set.unwrap();
    drop(made.unwrap());
    created.instance.remove().await.unwrap();
    assert!(created.instance.socket().await.is_err());
}

fn all_processes() -> Vec<u32> {
    processes_with("")
}

#[tokio::test]
#[ignore = "run by the next test, as a user without root"]
async fn a_user_without_root() {
    let rig = Rig::within(PathBuf::from(std::env::var(DIRECTORY).unwrap())).await;
    let missing = rig.runtime.missing();
    assert_eq!(missing.len(), 3, "{missing:?}");
    let spec =
        rig.spec(0, "id -u; hostname; ip -4 -o addr show eth1; echo x > /outputs/x; touch /x");
    let outputs = spec.outputs.clone();
    let created = rig.runtime.create(spec).await.unwrap();
    let link = LinkState { up: true, address: Ipv4Addr::new(16, 0, 7, 7), prefix: 16 };
    created.instance.set_link(link).await.unwrap();
    dial(&created).await;
    created.instance.start().await.unwrap();
    assert_eq!(created.instance.wait().await.code, Some(1));
    let text = output(created.stdout).await;
    assert!(text.starts_with("0\ninstance-0\n") && text.contains("16.0.7.7/16"), "{text}");
    assert!(outputs.join("x").exists());
    created.instance.remove().await.unwrap();
    let (exit, _, _) = rig.run(rig.spec(1, "kill -9 $$")).await;
    assert_eq!(exit.signal, Some(9));
    send_through_a_nat(&rig).await;
    println!("done without root");
}

#[tokio::test]
async fn a_user_without_root_can_run_instances() {
    let dir = tempfile::Builder::new().prefix("gs-netns-").tempdir().unwrap();
    nix::unistd::chown(dir.path(), Some(65534.into()), Some(65534.into())).unwrap();
    // A device that every user may open, as distributions set it up, in a mount namespace of its own.
    let device = dir.path().join("tun");
    let script = "mknod -m 666 $0 c 10 200 && mount --bind $0 /dev/net/tun && \
        exec setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps=-all \"$@\"";
    let output = Command::new("unshare")
        .args(["-m", "sh", "-c", script])
        .arg(&device)
        .arg(reachable(&std::env::current_exe().unwrap(), dir.path()))
        .args(["a_user_without_root", "--exact", "--ignored", "--nocapture"])
        .env(DIRECTORY, dir.path())
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(text.contains("done without root"), "{text}");
    assert!(processes_with(&dir.path().display().to_string()).is_empty());
}

/// A copy of an executable that every user may run, wherever the original is.
fn reachable(executable: &Path, dir: &Path) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    let copy = dir.join("test");
    std::fs::copy(executable, &copy).unwrap();
    std::fs::copy(env!("CARGO_BIN_EXE_worker"), dir.join("worker")).unwrap();
    copy
}

#[tokio::test]
async fn an_instance_that_was_killed_starts_again_with_its_files_network_and_output() {
    let rig = Rig::new().await;
    let script = "echo life $GROUNDSWELL_INCARNATION; cat /tmp/x /outputs/x 2>/dev/null; \
        echo scratch >> /tmp/x; echo kept >> /outputs/x; readlink /proc/self/ns/net >> /temp/net; \
        sleep 1000 & sleep 1000";
    let mut spec = rig.spec(0, script);
    let temp = spec.temp.clone();
    spec.again = true;
    spec.env.insert("GROUNDSWELL_INCARNATION".to_owned(), "0".to_owned());
    let mut created = rig.runtime.create(spec).await.unwrap();
    let instance = &created.instance;
    let refused = instance.again(1).await.expect_err("it has not ended").to_string();
    assert_eq!(refused, "the instance cannot be started again");
    instance.start().await.unwrap();
    rig.expect_line(&mut created.stdout, "life 0").await;
    // What it writes comes after the line.
    let networks = || std::fs::read_to_string(temp.join("net")).unwrap_or_default();
    wait_until(LIMIT, || networks().ends_with('\n')).await;
    instance.kill().await;
    assert_eq!(instance.wait().await.signal, Some(9));
    instance.again(1).await.unwrap();
    rig.expect_line(&mut created.stdout, "kept").await;
    wait_until(LIMIT, || networks().lines().count() == 2).await;
    instance.terminate().await;
    assert_eq!(instance.wait().await.signal, Some(15), "the end of this life, not of the last one");
    let networks = networks();
    let (first, second) = networks.trim_end().split_once('\n').expect("two lives");
    assert_eq!(first, second);
    // The pipe ends with the instance only once nobody can start it again.
    instance.part().await;
    assert_eq!(output(created.stdout).await, "");
    assert!(instance.again(2).await.is_err());
    created.instance.remove().await.unwrap();
    assert_eq!(rig.cgroup_leaves(), Vec::<String>::new());
}

#[tokio::test]
async fn an_instance_that_is_paused_stands_still_with_all_its_processes() {
    let rig = Rig::new().await;
    let mark = format!("paused {}", rig.mark());
    let count = "n=0; while :; do n=$((n+1)); echo $n > /outputs/$1; sleep 0.01; done";
    let script = format!("bash -c '{count}' '{mark}' child & bash -c '{count}' '{mark}' other");
    let spec = rig.spec(0, &script);
    let outputs = spec.outputs.clone();
    let created = rig.runtime.create(spec).await.unwrap();
    created.instance.start().await.unwrap();
    let count = |name| std::fs::read_to_string(outputs.join(name)).unwrap_or_default();
    let counts = || ["child", "other"].map(|name| count(name).trim().parse::<u32>().unwrap_or(0));
    wait_until(LIMIT, || counts().iter().all(|count| *count > 0)).await;
    created.instance.pause().await;
    let state = |pid: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next())
    };
    let all = |wanted| {
        let states: Vec<_> = processes_with(&mark).into_iter().map(state).collect();
        states.len() >= 2 && states.iter().all(|state| *state == Some(wanted))
    };
    wait_until(LIMIT, || all('T')).await;
    let before = counts();
    // Thirty rounds of what they do while they run.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(counts(), before);
    created.instance.resume().await;
    wait_until(LIMIT, || counts().iter().zip(before).all(|(now, then)| *now > then)).await;
    created.instance.pause().await;
    wait_until(LIMIT, || all('T')).await;
    created.instance.kill().await;
    assert_eq!(created.instance.wait().await.signal, Some(9), "also one that stands still");
    created.instance.remove().await.unwrap();
}
