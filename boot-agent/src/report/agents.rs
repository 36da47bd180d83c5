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
            let known = client.agent.as_ref().is_some_and(|agent| agent.work == work.work.id);
            if !known || work.key.is_none() {
                let same = client.agent.as_ref().is_some_and(|agent| known && agent.key == key);
                if !same {
                    client.agent = Some(AgentReport { work: work.work.id.clone(), key: key.to_owned(), ..AgentReport::default() });
                    client.mark(true);
                }
                return;
            }
            if let Some(agent) = client.agent.as_mut().filter(|agent| agent.key != key && agent.stranger.is_none()) {
                agent.stranger = Some(MicroTime(now()));
                client.mark(true);
            }
        });
    }

    /// The machine-agent that is bound to the work of a plan told how a step goes.
    pub(crate) fn agent_told(&self, plan: &BootPlan, key: &str, report: StepReport) {
        let Some(mac) = boot_mac(plan) else { return };
        self.with(mac, |client| {
            let agent = client.agent.get_or_insert_default();
            if agent.work != report.work || agent.key != key {
                *agent = AgentReport { work: report.work.clone(), key: key.to_owned(), ..AgentReport::default() };
            }
            let ended = report.outcome.is_some();
            let is_news = match agent.steps.iter_mut().find(|step| step.index == report.index) {
                Some(known) if known.outcome.is_some() => false,
                Some(known) => {
                    *known = report;
                    true
                }
                None => {
                    agent.steps.push(report);
                    true
                }
            };
            // What it has wiped or looked at runs nothing.
            let over = ended && agent.work.starts_with(WORK_PREFIX);
            if is_news {
                agent.told = Some(MicroTime(now()));
                client.mark(ended);
            }
            if over {
                client.begin("");
            }
        });
    }
}
