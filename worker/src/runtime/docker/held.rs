//! The directory through which a container's init process is held and let go.
//!
//! ```text
//! <state>/init-<digest>         the init process, shared by all containers
//! <state>/resolv.conf           where names are asked for, as well
//! <state>/held/<container>-N/   control (socket), stdout, stderr (pipes): mounted one by one
//! ```

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use groundswell_common::objects::digest;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::unix::OwnedReadHalf;
use tokio::net::{UnixListener, UnixStream};

use crate::network::wire::RESOLV_CONF;

/// This worker's directories.
#[derive(Debug)]
pub(super) struct Here {
    init: PathBuf,
    resolver: PathBuf,
    held: PathBuf,
}

impl Here {
    /// Makes the directories and writes the init process, once for each version of it.
    pub(super) fn prepare(state: &Path, init: &[u8]) -> io::Result<Self> {
        let held = state.join("held");
        fs::create_dir_all(&held)?;
        // The sockets in it are open to every user of a container, so other users of the host are kept out here.
        fs::set_permissions(&held, Permissions::from_mode(0o700))?;
        let digest = digest(init);
        let file = fs::canonicalize(state)?.join(format!("init-{}", &digest[7..19]));
        if !file.exists() {
            let part = file.with_extension(format!("part{}", std::process::id()));
            fs::write(&part, init)?;
            fs::set_permissions(&part, Permissions::from_mode(0o555))?;
            fs::rename(&part, &file)?;
        }
        let resolver = file.with_file_name("resolv.conf");
        fs::write(&resolver, RESOLV_CONF)?;
        Ok(Self { init: file, resolver, held: fs::canonicalize(held)? })
    }

    /// A new directory for a container.
    pub(super) fn directory(&self, name: &str) -> io::Result<Directory> {
        let made = tempfile::Builder::new().prefix(&format!("{name}-")).tempdir_in(&self.held)?;
        Ok(Directory(made.keep()))
    }

    /// The mounts of the init process and the resolver of a container that is held through `directory`, as Docker writes binds.
    pub(super) fn mounts(&self, directory: &Path) -> Vec<String> {
        let mut mounts = vec![format!("{}:/.groundswell/init:ro", self.init.display())];
        mounts.push(format!("{}:/etc/resolv.conf:ro", self.resolver.display()));
        for name in ["control", "stdout", "stderr"] {
            mounts.push(format!("{}/{name}:/.groundswell/{name}", directory.display()));
        }
        mounts
    }

    /// The directories there are.
    pub(super) fn held(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.held).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    }

    /// Removes what containers that are gone have left; the names of those that stay begin with one of `kept`.
    pub(super) fn clear(&self, kept: &[String]) -> io::Result<()> {
        for entry in fs::read_dir(&self.held)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !kept.iter().any(|begin| name.starts_with(begin.as_str())) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }
}

/// A container's directory, which goes when it is dropped.
#[derive(Debug)]
pub(super) struct Directory(pub(super) PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        // What is left is found by the next life.
        let _left = fs::remove_dir_all(&self.0);
    }
}

/// The worker's side of a container that has not been let go.
pub(super) struct Held {
    listener: UnixListener,
    stdout: OwnedFd,
    stderr: OwnedFd,
}

/// The connection to the init process of a container.
pub(super) struct Control {
    /// Its process id on this host.
    pub(super) pid: i32,
    /// What it says, line by line.
    pub(super) lines: tokio::io::Lines<BufReader<OwnedReadHalf>>,
    /// Where it is told what to do.
    pub(super) orders: tokio::net::unix::OwnedWriteHalf,
}

impl Control {
    /// Takes over a connection of an earlier life of the worker, and asks how things are.
    pub(super) fn again(socket: OwnedFd) -> io::Result<Self> {
        let socket = std::os::unix::net::UnixStream::from(socket);
        // A byte always fits; an error is that of a closed socket, and the lines end then.
        let _ended = (&socket).write_all(b"s");
        let stream = UnixStream::from_std(socket)?;
        // One that has ended has no number any more.
        let pid = peer(&stream).unwrap_or_default();
        let (read, orders) = stream.into_split();
        Ok(Self { pid, lines: BufReader::new(read).lines(), orders })
    }
}

impl Held {
    /// Makes socket and pipes in `directory`.
    pub(super) fn new(directory: &Path) -> io::Result<Self> {
        Ok(Self {
            listener: listen(directory)?,
            stdout: pipe(&directory.join("stdout"))?,
            stderr: pipe(&directory.join("stderr"))?,
        })
    }

    /// Waits for the init process. The inner error is what it says is wrong with the plan.
    pub(super) async fn rendezvous(&mut self) -> io::Result<Result<Control, String>> {
        let (stream, _) = self.listener.accept().await?;
        let pid = peer(&stream)?;
        let (read, orders) = stream.into_split();
        let mut lines = BufReader::new(read).lines();
        let first = lines.next_line().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        match first.strip_prefix("failed ") {
            Some(why) => Ok(Err(why.to_owned())),
            None => Ok(Ok(Control { pid, lines, orders })),
        }
    }

    /// Stops listening, so that nobody else can connect, and gives away the reading ends.
    pub(super) fn into_pipes(self) -> (OwnedFd, OwnedFd) {
        (self.stdout, self.stderr)
    }
}

fn peer(stream: &UnixStream) -> io::Result<i32> {
    stream.peer_cred()?.pid().filter(|pid| *pid > 0).ok_or_else(|| {
        io::Error::other(
            "its process id is not visible here: the worker must share the process namespace \
             of the Docker host",
        )
    })
}

/// Binds through the directory's descriptor: a socket's path is limited to 107 bytes, a state directory's is not.
fn listen(directory: &Path) -> io::Result<UnixListener> {
    let open = File::open(directory)?;
    let short = format!("/proc/self/fd/{}/control", open.as_fd().as_raw_fd());
    let listener = UnixListener::bind(short)?;
    fs::set_permissions(directory.join("control"), Permissions::from_mode(0o666))?;
    Ok(listener)
}

/// Makes a pipe every user of a container may write to, and opens its reading end.
fn pipe(path: &Path) -> io::Result<OwnedFd> {
    nix::unistd::mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR)?;
    fs::set_permissions(path, Permissions::from_mode(0o666))?;
    let flags = OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    Ok(OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)?.into())
}
