//! Whose key does a Machine's work, and what is said of another one.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

use athanor_crds::{
    BootReport, BootReportSpec, Machine,
    bootreport::{AgentReport, NodeReport},
    conditions::{self, types},
    names,
};
use athanor_operator::Cluster as _;
use athanor_plan::BootPlan;
use athanor_sim::{Count, Memory, Virtual, furnish, settle};
use futures::executor::block_on;
use jiff::Timestamp;
use k8s_openapi::{api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::MicroTime};

/// The id of the work that the Machine's plan holds.
fn work(cluster: &Memory) -> String {
    let plans = block_on(cluster.list::<Secret>(Some(names::PLANS_NAMESPACE))).unwrap();
    let read = |secret: &Secret| serde_json::from_slice::<BootPlan>(&secret.data.as_ref()?.get(names::PLAN_SECRET_KEY)?.0).ok();
    plans.iter().find_map(|secret| read(secret)).unwrap().work.unwrap().work.id
}

#[test]
fn a_second_key_is_told_though_the_firmware_asked_in_the_very_second_in_which_the_first_was_bound() {
    let (cluster, ids, clock) = (Memory::new(1), Count::default(), Virtual::default());
    furnish(&cluster, 1);
    settle(&cluster, &ids, &clock);
    // The operator's clock knows seconds only.
    clock.pass(600);
    let asked = MicroTime(Timestamp::from_microsecond(clock.micros()).unwrap());
    clock.pass(100);
    let agent = AgentReport { work: work(&cluster), key: "k-1".to_owned(), ..AgentReport::default() };
    let report = |agent: AgentReport| {
        let node = NodeReport { node: "n1".to_owned(), last_boot: Some(asked.clone()), agent: Some(agent), ..NodeReport::default() };
        let mut report = BootReport::new("m0", BootReportSpec { mac: None, nodes: vec![node] });
        report.metadata.namespace = Some("default".to_owned());
        report
    };
    let told = || {
        let machine = block_on(cluster.get::<Machine>(Some("default"), "m0")).unwrap().unwrap();
        conditions::find(&machine.status.unwrap().conditions, types::TOKEN_CONFLICT).is_some()
    };
    cluster.put(&report(agent.clone()));
    settle(&cluster, &ids, &clock);
    assert!(!told(), "one key is no conflict");
    cluster.put(&report(AgentReport { stranger: Some(asked.clone()), ..agent }));
    settle(&cluster, &ids, &clock);
    assert!(told(), "two keys are");
}
