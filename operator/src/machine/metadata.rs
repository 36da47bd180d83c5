//! What a Machine's operating system may ask for while it runs, as its plan holds it.

use athanor_crds::machine::OccupancyState;
use athanor_plan::{BootPlan, metadata::Metadata};

use super::{World, documents};
use crate::Ids;

/// What the plan is to have: what it had, where nothing newer is known. A release ends it.
pub(super) fn of(world: &World, before: Option<&BootPlan>, ids: &impl Ids) -> Option<Metadata> {
    let occupancy = world.machine.spec.occupancy.as_ref().filter(|occupancy| occupancy.state != OccupancyState::ReleaseRequested)?;
    let kept = before.and_then(|plan| plan.metadata.as_ref()).filter(|kept| kept.instance == occupancy.instance_id);
    let (Some(deployment), Some(Ok((_, profile))), Some(Ok(handed))) = (&world.deployment, &world.profile, &world.documents) else {
        return kept.map(|kept| Metadata { attempt: occupancy.attempt.clone(), ..kept.clone() });
    };
    // What is run from memory is told where to ask if it has something to hear; a script of one's own may want to tell it.
    let in_script = profile.image.is_none();
    if in_script && profile.script.is_none() && !documents::say_something(&deployment.spec) {
        return None;
    }
    Some(Metadata {
        instance: occupancy.instance_id.clone(),
        attempt: occupancy.attempt.clone(),
        token: kept.map_or_else(|| ids.token(), |kept| kept.token.clone()),
        in_script,
        hostname: documents::hostname(deployment),
        keys: deployment.spec.users.iter().flat_map(|user| &user.ssh_keys).cloned().collect(),
        documents: handed.documents.clone(),
    })
}
