//! What machine-agents ask and tell, on its way into BootReports.

use athanor_crds::bootreport::AgentReport;
use athanor_plan::{BootPlan, boot_plan::WORK_PREFIX};
use athanor_wire::StepReport;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

use super::{Reporter, boot_mac, now};

impl Reporter {
    /// A machine-agent asks for the work of a plan, with its key. The operator waits to hear of the first; of another it is told.
    pub(crate) fn agent_asked(&self, plan: &BootPlan, key: &str) {
        let Some((mac, work)) = boot_mac(plan).zip(plan.work.as_ref()) else { return };
        self.with(mac, |client| {
            if AgentReport::asked(&mut client.agent, &work.work.id, work.key.is_some(), key, MicroTime(now())) {
                client.mark(true);
            }
        });
    }

    /// The machine-agent that is bound to the work of a plan told how a step goes.
    pub(crate) fn agent_told(&self, plan: &BootPlan, key: &str, report: StepReport) {
        let Some(mac) = boot_mac(plan) else { return };
        self.with(mac, |client| {
            let ended = report.outcome.is_some();
            // What it has wiped or looked at runs nothing.
            let over = ended && report.work.starts_with(WORK_PREFIX);
            if client.agent.get_or_insert_default().told(key, report, MicroTime(now())) {
                client.mark(ended);
            }
            if over {
                client.begin("");
            }
        });
    }
}
