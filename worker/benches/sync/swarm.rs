//! Thousands of clients in one thread, each with its own TCP connection.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::wire::{Event, Wire};

struct Client {
    stream: TcpStream,
    input: Vec<u8>,
    output: Vec<u8>,
}

pub(crate) struct Swarm {
    wire: Wire,
    epoll: Epoll,
    clients: Vec<Client>,
    ready: Vec<EpollEvent>,
    buffer: Vec<u8>,
}

impl Swarm {
    pub(crate) fn connect(wire: Wire, address: SocketAddr, count: usize) -> Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let mut clients = Vec::with_capacity(count);
        for number in 0..count {
            let mut stream = TcpStream::connect(address)
                .with_context(|| format!("failed to connect client {number}"))?;
            stream.set_nodelay(true)?;
            stream.write_all(wire.opening())?;
            let mut answer = [0_u8; 4096];
            ensure!(stream.read(&mut answer)? > 0, "client {number} was not let in");
            stream.set_nonblocking(true)?;
            let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
            epoll.add(stream.as_fd(), EpollEvent::new(flags, number as u64))?;
            clients.push(Client { stream, input: Vec::new(), output: Vec::new() });
        }
        let ready = vec![EpollEvent::empty(); 1024];
        Ok(Self { wire, epoll, clients, ready, buffer: vec![0; 256 * 1024] })
    }

    pub(crate) fn wire(&self) -> Wire {
        self.wire
    }

    pub(crate) fn len(&self) -> usize {
        self.clients.len()
    }

    /// Sends a request that `Wire` has encoded.
    pub(crate) fn send(&mut self, number: usize, request: &[u8]) -> Result<()> {
        let client = &mut self.clients[number];
        let sent = if client.output.is_empty() {
            match client.stream.write(request) {
                Ok(count) => count,
                Err(err) if err.kind() == ErrorKind::WouldBlock => 0,
                Err(err) => return Err(err.into()),
            }
        } else {
            0
        };
        client.output.extend_from_slice(&request[sent..]);
        Ok(())
    }

    /// Waits for answers and appends them with their client's number.
    pub(crate) fn wait(
        &mut self,
        timeout: Duration,
        events: &mut Vec<(usize, Event)>,
    ) -> Result<()> {
        let count = self.epoll.wait(&mut self.ready, EpollTimeout::try_from(timeout)?)?;
        for at in 0..count {
            let event = self.ready[at];
            let number = usize::try_from(event.data())?;
            if event.events().contains(EpollFlags::EPOLLOUT) {
                self.flush(number)?;
            }
            if event.events().contains(EpollFlags::EPOLLIN) {
                self.read(number, events)?;
            }
        }
        Ok(())
    }

    fn flush(&mut self, number: usize) -> Result<()> {
        let client = &mut self.clients[number];
        while !client.output.is_empty() {
            match client.stream.write(&client.output) {
                Ok(count) => drop(client.output.drain(..count)),
                Err(err) if err.kind() == ErrorKind::WouldBlock => break,
                Err(err) => return Err(err.into()),
            }
        }
        Ok(())
    }

    fn read(&mut self, number: usize, events: &mut Vec<(usize, Event)>) -> Result<()> {
        let client = &mut self.clients[number];
        loop {
            let count = match client.stream.read(&mut self.buffer) {
                Ok(0) => anyhow::bail!("client {number} lost its connection"),
                Ok(count) => count,
                Err(err) if err.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(err) => return Err(err.into()),
            };
            let mut tell = |event| events.push((number, event));
            if client.input.is_empty() {
                let used = self.wire.read(&self.buffer[..count], &mut tell)?;
                client.input.extend_from_slice(&self.buffer[used..count]);
            } else {
                client.input.extend_from_slice(&self.buffer[..count]);
                let used = self.wire.read(&client.input, &mut tell)?;
                client.input.drain(..used);
            }
            if count < self.buffer.len() {
                return Ok(());
            }
        }
    }
}
