//! What an operator tells Prometheus. Labels are kinds and outcomes, never objects: their number is bounded.

use std::{
    sync::atomic::{AtomicI64, AtomicU64},
    time::Duration,
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

use crate::PortError;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reconcile {
    kind: String,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: String,
}

/// The metrics of one operator.
#[derive(Debug, Clone)]
pub struct Metrics {
    leading: Gauge<i64, AtomicI64>,
    reconciles: Family<Reconcile, Counter<u64, AtomicU64>>,
    seconds: Family<Kind, Histogram, fn() -> Histogram>,
}

impl Default for Metrics {
    fn default() -> Self {
        // From a millisecond to half a minute: a reconcile is a handful of API calls.
        let seconds = Family::new_with_constructor((|| Histogram::new(exponential_buckets(0.001, 3.0, 10))) as fn() -> Histogram);
        Self { leading: Gauge::default(), reconciles: Family::default(), seconds }
    }
}

impl Metrics {
    /// Makes them known.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("athanor_operator_leading", "1 while this operator leads", self.leading.clone());
        registry.register("athanor_operator_reconciles", "Reconciles by kind and outcome", self.reconciles.clone());
        registry.register("athanor_operator_reconcile_seconds", "How long a reconcile takes", self.seconds.clone());
    }

    pub(crate) fn leads(&self, leading: bool) {
        self.leading.set(leading.into());
    }

    pub(crate) fn reconciled<T>(&self, kind: &str, result: &Result<T, PortError>, took: Duration) {
        let outcome = result.as_ref().err().map_or("ok", PortError::category);
        self.reconciles.get_or_create(&Reconcile { kind: kind.to_owned(), outcome }).inc();
        self.seconds.get_or_create(&Kind { kind: kind.to_owned() }).observe(took.as_secs_f64());
    }
}
