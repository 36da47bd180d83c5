//! What guests say of themselves, boot by boot.

use std::time::Duration;

use athanor_plan::BootPlan;
use athanor_wire::GuestReport;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

use super::{BOOT_TIME_PAUSE, Client, Reporter, boot_mac, now};

impl Client {
    /// What its guest said in this boot.
    pub(super) fn said(&self) -> Option<&GuestReport> {
        self.attempt.guest_since(self.last_boot.map(Timestamp::as_microsecond))
    }
}

impl Reporter {
    /// How long ago the firmware of a machine last asked. An agent that was started since does not know, but not longer ago than that.
    pub(crate) fn since_boot(&self, plan: &BootPlan) -> Duration {
        let began = self.of_plan(plan, |client| client.boot_began).flatten();
        began.map_or_else(|| now().duration_since(self.born).unsigned_abs(), |began| began.elapsed())
    }

    /// The release hook of an attempt's guest asked.
    pub(crate) fn hooked(&self, plan: &BootPlan, attempt: &str) {
        let known = self.of_plan(plan, |client| client.attempt.id == attempt && client.attempt.hook).unwrap_or_default();
        if let Some(mac) = boot_mac(plan).filter(|_| !known) {
            self.with(mac, |client| {
                client.begin(attempt);
                client.attempt.hook = true;
                client.mark(false);
            });
        }
    }

    /// The guest of an attempt reported, with a token of it. A boot has one outcome: what stands already is returned.
    pub(crate) fn guest(&self, plan: &BootPlan, attempt: &str, report: GuestReport) -> Option<GuestReport> {
        let mac = boot_mac(plan)?;
        self.with(mac, |client| {
            client.begin(attempt);
            // The clock may have been set back since its firmware asked.
            let at = client.last_boot.map_or(now(), |boot| boot.max(now()));
            if let Some(said) = client.said().cloned() {
                // Another node may have seen it boot again meanwhile.
                let before = client.attempt.guest_at.as_ref().map(|before| at.duration_since(before.0).unsigned_abs());
                if said.outcome == report.outcome && before.is_none_or(|before| before >= BOOT_TIME_PAUSE) {
                    client.attempt.guest_at = Some(MicroTime(at));
                    client.mark(true);
                }
                return Some(said);
            }
            (client.attempt.guest, client.attempt.guest_at) = (Some(report), Some(MicroTime(at)));
            client.mark(true);
            None
        })
    }
}
