//! What people press while a run is watched: Ctrl-C, and single keys on a terminal.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal as _, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;

use nix::fcntl::OFlag;
use nix::sys::termios::{self, LocalFlags, SetArg, Termios};
use nix::unistd::{getpgrp, tcgetpgrp};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Duration, Interval, MissedTickBehavior, interval};

/// How often the terminal is looked at. To be woken by it would need unsafe code, and people are slow.
const LOOK: Duration = Duration::from_millis(50);

/// A signal that asks this process to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interrupt {
    /// Ctrl-C.
    Int,
    /// SIGTERM, or the terminal has gone away.
    Term,
}

/// The signals that ask this process to end. Once made, they no longer end it by themselves.
pub(crate) struct Interrupts {
    int: Signal,
    term: Signal,
    hangup: Signal,
}

impl Interrupts {
    /// Listens to them from here on.
    pub(crate) fn listen() -> io::Result<Self> {
        Ok(Self {
            int: signal(SignalKind::interrupt())?,
            term: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// The next one.
    pub(crate) async fn next(&mut self) -> Interrupt {
        tokio::select! {
            _ = self.int.recv() => Interrupt::Int,
            _ = self.term.recv() => Interrupt::Term,
            _ = self.hangup.recv() => Interrupt::Term,
        }
    }
}

/// Single keys from the terminal. Line mode and echo are off as long as this lives; Ctrl-C stays a signal.
pub(crate) struct Keys {
    terminal: File,
    before: Termios,
    looking: Interval,
}

impl Keys {
    /// Takes the terminal, when stdin is one and this process is in its foreground.
    pub(crate) fn take() -> Option<Self> {
        if !io::stdin().is_terminal() {
            return None;
        }
        // A descriptor of its own: the flag below must not reach the shell's.
        let terminal = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open("/dev/tty")
            .ok()?;
        // In the background, touching the terminal would stop this process.
        if tcgetpgrp(&terminal).ok()? != getpgrp() {
            return None;
        }
        let before = termios::tcgetattr(&terminal).ok()?;
        let mut single = before.clone();
        single.local_flags.remove(LocalFlags::ICANON | LocalFlags::ECHO);
        termios::tcsetattr(&terminal, SetArg::TCSANOW, &single).ok()?;
        let mut looking = interval(LOOK);
        looking.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Some(Self { terminal, before, looking })
    }

    /// The next key. Never returns once the terminal cannot be read.
    pub(crate) async fn next(&mut self) -> u8 {
        loop {
            self.looking.tick().await;
            let mut key = [0];
            match self.terminal.read(&mut key) {
                Ok(1) => return key[0],
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => {}
                Ok(_) | Err(_) => return std::future::pending().await,
            }
        }
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(&self.terminal, SetArg::TCSANOW, &self.before);
    }
}
