//! Instances on either data network, as the worker would connect them.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Duration;

use groundswell_common::ids::{InstanceId, RunId};
use groundswell_common::link::{
    AccessLink, Filter, LinkRule, LinkShape, NetworkConfig, RoutingPolicy,
};
use groundswell_common::network::{DataPath, NetworkPlan};
use groundswell_worker::network::kernel::Kernel;
use groundswell_worker::network::links::Links;
use groundswell_worker::network::switch::Switch;
use groundswell_worker::network::wire::{WireSpec, wire_in};
use groundswell_worker::network::{Attachment, Network};

use nix::sys::socket::{setsockopt, sockopt};

use crate::host::Host;

pub(crate) const MS: Duration = Duration::from_millis(1);
/// What must happen happens within this.
pub(crate) const LIMIT: Duration = Duration::from_secs(5);
/// What must not happen has not happened within this.
const NEVER: Duration = Duration::from_millis(200);
pub(crate) const PORT: u16 = 4001;
/// Room for what arrives while a test does something else, in bytes.
const ROOM: usize = 8 << 20;

/// A run with its instances, and a UDP socket of each.
pub(crate) struct Net {
    path: DataPath,
    pub(crate) network: Arc<dyn Network>,
    pub(crate) run: RunId,
    pub(crate) hosts: Vec<Host>,
    pub(crate) sockets: Vec<UdpSocket>,
}

impl Net {
    pub(crate) async fn new(path: DataPath, instances: u8) -> Self {
        Self::bare(path).await.with(instances).await
    }

    /// A run without instances.
    pub(crate) async fn bare(path: DataPath) -> Self {
        let network: Arc<dyn Network> = match path {
            DataPath::Switch => Arc::new(Switch::new(1).expect("a switch")),
            DataPath::Kernel => Arc::new(Kernel::new()),
        };
        let run = RunId::new(1);
        network.open(&run, "16.0.0.0/16".parse().expect("a subnet"), 1).await.expect("open");
        Self { path, network, run, hosts: Vec::new(), sockets: Vec::new() }
    }

    pub(crate) async fn with(mut self, instances: u8) -> Self {
        for instance in 0..instances {
            let host = Host::bare();
            let address = at(instance);
            let spec = WireSpec { address, prefix: 16, mtu: 1500, data_path: self.path };
            let device = wire_in(host.namespace.as_fd(), &spec).expect("wired").device;
            let run = self.run.clone();
            let instance = InstanceId(instance.into());
            let attachment = Attachment { run, instance, device: device.expect("made"), address };
            self.network.attach(attachment).await.expect("attached");
            let socket = host.enter(|| UdpSocket::bind(("0.0.0.0", PORT)).expect("bound"));
            socket.set_read_timeout(Some(LIMIT)).expect("a limit");
            setsockopt(&socket, sockopt::RcvBufForce, &ROOM).expect("root may");
            self.sockets.push(socket);
            self.hosts.push(host);
        }
        self
    }

    pub(crate) async fn configure(&self, instance: u32, config: &NetworkConfig) {
        let configured = self.network.configure(&self.run, InstanceId(instance), config).await;
        configured.expect("configured");
    }

    /// Gives all instances, one after the other, one of these access links each; the last one to the rest.
    pub(crate) async fn relink(&self, access: &[AccessLink]) {
        let plan = NetworkPlan { classes: access.to_vec(), ..NetworkPlan::default() };
        let rest = u32::try_from(self.hosts.len() - access.len() + 1).expect("few instances");
        let sizes = std::iter::repeat_n(1, access.len() - 1).chain([rest]);
        let links = Arc::new(Links::new(&plan, sizes));
        // Nothing has shaped them before: the change is to be seen.
        let after = access.iter().zip(0..).fold((*links).clone(), |links, (link, class)| {
            let classes = vec![class];
            links.after(&groundswell_common::network::Action::Access { classes, link: *link })
        });
        self.network.relink(&self.run, Arc::new(after)).await.expect("linked");
    }
}

/// The address of an instance at start.
pub(crate) fn at(instance: impl TryInto<u8>) -> Ipv4Addr {
    let number: u8 = instance.try_into().ok().expect("few instances");
    Ipv4Addr::new(16, 0, 0, number + 2)
}

pub(crate) fn config(default: LinkShape) -> NetworkConfig {
    NetworkConfig {
        enable: true,
        ipv4: None,
        default,
        rules: Vec::new(),
        callback_state: String::new(),
        routing_policy: RoutingPolicy::DenyAll,
    }
}

pub(crate) fn filtered(subnet: &str, filter: Filter) -> NetworkConfig {
    let shape = LinkShape { filter, ..LinkShape::default() };
    let rules = vec![LinkRule { subnet: subnet.parse().expect("a subnet"), shape }];
    NetworkConfig { rules, ..config(LinkShape::default()) }
}

/// Sends a word and says who it came from at the other end.
pub(crate) fn hears(from: &UdpSocket, to: Ipv4Addr, receiver: &UdpSocket) -> SocketAddr {
    from.send_to(b"hello", (to, PORT)).expect("sent");
    let mut buffer = [0; 2048];
    let (length, source) = receiver.recv_from(&mut buffer).expect("received in time");
    assert_eq!(&buffer[..length], b"hello");
    source
}

/// Asserts that nothing arrives.
pub(crate) fn silent(socket: &UdpSocket) {
    socket.set_read_timeout(Some(NEVER)).expect("a limit");
    let heard = socket.recv_from(&mut [0; 2048]);
    assert!(matches!(&heard, Err(err) if err.kind() == ErrorKind::WouldBlock), "{heard:?}");
    socket.set_read_timeout(Some(LIMIT)).expect("a limit");
}

/// What an instance is told that sends to an address which refuses it.
pub(crate) fn refusal(host: &Host, to: Ipv4Addr) -> ErrorKind {
    let socket = host.enter(|| UdpSocket::bind(("0.0.0.0", 0)).expect("bound"));
    socket.set_read_timeout(Some(LIMIT)).expect("a limit");
    socket.connect((to, PORT)).expect("a destination");
    socket.send(b"x").expect("sent");
    socket.recv(&mut [0; 16]).expect_err("refused").kind()
}
