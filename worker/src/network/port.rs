//! An instance's interface, as every thread of the data plane knows it.

use std::io::IoSlice;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use groundswell_common::ids::InstanceId;
use nix::errno::Errno;
use nix::sys::uio;
use nix::unistd;

use super::counters::{Counters, Fate};
use super::device;
use super::download::Download;
use super::egress::gate::Gate;
use super::offload;

/// An instance's interface.
#[derive(Debug)]
pub(super) struct Port {
    /// Names it, in all runs.
    pub(super) token: u64,
    pub(super) instance: InstanceId,
    pub(super) device: OwnedFd,
    /// Whether its packets have the header of [`offload`] before them.
    pub(super) has_header: bool,
    /// Whether the instance is on the network.
    pub(super) present: AtomicBool,
    /// Whether a cut keeps everything from it, what comes from outside as well.
    pub(super) offline: AtomicBool,
    pub(super) counters: Counters,
    /// What it receives passes here.
    pub(super) download: Download,
    /// What it may reach outside the data network.
    pub(super) gate: Gate,
    /// The memory of what it has sent that waits for its time.
    pub(super) waiting: AtomicUsize,
}

impl Port {
    pub(super) fn new(token: u64, instance: InstanceId, device: OwnedFd, gate: Gate) -> Self {
        Self {
            token,
            instance,
            has_header: device::has_header(&device),
            device,
            present: AtomicBool::new(true),
            offline: AtomicBool::new(false),
            counters: Counters::default(),
            download: Download::default(),
            gate,
            waiting: AtomicUsize::new(0),
        }
    }

    pub(super) fn is_present(&self) -> bool {
        self.present.load(Ordering::Relaxed)
    }

    /// Reads a frame; gives its length with its header.
    pub(super) fn read(&self, frame: &mut [u8]) -> Result<usize, Errno> {
        if self.has_header {
            return unistd::read(&self.device, frame);
        }
        frame[..offload::HEADER].fill(0);
        Ok(unistd::read(&self.device, &mut frame[offload::HEADER..])? + offload::HEADER)
    }

    /// Gives a frame to the instance; whether its interface took it.
    pub(super) fn write(&self, frame: &mut [u8]) -> bool {
        if self.has_header {
            return unistd::write(&self.device, frame).is_ok();
        }
        offload::finish(frame);
        unistd::write(&self.device, offload::packet(frame)).is_ok()
    }

    /// Gives a packet to the instance that came from outside; what became of it.
    pub(super) fn give(&self, packet: &[u8]) -> Fate {
        if !self.is_present() {
            return Fate::Absent;
        }
        if self.offline.load(Ordering::Relaxed) {
            return Fate::Filtered;
        }
        if self.write_packet(packet) { Fate::Delivered } else { Fate::NotTaken }
    }

    /// As [`Port::write`], of a packet that is whole and has no header before it.
    pub(super) fn write_packet(&self, packet: &[u8]) -> bool {
        if !self.has_header {
            return unistd::write(&self.device, packet).is_ok();
        }
        let header = [0; offload::HEADER];
        uio::writev(self.device.as_fd(), &[IoSlice::new(&header), IoSlice::new(packet)]).is_ok()
    }
}
