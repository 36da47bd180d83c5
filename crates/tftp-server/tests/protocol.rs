//! The engine against clients that behave, lose packets, and misbehave.
#![allow(clippy::disallowed_methods, reason = "tests need some instant to count from")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed unwrap is a failed test")]

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use athanor_tftp_server::{Client, Content, Datagram, End, ErrorCode, Event, Packet, ReadRequest, Server, server::MAX_UNCONFIRMED};
use proptest::prelude::*;

struct Bytes(Vec<u8>);

impl Content for Bytes {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> std::io::Result<usize> {
        let rest = &self.0[usize::try_from(offset).unwrap().min(self.0.len())..];
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }
}

fn request(options: &[(&str, &str)]) -> ReadRequest {
    let options = options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    ReadRequest { file: "snponly.efi".into(), mode: "octet".into(), options, length: 60 }
}

fn at(peer: SocketAddr) -> Client {
    Client { peer, mtu: 1500 }
}

fn ack(block: u16) -> Vec<u8> {
    let [high, low] = block.to_be_bytes();
    vec![0, 4, high, low]
}

/// A client that takes what comes in order and loses the packets that `lose` names.
fn fetch(content: Vec<u8>, options: &[(&str, &str)], lose: impl Fn(usize) -> bool) -> (Vec<u8>, Vec<Event>) {
    let peer: SocketAddr = "10.0.0.2:2070".parse().unwrap();
    let mut server = Server::new(4);
    let (mut now, mut out, mut events) = (Instant::now(), Vec::<Datagram>::new(), Vec::new());
    server.begin(now, at(peer), &request(options), Bytes(content), &mut out, &mut events);
    let (mut got, mut expected, mut count) = (Vec::new(), 1u64, 0);
    let mut window = 1u64;
    while events.is_empty() {
        let incoming = std::mem::take(&mut out);
        if incoming.is_empty() {
            now = server.next_deadline().expect("the server waits for nothing and has not ended");
            server.tick(now, &mut out, &mut events);
            continue;
        }
        let mut last_ack = None;
        for packet in incoming.iter().flat_map(|datagram| datagram.run.packets()) {
            count += 1;
            if lose(count) {
                continue;
            }
            match packet {
                [0, 6, rest @ ..] => {
                    let text = String::from_utf8_lossy(rest).into_owned();
                    let words: Vec<&str> = text.split('\0').collect();
                    if let Some(at) = words.iter().position(|word| *word == "windowsize") {
                        window = words[at + 1].parse().unwrap();
                    }
                    last_ack = Some(0);
                }
                [0, 3, high, low, data @ ..] => {
                    if u64::from(u16::from_be_bytes([*high, *low])) == expected & 0xffff {
                        got.extend_from_slice(data);
                        expected += 1;
                    }
                    last_ack = Some(u16::try_from((expected - 1) & 0xffff).unwrap());
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(window <= 64);
        if let Some(block) = last_ack {
            count += 1;
            if !lose(count) {
                server.receive(now, datagram_lane(&server, peer), peer, &ack(block), &mut out, &mut events);
            }
        }
    }
    (got, events)
}

/// A client like EDK2, which acknowledges the last block in order once for each packet that it did not expect; how many packets it was sent.
fn fetch_as_edk2(content: &[u8], late_at: usize, lose: impl Fn(usize) -> bool) -> usize {
    let peer: SocketAddr = "10.0.0.2:2070".parse().unwrap();
    let mut server = Server::new(1);
    let (mut now, mut out, mut events) = (Instant::now(), Vec::<Datagram>::new(), Vec::new());
    let options = [("blksize", "1024"), ("windowsize", "4")];
    server.begin(now, at(peer), &request(&options), Bytes(content.to_vec()), &mut out, &mut events);
    let (mut expected, mut sent, mut rounds, mut in_window) = (1_u64, 0, 0, 0);
    while events.is_empty() {
        rounds += 1;
        if rounds == late_at {
            // It does something else for a while, and its window comes twice.
            now += Duration::from_millis(500);
            server.tick(now, &mut out, &mut events);
        }
        let incoming = std::mem::take(&mut out);
        if incoming.is_empty() {
            now = server.next_deadline().unwrap();
            server.tick(now, &mut out, &mut events);
            continue;
        }
        now += Duration::from_micros(200);
        for packet in incoming.iter().flat_map(|datagram| datagram.run.packets()) {
            sent += 1;
            let [_, kind, high, low, ..] = packet else { panic!("{packet:?}") };
            if lose(sent) {
                continue;
            }
            let block = if *kind == 6 { 0 } else { u64::from(u16::from_be_bytes([*high, *low])) };
            let in_order = *kind == 3 && block == expected;
            if in_order {
                expected += 1;
                in_window += 1;
            }
            let short = packet.len() < 4 + 1024;
            if *kind == 6 || !in_order || in_window == 4 || short {
                in_window = 0;
                server.receive(now, 0, peer, &ack(u16::try_from(expected - 1).unwrap()), &mut out, &mut events);
            }
        }
    }
    assert_eq!(events[0].end, End::Complete);
    sent
}

#[test]
fn copies_of_one_window_double_nothing_that_follows() {
    let blocks = 400;
    let content = pattern(blocks * 1024);
    let plain = fetch_as_edk2(&content, 0, |_| false);
    assert_eq!(plain, blocks + 2, "the OACK, the blocks, and the empty one at the end");
    let late = fetch_as_edk2(&content, 20, |_| false);
    assert!(late <= plain + 8, "{late} packets for {plain} after one late acknowledgement");
    let lossy = fetch_as_edk2(&content, 0, |number| number == 42);
    assert!(lossy <= plain + 8, "{lossy} packets for {plain} after one loss");
}

#[test]
fn a_request_that_comes_again_at_once_is_not_answered_again() {
    let peer: SocketAddr = "10.0.0.2:2070".parse().unwrap();
    let mut server = Server::new(1);
    let (start, mut out, mut events) = (Instant::now(), Vec::new(), Vec::new());
    for number in 0..100 {
        let now = start + Duration::from_millis(number);
        server.begin(now, at(peer), &request(&[]), Bytes(pattern(5000)), &mut out, &mut events);
    }
    assert_eq!((out.len(), server.len()), (1, 1));
    server.begin(start + Duration::from_secs(1), at(peer), &request(&[]), Bytes(pattern(5000)), &mut out, &mut events);
    assert_eq!(out.len(), 2, "a client that waited for a second is answered again");
}

#[test]
fn who_keeps_every_place_for_itself_makes_room_for_another() {
    let mut server = Server::new(4);
    let (start, mut out, mut events) = (Instant::now(), Vec::new(), Vec::new());
    for port in 1000..11_000 {
        let greedy = SocketAddr::from(([10, 0, 0, 2], port));
        server.begin(start, at(greedy), &request(&[]), Bytes(pattern(5000)), &mut out, &mut events);
        server.receive(start, server.lane_of(greedy), greedy, &ack(1), &mut out, &mut events);
        out.clear();
    }
    let other = SocketAddr::from(([10, 0, 0, 3], 1000));
    server.begin(start, at(other), &request(&[]), Bytes(pattern(100)), &mut out, &mut events);
    assert_eq!((out.len(), out[0].run.bytes[1]), (1, 3), "{out:?}");
}

fn datagram_lane(server: &Server<Bytes>, peer: SocketAddr) -> usize {
    server.lane_of(peer)
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| u8::try_from(i * 7 % 251).unwrap()).collect()
}

#[test]
fn every_length_around_a_block_arrives_whole() {
    for length in [0, 1, 511, 512, 513, 1024, 5000] {
        let (got, events) = fetch(pattern(length), &[], |_| false);
        assert_eq!(got, pattern(length), "{length}");
        assert_eq!(events[0].end, End::Complete);
        assert_eq!(events[0].bytes, length as u64);
    }
}

#[test]
fn block_numbers_roll_over() {
    let (got, _) = fetch(pattern(8 * 70_000), &[("blksize", "8"), ("windowsize", "16")], |_| false);
    assert_eq!(got.len(), 8 * 70_000);
    assert!(got == pattern(8 * 70_000));
}

#[test]
fn options_are_brought_into_their_range_or_left_out() {
    use athanor_tftp_server::transfer::negotiate;
    let acknowledged = |options: &[(&str, &str)]| {
        negotiate(&request(options), 77, 1468).acknowledged.iter().map(|(n, v)| format!("{n}={v}")).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(acknowledged(&[("tsize", "0"), ("blksize", "1468"), ("windowsize", "4")]), "tsize=77 blksize=1468 windowsize=4");
    assert_eq!(acknowledged(&[("blksize", "65464"), ("windowsize", "9999")]), "blksize=1468 windowsize=64");
    assert_eq!(acknowledged(&[("blksize", "7"), ("windowsize", "0"), ("timeout", "0"), ("tsize", "x"), ("multicast", "")]), "");
    assert_eq!(acknowledged(&[("timeout", "3")]), "timeout=3");
}

#[test]
fn an_echo_is_not_answered_twice() {
    let peer: SocketAddr = "10.0.0.2:2070".parse().unwrap();
    let mut server = Server::new(1);
    let (now, mut out, mut events) = (Instant::now(), Vec::new(), Vec::new());
    server.begin(now, at(peer), &request(&[]), Bytes(pattern(5000)), &mut out, &mut events);
    server.receive(now, 0, peer, &ack(1), &mut out, &mut events);
    assert_eq!(out.len(), 2);
    server.receive(now, 0, peer, &ack(1), &mut out, &mut events);
    assert_eq!(out.len(), 2, "the duplicate acknowledgement was answered with data again");
}

#[test]
fn a_size_probe_ends_with_error_8_and_the_same_port_may_ask_again() {
    let peer: SocketAddr = "10.0.0.2:2070".parse().unwrap();
    let mut server = Server::new(1);
    let (now, mut out, mut events) = (Instant::now(), Vec::new(), Vec::new());
    server.begin(now, at(peer), &request(&[("tsize", "0")]), Bytes(pattern(10)), &mut out, &mut events);
    server.receive(now, 0, peer, &[0, 5, 0, 8, b'n', b'o', 0], &mut out, &mut events);
    assert_eq!(events[0].end, End::Aborted(ErrorCode::OptionRefused, "no".into()));
    server.begin(now, at(peer), &request(&[]), Bytes(pattern(10)), &mut out, &mut events);
    assert_eq!(server.len(), 1);
    assert_eq!(events.len(), 1);
}

#[test]
fn a_silent_client_is_given_up() {
    let peer: SocketAddr = "10.0.0.2:2070".parse().unwrap();
    let mut server = Server::new(1);
    let start = Instant::now();
    let (mut now, mut out, mut events) = (start, Vec::new(), Vec::new());
    server.begin(now, at(peer), &request(&[]), Bytes(pattern(10)), &mut out, &mut events);
    while events.is_empty() {
        now = server.next_deadline().unwrap();
        server.tick(now, &mut out, &mut events);
    }
    // Nothing was acknowledged: whoever asked may not be there, and is sent the block three times at most.
    assert_eq!((events[0].end.clone(), out.len()), (End::TimedOut, 3));
    assert_eq!(now - start, Duration::from_secs(30));
}

#[test]
fn before_it_has_proved_its_address_nobody_is_sent_more_than_three_times_what_it_sent() {
    for options in [&[("tsize", "0")][..], &[("tsize", "0"), ("blksize", "1468"), ("windowsize", "64"), ("timeout", "1")]] {
        let mut server = Server::new(1);
        let (mut now, mut out, mut events) = (Instant::now(), Vec::new(), Vec::new());
        let bytes = rrq("f", options);
        let Some(Packet::Read(request)) = Packet::parse(&bytes) else { panic!("no request") };
        server.begin(now, at("10.0.0.2:2070".parse().unwrap()), &request, Bytes(pattern(1 << 20)), &mut out, &mut events);
        while events.is_empty() {
            now = server.next_deadline().unwrap();
            server.tick(now, &mut out, &mut events);
        }
        let sent: usize = out.iter().map(|datagram| datagram.run.bytes.len()).sum();
        assert!(sent <= 3 * bytes.len(), "{sent} bytes for {}", bytes.len());
    }
}

fn rrq(file: &str, options: &[(&str, &str)]) -> Vec<u8> {
    let words = [file, "octet"].into_iter().chain(options.iter().flat_map(|(name, value)| [*name, *value]));
    [0, 1].into_iter().chain(words.flat_map(|word| word.bytes().chain([0]))).collect()
}

#[test]
fn one_source_has_few_transfers_that_it_never_acknowledged_and_others_are_served_beside() {
    let mut server = Server::new(4);
    let (now, mut out, mut events) = (Instant::now(), Vec::new(), Vec::new());
    for port in 1000..1100 {
        server.begin(now, at(SocketAddr::from(([10, 0, 0, 2], port))), &request(&[]), Bytes(pattern(5000)), &mut out, &mut events);
    }
    assert_eq!(server.len(), MAX_UNCONFIRMED);
    let other = SocketAddr::from(([10, 0, 0, 3], 1000));
    server.begin(now, at(other), &request(&[]), Bytes(pattern(5000)), &mut out, &mut events);
    assert_eq!(server.len(), MAX_UNCONFIRMED + 1);
    // One that is acknowledged makes room for the next.
    let first = SocketAddr::from(([10, 0, 0, 2], 1000));
    server.receive(now, server.lane_of(first), first, &ack(1), &mut out, &mut events);
    server.begin(now, at(SocketAddr::from(([10, 0, 0, 2], 2000))), &request(&[]), Bytes(pattern(5000)), &mut out, &mut events);
    assert_eq!(server.len(), MAX_UNCONFIRMED + 2);
}

#[test]
fn ten_thousand_half_open_transfers_keep_nobody_out() {
    let mut server = Server::new(4);
    let (start, mut out, mut events) = (Instant::now(), Vec::new(), Vec::new());
    let real = SocketAddr::from(([10, 9, 9, 9], 2070));
    server.begin(start, at(real), &request(&[]), Bytes(pattern(5000)), &mut out, &mut events);
    server.receive(start, server.lane_of(real), real, &ack(1), &mut out, &mut events);
    for number in 0..30_000_u32 {
        let [_, a, b, c] = number.to_be_bytes();
        let forged = SocketAddr::from(([11, a, b, c], 2070));
        server.begin(start + Duration::from_micros(number.into()), at(forged), &request(&[]), Bytes(vec![1]), &mut out, &mut events);
    }
    assert_eq!(server.len(), athanor_tftp_server::server::MAX_TRANSFERS);
    assert!(events.iter().all(|event| event.peer != real), "a transfer that was acknowledged was given up for forged ones");
    let late = SocketAddr::from(([10, 9, 9, 8], 2070));
    server.begin(start, at(late), &request(&[]), Bytes(pattern(100)), &mut out, &mut events);
    server.receive(start, server.lane_of(late), late, &ack(1), &mut out, &mut events);
    assert_eq!(events.last().map(|event| (event.peer, event.end.clone())), Some((late, End::Complete)));
}

#[test]
fn blocks_fit_the_path() {
    for (mtu, size) in [(1500, 1468), (1400, 1368), (9000, 1468), (300, 512)] {
        let peer = "10.0.0.2:2070".parse().unwrap();
        let mut server = Server::new(1);
        let (mut out, mut events) = (Vec::new(), Vec::new());
        server.begin(Instant::now(), Client { peer, mtu }, &request(&[("blksize", "8192")]), Bytes(vec![1]), &mut out, &mut events);
        assert_eq!(out[0].run.bytes, format!("\0\x06blksize\0{size}\0").into_bytes(), "MTU {mtu}");
    }
}

#[test]
fn a_packet_of_somebody_else_or_to_another_lane_ends_nothing() {
    let (peer, stranger) = ("10.0.0.2:2070".parse().unwrap(), "10.0.0.66:2070".parse().unwrap());
    let mut server = Server::new(4);
    let (now, mut out, mut events) = (Instant::now(), Vec::new(), Vec::new());
    server.begin(now, at(peer), &request(&[]), Bytes(pattern(5000)), &mut out, &mut events);
    let lane = server.lane_of(peer);
    server.receive(now, lane, stranger, &[0, 5, 0, 0, 0], &mut out, &mut events);
    server.receive(now, (lane + 1) % 4, peer, &[0, 5, 0, 0, 0], &mut out, &mut events);
    server.receive(now, lane, stranger, &ack(1), &mut out, &mut events);
    assert!(events.is_empty());
    assert_eq!(server.len(), 1);
}

#[test]
fn a_lost_block_costs_twenty_milliseconds_in_a_rack_and_not_a_second() {
    let peer = "10.0.0.2:2070".parse().unwrap();
    let mut server = Server::new(1);
    let (start, mut out, mut events) = (Instant::now(), Vec::new(), Vec::new());
    server.begin(start, at(peer), &request(&[]), Bytes(pattern(5000)), &mut out, &mut events);
    let now = start + Duration::from_micros(150);
    server.receive(now, 0, peer, &ack(1), &mut out, &mut events);
    let before = out.len();
    server.tick(now + Duration::from_millis(20), &mut out, &mut events);
    assert_eq!(out.len(), before + 1);
}

#[test]
fn nobodys_acknowledgement_is_told_so_and_an_error_is_not_answered() {
    let mut server: Server<Bytes> = Server::new(1);
    let (mut out, mut events) = (Vec::new(), Vec::new());
    let peer = "10.0.0.9:9".parse().unwrap();
    server.receive(Instant::now(), 0, peer, &[0, 5, 0, 0, 0], &mut out, &mut events);
    assert!(out.is_empty());
    server.receive(Instant::now(), 0, peer, &ack(1), &mut out, &mut events);
    assert_eq!(out[0].run.bytes[..4], [0, 5, 0, 5]);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]
    #[test]
    fn lost_packets_lose_no_bytes(length in 0usize..9000, lost in proptest::collection::vec(1usize..60, 4), window in 1u16..9) {
        // Whoever has acknowledged nothing is sent its first packet three times and no more: two losses on that road are all that may be.
        prop_assume!(lost.iter().filter(|count| **count <= 6).count() <= 2);
        let window = window.to_string();
        let (got, events) = fetch(pattern(length), &[("windowsize", &window)], |count| lost.contains(&count));
        prop_assert_eq!(&events[0].end, &End::Complete);
        prop_assert!(got == pattern(length));
    }

    #[test]
    fn no_packet_panics(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        let _ = Packet::parse(&bytes);
    }
}
