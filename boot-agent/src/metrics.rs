//! What an agent tells Prometheus. Labels are rows, outcomes and codes, never machines: their number is bounded.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicI64, AtomicU64},
};

use athanor_dhcp::Row;
use jiff::Timestamp;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RowLabel {
    row: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Code {
    code: u16,
}

type Count = Counter<u64, AtomicU64>;

/// The metrics of one agent.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    machines: Gauge<i64, AtomicI64>,
    contact: Gauge<i64, AtomicI64>,
    dhcp: Family<RowLabel, Count>,
    rows: Arc<OnceLock<[Count; Row::ALL.len()]>>,
    tftp: Family<Outcome, Count>,
    http: Family<Code, Count>,
}

impl Metrics {
    /// Makes them known.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("athanor_agent_machines", "Machines that this agent has plans of", self.machines.clone());
        registry.register("athanor_agent_api_contact_timestamp_seconds", "When the API last answered", self.contact.clone());
        registry.register("athanor_agent_dhcp_packets", "DHCP packets by the row of the decision table", self.dhcp.clone());
        registry.register("athanor_agent_tftp_transfers", "TFTP transfers by how they ended", self.tftp.clone());
        registry.register("athanor_agent_http_responses", "HTTP answers by status code", self.http.clone());
    }

    pub(crate) fn knows(&self, machines: usize) {
        self.machines.set(i64::try_from(machines).unwrap_or(i64::MAX));
    }

    pub(crate) fn heard_from_api(&self) {
        self.contact.set(Timestamp::now().as_second());
    }

    pub(crate) fn dhcp(&self, row: Row) {
        // Found once: packets come by the ten thousand.
        let counters = self.rows.get_or_init(|| Row::ALL.map(|row| self.dhcp.get_or_create(&RowLabel { row: row.name() }).clone()));
        if let Some(counter) = counters.get(row as usize) {
            counter.inc();
        }
    }

    pub(crate) fn tftp(&self, outcome: &'static str) {
        self.tftp.get_or_create(&Outcome { outcome }).inc();
    }

    pub(crate) fn http(&self, code: u16) {
        self.http.get_or_create(&Code { code }).inc();
    }
}
