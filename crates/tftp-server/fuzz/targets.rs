//! Whatever comes in on a TFTP port, one packet after the other.
#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods, reason = "a target fails by panicking, and runs for a time")]

#[path = "../../../tests/fuzz/engine.rs"]
mod engine;

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use athanor_tftp_server::{Client, Content, Datagram, Packet, Server};
use proptest::prelude::*;

struct Zeros(u64);

impl Content for Zeros {
    fn size(&self) -> u64 {
        self.0
    }
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = usize::try_from(self.0.saturating_sub(offset)).unwrap().min(buffer.len());
        buffer[..length].fill(0);
        Ok(length)
    }
}

/// Packets, each after its length.
fn session(packets: &[&[u8]]) -> Vec<u8> {
    packets.iter().flat_map(|packet| std::iter::once(u8::try_from(packet.len()).unwrap()).chain(packet.iter().copied())).collect()
}

fn packets(mut bytes: &[u8]) -> Vec<&[u8]> {
    std::iter::from_fn(|| {
        let (length, rest) = bytes.split_first()?;
        let (packet, rest) = rest.split_at(usize::from(*length).min(rest.len()));
        bytes = rest;
        Some(packet)
    })
    .collect()
}

#[test]
fn whatever_a_client_sends_it_gets_windows_of_its_file_and_nothing_without_asking() {
    let plain: &[u8] = b"\0\x01snponly.efi\0octet\0";
    let options: &[u8] = b"\0\x01snponly.efi\0octet\0tsize\x000\0blksize\x001468\0windowsize\x0064\0timeout\x002\0";
    let ack = |block: u8| [0, 4, 0, block];
    let seeds = [
        session(&[plain, &ack(1), &ack(2), &ack(2), &ack(3)]),
        session(&[options, &ack(0), &ack(64), &ack(70), &ack(128)]),
        session(&[options, b"\0\x05\0\x08no\0", options, &ack(0), &ack(0), &ack(1)]),
        session(&[b"\0\x02f\0netascii\0", b"\0\x03\0\x01x", b"\0\x06", &[]]),
    ];
    let peer = SocketAddr::from(([10, 0, 0, 2], 2070));
    engine::fuzz(&seeds, |bytes| {
        let (mut server, mut now) = (Server::new(2), Instant::now());
        let (mut out, mut events): (Vec<Datagram>, _) = (Vec::new(), Vec::new());
        for packet in packets(bytes) {
            out.clear();
            match Packet::parse(packet) {
                Some(Packet::Read(request)) => {
                    server.begin(now, Client { peer, mtu: 1500 }, &request, Zeros(300_000), &mut out, &mut events)
                }
                _ => server.receive(now, server.lane_of(peer), peer, packet, &mut out, &mut events),
            }
            let sent: usize = out.iter().map(|datagram| datagram.run.bytes.len()).sum();
            prop_assert!(sent <= 64 * (4 + 1468) + 600, "{sent} bytes for one packet");
            now += Duration::from_millis(7);
            server.tick(now, &mut out, &mut events);
        }
        // It ends, whatever was agreed on.
        for _ in 0..200 {
            let Some(deadline) = server.next_deadline() else { break };
            now = deadline.max(now);
            server.tick(now, &mut out, &mut events);
        }
        prop_assert!(server.is_empty(), "a transfer without an end");
        Ok(())
    });
}
