//! What a Machine's operating system may ask for while it runs, as its plan holds it.

use std::collections::BTreeMap;

use athanor_crds::{bootprofile::ReleaseHook, machine::OccupancyState};
use athanor_plan::{BootPlan, lifecycle::Decision, metadata::Metadata};
use athanor_wire::work::Documents;

use super::{World, documents};
use crate::Ids;

/// What the plan is to have: what it had, where nothing newer is known. Whoever is released is told that, and nothing else.
pub(super) fn of(world: &World, decision: &Decision, before: Option<&BootPlan>, ids: &impl Ids) -> Option<Metadata> {
    let occupancy = world.machine.spec.occupancy.as_ref()?;
    let kept = before.and_then(|plan| plan.metadata.as_ref()).filter(|kept| kept.instance == occupancy.instance_id);
    if occupancy.state == OccupancyState::ReleaseRequested && !occupancy.retain {
        // Whoever parked it wants no restart.
        let documents = |kept: &Metadata| Documents { files: BTreeMap::new(), ..kept.documents.clone() };
        return kept.map(|kept| Metadata { released: decision.restart, keys: Vec::new(), documents: documents(kept), ..kept.clone() });
    }
    let (Some(deployment), Some(Ok((_, profile))), Some(Ok(handed))) = (&world.deployment, &world.profile, &world.documents) else {
        return kept.map(|kept| Metadata { attempt: occupancy.attempt.clone(), ..kept.clone() });
    };
    // What is run from memory is told where to ask if it has something to hear; a script of one's own may want to tell it.
    let in_script = profile.image.is_none();
    if in_script && profile.script.is_none() && !documents::say_something(&deployment.spec) {
        return None;
    }
    // What a boot script told is no secret for an image.
    let kept = kept.filter(|kept| kept.in_script == in_script);
    let hook = (profile.release_hook == ReleaseHook::Auto).then(|| kept.and_then(|kept| kept.hook.clone()).unwrap_or_else(|| ids.token()));
    Some(Metadata {
        instance: occupancy.instance_id.clone(),
        attempt: occupancy.attempt.clone(),
        token: kept.map_or_else(|| ids.token(), |kept| kept.token.clone()),
        in_script,
        hook,
        released: false,
        hostname: documents::hostname(deployment),
        keys: deployment.spec.users.iter().flat_map(|user| &user.ssh_keys).cloned().collect(),
        documents: handed.documents.clone(),
    })
}
