//! What the agent does next. No I/O: what happened comes in, what to do goes out.

use std::{collections::VecDeque, time::Duration};

use athanor_wire::{Assignment, Step, StepReport, work::Next};

/// The first pause after a server did not answer; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause: a rack whose power comes back asks a server that comes back last.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How long an agent waits that is not known, or not the one that is known: the operator may be about to bind it.
const STRANGER_PAUSE: Duration = Duration::from_secs(3);

/// So often in a row, which takes two minutes, an agent hears that its token names no machine before it leaves: somebody deleted the Machine, and
/// its firmware asks what there is for it.
const UNKNOWN_TRIES: u32 = 40;

/// How many works that are over are remembered: a server that knows less than another is behind by seconds, and no machine does so much in them.
const MAX_OVER: usize = 32;

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// It begins, or a pause is over.
    Woke,
    /// The server answered: a step, or nothing for now.
    Answered(Option<Assignment>),
    /// A report was stored.
    Stored,
    /// A report is of work that is over: nobody wants to know.
    Over,
    /// A step ended.
    Finished(Box<StepReport>),
    /// The server did not answer, or not well.
    Lost,
    /// Another key is bound to the work.
    Stranger,
    /// The server knows no machine with this token.
    Unknown,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Ask for a step.
    Ask(Next),
    /// Tell how a step went.
    Tell(Box<StepReport>),
    /// Do a step.
    Run(Assignment),
    /// Wait.
    Pause(Duration),
    /// Leave: restart, or power off.
    Leave(Step),
}

/// The state of an agent.
#[derive(Debug, Clone)]
pub struct Engine {
    servers: usize,
    server: usize,
    failures: u32,
    unknown: u32,
    at: Next,
    /// Works that this agent was at before.
    over: VecDeque<String>,
    untold: Option<Box<StepReport>>,
}

impl Engine {
    /// One that knows so many servers, and nothing else.
    pub fn new(servers: usize) -> Self {
        Self { servers: servers.max(1), server: 0, failures: 0, unknown: 0, at: Next::default(), over: VecDeque::new(), untold: None }
    }

    /// Which server is asked.
    pub fn server(&self) -> usize {
        self.server
    }

    /// What to do about what happened.
    pub fn on(&mut self, event: Event) -> Action {
        if !matches!(event, Event::Woke | Event::Unknown) {
            self.unknown = 0;
        }
        match event {
            Event::Woke => self.speak(),
            Event::Lost => {
                let pause = FIRST_PAUSE.saturating_mul(1 << self.failures.min(5)).min(LONGEST_PAUSE);
                self.failures += 1;
                self.server = (self.server + 1) % self.servers;
                Action::Pause(pause)
            }
            Event::Unknown if self.unknown + 1 >= UNKNOWN_TRIES => Action::Leave(Step::Reboot),
            Event::Stranger | Event::Unknown => {
                self.unknown += u32::from(event == Event::Unknown);
                self.elsewhere()
            }
            Event::Answered(answer) => {
                self.failures = 0;
                self.answered(answer)
            }
            Event::Finished(report) => {
                self.untold = Some(report);
                self.speak()
            }
            Event::Stored | Event::Over => {
                self.failures = 0;
                if let Some(told) = self.untold.take() {
                    self.at.done = told.index as usize + 1;
                    self.at.failed = !told.is_done();
                }
                self.speak()
            }
        }
    }

    /// What was not told yet comes before any new step.
    fn speak(&self) -> Action {
        match &self.untold {
            Some(report) => Action::Tell(report.clone()),
            None => Action::Ask(self.at.clone()),
        }
    }

    /// Another server may know better.
    fn elsewhere(&mut self) -> Action {
        self.server = (self.server + 1) % self.servers;
        Action::Pause(STRANGER_PAUSE)
    }

    fn answered(&mut self, answer: Option<Assignment>) -> Action {
        let Some(assignment) = answer else { return self.speak() };
        let news = self.at.work.as_ref() != Some(&assignment.work);
        if self.over.contains(&assignment.work) {
            // What was wiped before is somebody's now: that server has not heard of it yet.
            return self.elsewhere();
        }
        if news {
            if self.over.len() == MAX_OVER {
                self.over.pop_front();
            }
            self.over.extend(self.at.work.take());
            self.at = Next { work: Some(assignment.work.clone()), done: assignment.index, failed: false };
        } else if assignment.index != self.at.done || self.at.failed {
            // A step is done once, whatever a server says that knows less.
            return Action::Pause(STRANGER_PAUSE);
        }
        if assignment.step.is_last() {
            return Action::Leave(assignment.step);
        }
        Action::Run(assignment)
    }
}

#[cfg(test)]
mod tests {
    use athanor_wire::Outcome;

    use super::*;

    fn assigned(work: &str, index: usize, step: Step) -> Event {
        Event::Answered(Some(Assignment { work: work.into(), index, step, token: None }))
    }

    fn ended(work: &str, index: usize, outcome: Outcome) -> Box<StepReport> {
        Box::new(StepReport { outcome: Some(outcome), ..StepReport::begun(work, index, "inventory") })
    }

    fn at(work: &str, done: usize, failed: bool) -> Action {
        Action::Ask(Next { work: Some(work.into()), done, failed })
    }

    #[test]
    fn a_step_is_asked_for_done_told_and_the_next_asked_for() {
        let mut engine = Engine::new(1);
        assert_eq!(engine.on(Event::Woke), Action::Ask(Next::default()));
        assert_eq!(engine.on(Event::Answered(None)), Action::Ask(Next::default()));
        assert!(matches!(engine.on(assigned("w", 0, Step::Inventory)), Action::Run(run) if run.index == 0));
        let report = ended("w", 0, Outcome::Done);
        assert_eq!(engine.on(Event::Finished(report.clone())), Action::Tell(report));
        assert_eq!(engine.on(Event::Stored), at("w", 1, false));
        assert_eq!(engine.on(assigned("w", 1, Step::Reboot)), Action::Leave(Step::Reboot));
    }

    #[test]
    fn a_report_is_told_until_it_is_stored_by_one_server_or_another() {
        let mut engine = Engine::new(2);
        engine.on(assigned("w", 0, Step::Inventory));
        let report = ended("w", 0, Outcome::Done);
        engine.on(Event::Finished(report.clone()));
        assert_eq!(engine.server(), 0);
        let mut pauses = Vec::new();
        for _ in 0..8 {
            let Action::Pause(pause) = engine.on(Event::Lost) else { panic!("it gave up") };
            pauses.push(pause.as_secs());
            assert_eq!(engine.on(Event::Woke), Action::Tell(report.clone()));
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30, 30]);
        assert_eq!(engine.on(Event::Stored), at("w", 1, false));
    }

    #[test]
    fn after_a_failure_nothing_more_is_done_of_that_work() {
        let mut engine = Engine::new(1);
        engine.on(assigned("w", 0, Step::Inventory));
        engine.on(Event::Finished(ended("w", 0, Outcome::Failed)));
        assert_eq!(engine.on(Event::Stored), at("w", 1, true));
        assert_eq!(engine.on(assigned("w", 1, Step::Reboot)), Action::Pause(STRANGER_PAUSE), "though a server says so");
        assert!(matches!(engine.on(assigned("other", 0, Step::Inventory)), Action::Run(_)));
    }

    #[test]
    fn an_agent_whose_machine_was_deleted_leaves_after_a_while() {
        let mut engine = Engine::new(1);
        for round in 0..2 {
            for _ in 1..UNKNOWN_TRIES {
                assert_eq!(engine.on(Event::Unknown), Action::Pause(STRANGER_PAUSE), "round {round}");
                engine.on(Event::Woke);
            }
            // One answer, and it counts anew.
            if round == 0 {
                engine.on(Event::Lost);
            }
        }
        assert_eq!(engine.on(Event::Unknown), Action::Leave(Step::Reboot));
    }

    #[test]
    fn work_that_is_over_is_not_begun_again_though_a_server_says_so() {
        let mut engine = Engine::new(2);
        for work in ["wipe", "write"] {
            assert!(matches!(engine.on(assigned(work, 0, Step::Inventory)), Action::Run(_)), "{work}");
            engine.on(Event::Finished(ended(work, 0, Outcome::Done)));
            engine.on(Event::Stored);
        }
        assert_eq!(engine.server(), 0);
        assert_eq!(engine.on(assigned("wipe", 0, Step::Inventory)), Action::Pause(STRANGER_PAUSE));
        assert_eq!(engine.server(), 1, "another one is asked");
        assert_eq!(engine.on(Event::Woke), at("write", 1, false));
    }

    #[test]
    fn a_step_is_never_done_twice() {
        let mut engine = Engine::new(1);
        engine.on(assigned("w", 0, Step::Inventory));
        engine.on(Event::Finished(ended("w", 0, Outcome::Done)));
        engine.on(Event::Stored);
        assert_eq!(engine.on(assigned("w", 0, Step::Inventory)), Action::Pause(STRANGER_PAUSE));
    }
}
