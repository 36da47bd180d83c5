//! What guests say of themselves, boot by boot.

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
