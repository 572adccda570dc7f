//! What worker, spawner and the instances' init processes tell each other: MessagePack over sequenced-packet sockets.
//!
//! The worker's keeper uses the same sockets, with messages of its own.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::PathBuf;

use groundswell_common::messages::Resources;
use groundswell_common::nat::NatKind;
use groundswell_common::outcome::Exit;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, sendmsg, setsockopt, sockopt,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::network::nat::TreeSpec;
use crate::network::wire::WireSpec;
use crate::runtime::DatasetBind;

/// No message is larger.
pub(super) const MAX_MESSAGE: usize = 1 << 20;
/// No message carries more descriptors.
const MAX_DESCRIPTORS: usize = 16;

/// The request to the spawner; the channel of what is to be made rides with it.
#[derive(Debug, Clone, PartialEq, Serialize, serde::Deserialize)]
pub(super) enum Request {
    Instance(Box<InitSpec>),
    Nat(TreeSpec),
}

/// What an instance's init process needs to know.
#[derive(Debug, Clone, PartialEq, Serialize, serde::Deserialize)]
pub(super) struct InitSpec {
    /// Name of its cgroup.
    pub(super) name: String,
    pub(super) hostname: String,
    pub(super) image: Image,
    pub(super) command: Vec<String>,
    pub(super) workdir: PathBuf,
    pub(super) env: BTreeMap<String, String>,
    pub(super) outputs: PathBuf,
    pub(super) temp: PathBuf,
    pub(super) datasets: Vec<DatasetBind>,
    pub(super) hosts: BTreeMap<String, Ipv4Addr>,
    pub(super) resources: Resources,
    pub(super) ulimits: Vec<String>,
    pub(super) wire: WireSpec,
    /// Whether it is behind a NAT, which makes its data interface.
    pub(super) member: bool,
    /// Whether it cannot write to its root.
    pub(super) read_only: bool,
    /// Whether it can be started again after it has ended, until it is parted with.
    pub(super) again: bool,
}

/// Where its files come from.
#[derive(Debug, Clone, PartialEq, Serialize, serde::Deserialize)]
pub(super) enum Image {
    /// The host's programs, and this directory as `/plan`.
    Bundle(PathBuf),
    /// This directory as the root, and the user of the image.
    Root { directory: PathBuf, user: String },
}

/// The spawner's first message.
#[derive(Debug, Serialize, serde::Deserialize)]
pub(super) struct Hello {
    /// Isolation and limits it cannot give.
    pub(super) missing: Vec<String>,
    /// Why it does not work at all.
    pub(super) unavailable: Option<String>,
}

/// What a worker asks of an instance. `Start`, `Again`, `SetLink` and `Socket` are answered, in order, by [`FromInit::Done`],
/// and `Attach` by [`FromInit::Attached`].
#[derive(Debug, Serialize, serde::Deserialize)]
pub(super) enum ToInit {
    Start,
    /// Start the program again, which has ended.
    Again {
        incarnation: u32,
    },
    Terminate,
    Kill,
    /// Everything but this process stands still.
    Pause,
    /// And goes on.
    Resume,
    /// The program will not be started again.
    Part,
    /// The worker's next life asks how things are. What was answered before is not for it.
    Attach,
    /// End when everything else in the instance has.
    Leave,
    SetLink {
        up: bool,
        address: Ipv4Addr,
        prefix: u8,
    },
    Socket,
}

/// What an instance tells its worker.
#[derive(Debug, Serialize, serde::Deserialize)]
pub(super) enum FromInit {
    /// It is prepared. Carries the descriptors: device, sync, influx, the two of
    /// the resolver, control, stdout, stderr. Behind a NAT its network namespace is in the place of the device.
    Ready { steps: Vec<(String, u32)>, notes: Vec<String> },
    /// It could not be prepared.
    Failed(Failure),
    /// The answer to a request. With that to `Socket` comes the socket.
    Done(Result<(), Failure>),
    /// Its first process has ended and all others are gone.
    Exited(Exit),
    /// Whether it was let go, and how it has ended if it has.
    Attached { started: bool, exit: Option<Exit> },
}

/// What a worker asks of a NAT, each answered, in order, by a result. A first one says whether it was made; with
/// it comes the device of its outermost router.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize)]
pub(super) enum ToNat {
    /// Give the instance whose network namespace comes along its data interface.
    Join { member: u32 },
    /// Forget all mappings.
    Rebind,
    /// Be of another kind, or of its own again.
    Become { kind: Option<NatKind> },
    /// Take another address.
    Readdress { address: Ipv4Addr },
}

/// What went wrong in a process that is not the worker's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
pub(super) struct Failure {
    /// Whether the plan is the cause, and `doing` the whole message.
    pub(super) plan: bool,
    pub(super) doing: String,
    pub(super) source: String,
}

impl Failure {
    pub(super) fn plan(message: String) -> Self {
        Self { plan: true, doing: message, source: String::new() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.plan {
            f.write_str(&self.doing)
        } else {
            write!(f, "failed to {}: {}", self.doing, self.source)
        }
    }
}

/// Says what was being done when the host refused.
pub(super) trait Doing<T> {
    fn doing(self, what: impl fmt::Display) -> Result<T, Failure>;
}

impl<T, E: Into<io::Error>> Doing<T> for Result<T, E> {
    fn doing(self, what: impl fmt::Display) -> Result<T, Failure> {
        self.map_err(|err| Failure {
            plan: false,
            doing: what.to_string(),
            source: err.into().to_string(),
        })
    }
}

/// Makes room for large messages, as far as this user may.
pub(crate) fn make_room(socket: &OwnedFd) {
    if setsockopt(socket, sockopt::SndBufForce, &(2 * MAX_MESSAGE)).is_err() {
        // The kernel clamps it to what any user may have, which is enough for a usual environment.
        let _clamped = setsockopt(socket, sockopt::SndBuf, &(2 * MAX_MESSAGE));
    }
}

/// Sends one message with descriptors.
pub(super) fn send<T: Serialize>(to: BorrowedFd<'_>, message: &T, fds: &[RawFd]) -> io::Result<()> {
    let bytes = rmp_serde::to_vec_named(message).map_err(io::Error::other)?;
    send_bytes(to, &bytes, fds)
}

pub(crate) fn send_bytes(to: BorrowedFd<'_>, bytes: &[u8], fds: &[RawFd]) -> io::Result<()> {
    let rights = [ControlMessage::ScmRights(fds)];
    let control: &[ControlMessage<'_>] = if fds.is_empty() { &[] } else { &rights };
    let slice = [IoSlice::new(bytes)];
    loop {
        match sendmsg::<UnixAddr>(to.as_raw_fd(), &slice, control, MsgFlags::MSG_NOSIGNAL, None) {
            Err(nix::errno::Errno::EINTR) => {}
            done => return done.map(drop).map_err(io::Error::from),
        }
    }
}

/// Receives one message. `None` is the end.
pub(crate) fn receive<T: DeserializeOwned>(
    from: BorrowedFd<'_>,
    buffer: &mut [u8],
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut control = nix::cmsg_space!([RawFd; MAX_DESCRIPTORS]);
    let (size, fds) = loop {
        let mut slice = [IoSliceMut::new(buffer)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        match recvmsg::<UnixAddr>(from.as_raw_fd(), &mut slice, Some(&mut control), flags) {
            Err(nix::errno::Errno::EINTR) => {}
            Err(nix::errno::Errno::ECONNRESET) => return Ok(None),
            Err(err) => return Err(err.into()),
            Ok(message) => {
                let mut fds = Vec::new();
                for item in message.cmsgs()? {
                    if let ControlMessageOwned::ScmRights(raw) = item {
                        fds.extend(raw.into_iter().map(own));
                    }
                }
                break (message.bytes, fds);
            }
        }
    };
    if size == 0 {
        return Ok(None);
    }
    let message = rmp_serde::from_slice(&buffer[..size]).map_err(io::Error::other)?;
    Ok(Some((message, fds)))
}

#[expect(unsafe_code, reason = "a received descriptor is a bare number")]
fn own(raw: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(raw) }
}
