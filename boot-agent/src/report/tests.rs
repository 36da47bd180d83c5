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
