//! What a machine-agent is answered when it asks for a step: a pure function of the plan and the question.

use athanor_wire::{Assignment, Step, work::Next};

use crate::boot_plan::BootPlan;

/// The work of a machine whose plan has none: it leaves the ramdisk, and its firmware asks what to boot.
const LEAVE: &str = "leave";

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Do this.
    Do(Box<Assignment>),
    /// Nothing for now: ask again.
    Nothing,
    /// Its key is bound to nothing yet: the operator is to hear of it, and the answer waits.
    Unbound,
    /// Another agent does this work.
    Stranger,
}

/// Answers an agent that holds `key` and asks the first of `servers` (`http://192.168.10.1:7481`, others behind commas) with `token`. A plan that
/// may be old orders nothing.
pub fn reply(plan: &BootPlan, servers: &str, token: &str, key: &str, next: &Next, is_fresh: bool) -> Reply {
    if !is_fresh {
        return Reply::Nothing;
    }
    let token = (token != plan.token).then(|| plan.token.clone());
    let assign = |work: &str, index: usize, step: &Step| {
        let step = with_documents(step, plan, servers);
        Reply::Do(Box::new(Assignment { work: work.to_owned(), index, step, token: token.clone() }))
    };
    let Some(work) = &plan.work else { return assign(LEAVE, 0, &Step::Reboot) };
    match &work.key {
        None => return Reply::Unbound,
        Some(bound) if bound != key => return Reply::Stranger,
        Some(_) => {}
    }
    let known = next.work.as_ref() == Some(&work.work.id);
    if known && next.failed {
        return Reply::Nothing;
    }
    let index = if known { next.done } else { 0 };
    work.work.steps.get(index).map_or(Reply::Nothing, |step| assign(&work.work.id, index, step))
}

/// An image goes with what its operating system is to read. A plan has that once, for whoever asks.
fn with_documents(step: &Step, plan: &BootPlan, servers: &str) -> Step {
    let mut step = step.clone();
    if let (Step::Write(write), Some(metadata)) = (&mut step, &plan.metadata) {
        write.documents.get_or_insert_with(|| metadata.documents_at(servers));
    }
    step
}

#[cfg(test)]
mod tests {
    use athanor_crds::{MachineState, machine::LocalBoot};
    use athanor_wire::Work;

    use super::*;
    use crate::boot_plan::{AgentWork, FORMAT, MachineKey, Purpose, Safe};

    fn plan(work: Option<AgentWork>) -> BootPlan {
        BootPlan {
            format: FORMAT,
            machine: MachineKey { namespace: "default".into(), name: "m1".into() },
            state: MachineState::Inspecting,
            token: "t-2".into(),
            previous_token: Some("t-1".into()),
            interfaces: Vec::new(),
            hostname: None,
            local_boot: LocalBoot::default(),
            loader: None,
            safe: Safe::LocalDisk { reason: "r".into() },
            order: None,
            work,
            metadata: None,
            wake: false,
        }
    }

    fn inspection(key: Option<&str>) -> Option<AgentWork> {
        let work = Work { id: "w-1".into(), steps: vec![Step::Inventory, Step::PowerOff] };
        Some(AgentWork { purpose: Purpose::Inspect, work, key: key.map(str::to_owned), bound: None, boot: None })
    }

    fn asks(plan: &BootPlan, token: &str, key: &str, next: &Next, is_fresh: bool) -> Reply {
        reply(plan, "http://192.168.10.1:7481", token, key, next, is_fresh)
    }

    fn does(reply: Reply) -> (String, usize, &'static str, Option<String>) {
        match reply {
            Reply::Do(assignment) => (assignment.work, assignment.index, assignment.step.name(), assignment.token),
            other => (format!("{other:?}"), 0, "", None),
        }
    }

    #[test]
    fn the_agent_that_is_bound_gets_one_step_after_the_other() {
        let plan = plan(inspection(Some("k-1")));
        let at = |work: &str, done, failed| Next { work: Some(work.into()), done, failed };
        assert_eq!(does(asks(&plan, "t-2", "k-1", &Next::default(), true)), ("w-1".into(), 0, "inventory", None));
        assert_eq!(does(asks(&plan, "t-2", "k-1", &at("w-0", 5, true), true)), ("w-1".into(), 0, "inventory", None), "other work is over");
        assert_eq!(does(asks(&plan, "t-1", "k-1", &at("w-1", 1, false), true)), ("w-1".into(), 1, "power off", Some("t-2".into())));
        assert_eq!(asks(&plan, "t-2", "k-1", &at("w-1", 2, false), true), Reply::Nothing);
        assert_eq!(asks(&plan, "t-2", "k-1", &at("w-1", 1, true), true), Reply::Nothing, "after a failure");
    }

    #[test]
    fn nobody_else_does() {
        assert_eq!(asks(&plan(inspection(Some("k-1"))), "t-2", "k-2", &Next::default(), true), Reply::Stranger);
        assert_eq!(asks(&plan(inspection(None)), "t-2", "k-1", &Next::default(), true), Reply::Unbound);
        assert_eq!(asks(&plan(inspection(Some("k-1"))), "t-2", "k-1", &Next::default(), false), Reply::Nothing, "the plan may be old");
    }

    #[test]
    fn where_there_is_no_work_the_machine_leaves() {
        assert_eq!(does(asks(&plan(None), "t-2", "k-1", &Next::default(), true)), ("leave".into(), 0, "reboot", None));
    }
}
