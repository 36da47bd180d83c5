use super::*;

#[test]
fn a_hall_that_boots_at_once_is_told_of_in_turn_and_who_is_waited_for_comes_first() {
    let reporter = Reporter::default();
    let mac = |number: u8| MacAddr([2, 0, 0, 0, 0, number]);
    let interface = |number| athanor_plan::PlanInterface { mac: mac(number), boot: true, addresses: Vec::new() };
    let plan = BootPlan {
        format: 1,
        machine: athanor_plan::MachineKey { namespace: "default".to_owned(), name: "m".to_owned() },
        state: athanor_crds::MachineState::Available,
        token: "t".to_owned(),
        previous_token: None,
        interfaces: (0..=200).map(interface).collect(),
        hostname: None,
        local_boot: athanor_crds::machine::LocalBoot::default(),
        loader: None,
        safe: athanor_plan::Safe::LocalDisk { reason: "r".to_owned() },
        order: None,
        work: None,
        metadata: None,
        wake: false,
    };
    let snapshot = Snapshot::new(Vec::new(), vec![plan.into()], std::sync::Arc::default());
    let seen = || Seen { protocol: "DHCP", asked: "a".to_owned(), answer: "b".to_owned(), row: None, subnet: Some("lab".to_owned()) };
    for number in 0..200 {
        reporter.saw_dhcp(mac(number), false, seen(), true);
    }
    reporter.saw_dhcp(mac(200), false, seen(), false);
    let first = reporter.due(&snapshot, "node", 50, false);
    assert_eq!((first.len(), first[0].mac, first[0].urgent), (51, mac(200), true));
    let mut told: BTreeSet<MacAddr> = first.into_iter().map(|due| due.mac).collect();
    for _ in 0..3 {
        told.extend(reporter.due(&snapshot, "node", 50, false).into_iter().map(|due| due.mac));
    }
    assert_eq!(told.len(), 201, "somebody was told of twice before others were told of once");
}

#[test]
fn where_a_machine_is_says_its_firmware_or_who_asks_where_it_was_not() {
    let (reporter, mac) = (Reporter::default(), MacAddr([2, 0, 0, 0, 0, 1]));
    let asks = |firmware, subnet: &str, at_home| {
        let (asked, answer) = ("a".to_owned(), "b".to_owned());
        reporter.with(mac, |client| client.subnet_at = Some(Timestamp::UNIX_EPOCH));
        reporter.saw_dhcp(mac, firmware, Seen { protocol: "DHCP", asked, answer, row: None, subnet: Some(subnet.to_owned()) }, at_home);
        reporter
            .of(mac, |client| (client.subnet.clone().unwrap_or_default(), client.subnet_at != Some(Timestamp::UNIX_EPOCH)))
            .unwrap_or_default()
    };
    assert_eq!(asks(true, "lab", true), ("lab".to_owned(), true));
    assert_eq!(asks(false, "lab", true), ("lab".to_owned(), false), "its system renews its lease");
    assert_eq!(asks(false, "two", false), ("two".to_owned(), true), "its system was plugged in elsewhere");
    assert_eq!(asks(false, "two", false), ("two".to_owned(), false), "it asks on, and that was told");
    assert_eq!(asks(true, "lab", true), ("lab".to_owned(), true), "it came back");
}
