//! Sixty packets that are wrong in some way, and what is made of each: not looked at with the reason, or read without the part that is wrong.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use athanor_dhcp::{Client, Request, question::describe};

/// A good DISCOVER of UEFI firmware; options begin at byte 240 with 53, then 60, then 93.
fn good() -> Vec<u8> {
    describe("mac=52:54:00:aa:00:01,arch=uefi").unwrap().bytes
}

/// What becomes of it: the error, or the message and the client.
fn read(bytes: &[u8]) -> String {
    match Request::parse(bytes) {
        Ok(request) => format!("{} {}", request.message, Client::of(&request).describe()),
        Err(error) => error.to_string(),
    }
}

/// The same with other options.
fn with(options: &[u8]) -> Vec<u8> {
    let mut bytes = good();
    bytes.truncate(240);
    bytes.extend(options);
    bytes
}

const UEFI: &str = "DISCOVER UEFI amd64 (PXEClient, arch 7)";

#[test]
fn what_is_cut_off_is_not_looked_at() {
    for length in [0, 1, 3, 43, 107, 108, 235, 236, 237, 239] {
        assert_eq!(read(&good()[..length]), format!("{length} bytes, shorter than a DHCP message"));
    }
    assert_eq!(read(&good()[..240]), "no DHCP message type (option 53)");
    assert_eq!(read(&good()[..241]), "no DHCP message type (option 53)");
    assert_eq!(read(&good()[..242]), "no DHCP message type (option 53)");
    // From here on the packet says what it is; what was cut off is missing.
    assert_eq!(read(&good()[..243]), "DISCOVER no network boot");
    assert_eq!(read(&good()[..250]), "DISCOVER no network boot");
    let end = good().len();
    assert_eq!(read(&good()[..end - 1]), UEFI, "without END");
}

#[test]
fn fields_that_no_client_on_ethernet_sends_are_told() {
    let set = |at: usize, value: u8| {
        let mut bytes = good();
        bytes[at] = value;
        read(&bytes)
    };
    for op in [0, 2, 3, 255] {
        assert_eq!(set(0, op), format!("op {op}, not a request"));
    }
    for htype in [0, 6, 32, 255] {
        assert_eq!(set(1, htype), format!("hardware type {htype} with 6 address bytes, not Ethernet"));
    }
    for hlen in [0, 5, 7, 16, 17, 200, 255] {
        assert_eq!(set(2, hlen), format!("hardware type 1 with {hlen} address bytes, not Ethernet"));
    }
    for at in 236..240 {
        assert_eq!(set(at, 0), "no magic cookie before the options");
    }
    let from = |mac: [u8; 6]| {
        let mut bytes = good();
        bytes[28..34].copy_from_slice(&mac);
        read(&bytes)
    };
    assert_eq!(from([0; 6]), "hardware address 00:00:00:00:00:00 belongs to no station");
    assert_eq!(from([0xff; 6]), "hardware address ff:ff:ff:ff:ff:ff belongs to no station");
    assert_eq!(from([1, 0, 0x5e, 0, 0, 1]), "hardware address 01:00:5e:00:00:01 belongs to no station");
    // Nobody looks at these.
    for (at, value) in [(3, 255), (8, 255), (10, 255), (40, 255), (43, 255)] {
        assert_eq!(set(at, value), UEFI, "byte {at}");
    }
}

#[test]
fn a_bad_option_costs_itself() {
    for (options, says) in [
        (&[][..], "no DHCP message type (option 53)"),
        (&[255, 53, 1, 1], "no DHCP message type (option 53)"),
        (&[0, 0, 0, 0], "no DHCP message type (option 53)"),
        (&[53], "no DHCP message type (option 53)"),
        (&[53, 0, 255], "no DHCP message type (option 53)"),
        (&[53, 200, 1], "no DHCP message type (option 53)"),
        (&[0, 0, 53, 1, 1, 255], "DISCOVER no network boot"),
        (&[53, 1, 0, 255], "type 0 no network boot"),
        (&[53, 1, 99, 255], "type 99 no network boot"),
        (&[53, 2, 1, 3, 255], "DISCOVER no network boot"),
        (&[53, 1, 1, 60, 0, 255], "DISCOVER no network boot"),
        (&[53, 1, 1, 60, 3, 0xff, 0xfe, 0xfd, 255], "DISCOVER no network boot"),
        (&[53, 1, 1, 93, 0, 255], "DISCOVER no network boot"),
        (&[53, 1, 1, 93, 1, 7, 255], "DISCOVER no network boot"),
        (&[53, 1, 1, 60, 250, b'P'], "DISCOVER no network boot"),
        (
            &[53, 1, 1, 60, 9, b'P', b'X', b'E', b'C', b'l', b'i', b'e', b'n', b't', 93, 2, 0xff, 0xff, 255],
            "DISCOVER architecture 65535 (PXEClient, arch 65535)",
        ),
        (&[53, 1, 1, 77, 0, 255], "DISCOVER no network boot"),
        (&[53, 1, 1, 52, 0, 255], "DISCOVER no network boot"),
        (&[53, 1, 1, 52, 1, 255, 255], "DISCOVER no network boot"),
        (&[53, 1, 1, 82, 2, 5, 200, 255], "DISCOVER no network boot"),
        (&[53, 1, 1, 55, 0, 255], "DISCOVER no network boot"),
        (&[53, 1, 1, 57, 1, 0, 255], "DISCOVER no network boot"),
        (&[53, 1, 1, 97, 1, 0, 255], "DISCOVER no network boot"),
        (&[53, 1, 1, 50, 3, 1, 2, 3, 255], "DISCOVER no network boot"),
    ] {
        assert_eq!(read(&with(options)), says, "{options:?}");
    }
}
