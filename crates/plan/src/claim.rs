//! Which Machine a Deployment gets, or why none.

use std::collections::BTreeMap;

use athanor_crds::{
    Architecture, Deployment, Machine, MachineState,
    conditions::reasons,
    deployment::{MachineSelector, MinimumHardware},
    machine::{ClaimRef, ExistingData, OccupancyState},
    quantity::parse_bytes,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement;
use serde_json::{Value, json};

use crate::lifecycle::{Left, Obstacle};

/// What becomes of a Machine's spec when its claim ends, as a merge patch. One whose disks are kept is cordoned; that data may be lost was said of
/// what was there before, and is over.
pub fn given_back(left: Left) -> Value {
    let mut spec = json!({ "claimRef": null, "occupancy": null });
    if left == Left::Kept {
        spec["cordoned"] = json!(true);
        spec["existingData"] = json!(ExistingData::Keep);
    }
    if matches!(left, Left::Kept | Left::Wiped) {
        spec["overwrites"] = Value::Null;
    }
    spec
}

/// Chooses a Machine out of those in the Deployment's namespace, or says on what it waits.
///
/// A Machine that this Deployment owns already is always the answer. Among free ones the smallest name wins, so that two operators that
/// look at the same moment choose alike, and the compare-and-set on the claim sorts out the rest.
///
/// # Errors
/// Nothing fits now; the reason and what to do.
pub fn choose<'a>(deployment: &Deployment, architecture: Option<Architecture>, machines: &[&'a Machine]) -> Result<&'a Machine, Obstacle> {
    if let Some(mine) = machines.iter().find(|machine| owns(deployment, machine)) {
        return Ok(mine);
    }
    let claim = &deployment.spec.machine;
    if let Some(name) = &claim.name {
        let machine = machines.iter().find(|machine| machine.metadata.name.as_deref() == Some(name));
        let unknown = || {
            obstacle(
                reasons::UNKNOWN_MACHINE,
                format!("spec.machine.name: there is no Machine {name} in this namespace; athanorctl get machines lists them"),
            )
        };
        return named(deployment, machine.copied().ok_or_else(unknown)?, architecture);
    }
    if let Some(mac) = claim.mac {
        let unknown = || {
            obstacle(
                reasons::UNKNOWN_MACHINE,
                format!("spec.machine.mac: no Machine in this namespace has {mac}; switch it on so that it registers itself, or create it"),
            )
        };
        return named(deployment, crate::identity::owner_of(mac, machines.iter().copied()).ok_or_else(unknown)?, architecture);
    }
    any(claim.selector.as_ref(), claim.minimum.as_ref(), architecture, machines)
}

/// Whether a Deployment's spec means a Machine. Labels and minimum hardware count when it is chosen, and no more: both may change.
pub fn means(deployment: &Deployment, machine: &Machine) -> bool {
    let claim = &deployment.spec.machine;
    let by_mac = |mac| machine.spec.interfaces.iter().any(|interface| interface.mac == mac);
    claim.name.as_ref().is_none_or(|name| Some(name) == machine.metadata.name.as_ref()) && claim.mac.is_none_or(by_mac)
}

/// Whether a Machine's claim is this very Deployment: the same instance, whatever its uid.
pub fn owns(deployment: &Deployment, machine: &Machine) -> bool {
    let Some(claim) = &machine.spec.claim_ref else { return false };
    claim.kind == "Deployment"
        && claim.api_group == athanor_crds::GROUP
        && Some(&claim.name) == deployment.metadata.name.as_ref()
        && Some(&claim.namespace) == deployment.metadata.namespace.as_ref()
        && Some(&claim.instance_id) == deployment.spec.instance_id.as_ref()
}

/// The claim of a Deployment, once its instance has an id.
pub fn claim_ref(deployment: &Deployment) -> Option<ClaimRef> {
    Some(ClaimRef {
        api_group: athanor_crds::GROUP.to_owned(),
        kind: "Deployment".to_owned(),
        namespace: deployment.metadata.namespace.clone()?,
        name: deployment.metadata.name.clone()?,
        instance_id: deployment.spec.instance_id.clone()?,
    })
}

fn obstacle(reason: &'static str, message: String) -> Obstacle {
    Obstacle { reason, message }
}

fn named<'a>(deployment: &Deployment, machine: &'a Machine, architecture: Option<Architecture>) -> Result<&'a Machine, Obstacle> {
    let name = machine.metadata.name.as_deref().unwrap_or_default();
    if let Some(claim) = &machine.spec.claim_ref {
        // A Deployment that was deleted and created again is another instance; its Machine says what the first one waits for.
        let released = machine.spec.occupancy.as_ref().is_some_and(|occupancy| occupancy.state == OccupancyState::ReleaseRequested);
        let message = if released {
            format!("Machine {name} is given back by Deployment {}: {}", claim.name, what_it_says(machine))
        } else if Some(&claim.name) == deployment.metadata.name.as_ref() {
            format!("Machine {name} still belongs to an earlier Deployment of this name: {}", what_it_says(machine))
        } else {
            format!("Machine {name} belongs to Deployment {}; delete that one first, or choose another Machine", claim.name)
        };
        return Err(obstacle(reasons::MACHINE_TAKEN, message));
    }
    if let (Some(wanted), Some(has)) = (architecture, machine.spec.architecture)
        && wanted != has
    {
        return Err(obstacle(
            reasons::WRONG_ARCHITECTURE,
            format!("its profile is for {wanted}, but Machine {name} is {has}; choose another profile or Machine"),
        ));
    }
    if !is_free(machine) {
        return Err(obstacle(reasons::MACHINE_NOT_FREE, format!("Machine {name} cannot be claimed: {}", why_not_free(machine))));
    }
    Ok(machine)
}

fn any<'a>(
    selector: Option<&MachineSelector>,
    minimum: Option<&MinimumHardware>,
    architecture: Option<Architecture>,
    machines: &[&'a Machine],
) -> Result<&'a Machine, Obstacle> {
    let selected: Vec<&Machine> =
        machines.iter().copied().filter(|machine| selector.is_none_or(|selector| selects(selector, machine))).collect();
    let fitting: Vec<&Machine> = selected
        .iter()
        .copied()
        .filter(|machine| architecture.is_none_or(|wanted| machine.spec.architecture.is_none_or(|has| has == wanted)))
        .filter(|machine| minimum.is_none_or(|minimum| shortfall(minimum, machine).is_none()))
        // One piece of hardware is promised once, also while nobody has told its second Machine yet.
        .filter(|machine| owns_its_macs(machine, machines))
        .collect();
    if let Some(free) = fitting.iter().filter(|machine| is_free(machine)).min_by_key(|machine| machine.metadata.name.clone()) {
        return Ok(free);
    }
    let taken = fitting.iter().filter(|machine| machine.spec.claim_ref.is_some()).count();
    let cordoned = fitting.iter().filter(|machine| machine.spec.cordoned && machine.spec.claim_ref.is_none()).count();
    let waiting = fitting.iter().filter(|machine| !machine.spec.accepted).count();
    let wish = describe(selector, minimum, architecture);
    let near = minimum.and_then(|minimum| {
        selected.iter().filter(|machine| is_free(machine)).find_map(|machine| Some((machine, shortfall(minimum, machine)?)))
    });
    let message = match near {
        Some((machine, has)) => {
            format!("no free machine{wish} (nearest: {} with {has})", machine.metadata.name.as_deref().unwrap_or_default())
        }
        None => format!("no free machine{wish} ({taken} taken, {cordoned} cordoned, {waiting} not accepted)"),
    };
    Err(obstacle(reasons::NO_FREE_MACHINE, message))
}

fn owns_its_macs(machine: &Machine, machines: &[&Machine]) -> bool {
    machine.spec.interfaces.iter().all(|interface| {
        crate::identity::owner_of(interface.mac, machines.iter().copied()).is_none_or(|owner| owner.metadata.name == machine.metadata.name)
    })
}

/// Whether a Machine may be claimed now.
pub fn is_free(machine: &Machine) -> bool {
    let available = machine.status.as_ref().is_some_and(|status| status.state == Some(MachineState::Available));
    let spec = &machine.spec;
    available
        && spec.accepted
        && spec.claim_ref.is_none()
        && !spec.cordoned
        && !spec.parked
        && !spec.externally_provisioned
        && machine.metadata.deletion_timestamp.is_none()
}

fn why_not_free(machine: &Machine) -> String {
    if !machine.spec.accepted {
        return format!("nobody accepted it; athanorctl accept {}", machine.metadata.name.as_deref().unwrap_or_default());
    }
    if machine.spec.cordoned {
        return "it is cordoned; unset spec.cordoned".to_owned();
    }
    if machine.spec.parked {
        return "it is parked; unset spec.parked".to_owned();
    }
    if machine.spec.externally_provisioned {
        return "somebody else installed it (spec.externallyProvisioned)".to_owned();
    }
    what_it_says(machine)
}

fn what_it_says(machine: &Machine) -> String {
    let ready = machine.status.iter().flat_map(|status| &status.conditions).find(|condition| condition.type_ == "Ready");
    ready.map_or_else(|| "the operator has not seen it yet".to_owned(), |condition| condition.message.clone())
}

/// What a Machine has where it has too little; `None` when it has enough. What is not known is not enough.
fn shortfall(minimum: &MinimumHardware, machine: &Machine) -> Option<String> {
    let hardware = machine.status.as_ref().and_then(|status| status.hardware.clone()).unwrap_or_default();
    let bytes = |text: &Option<String>| text.as_deref().and_then(parse_bytes).unwrap_or(0);
    let memory = hardware.memory_mib.map_or(0, |mib| u64::from(mib) << 20);
    let disk = hardware.disk_bytes.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0);
    let enough =
        hardware.cpus.unwrap_or(0) >= minimum.cpus.unwrap_or(0) && memory >= bytes(&minimum.memory) && disk >= bytes(&minimum.disk);
    if enough {
        return None;
    }
    Some(if hardware.cpus.is_none() && hardware.memory_mib.is_none() { "hardware not known".to_owned() } else { hardware.summary })
}

fn describe(selector: Option<&MachineSelector>, minimum: Option<&MinimumHardware>, architecture: Option<Architecture>) -> String {
    let mut wishes: Vec<String> = Vec::new();
    if let Some(selector) = selector {
        wishes.extend(selector.match_labels.iter().map(|(key, value)| format!("{key}={value}")));
        wishes.extend(selector.match_expressions.iter().map(|e| format!("{} {}", e.key, e.operator)));
    }
    if let Some(minimum) = minimum {
        wishes.extend(minimum.cpus.map(|cpus| format!("{cpus} cpu")));
        wishes.extend(minimum.memory.as_ref().map(|memory| format!("{memory} memory")));
        wishes.extend(minimum.disk.as_ref().map(|disk| format!("{disk} disk")));
    }
    wishes.extend(architecture.map(|architecture| architecture.to_string()));
    if wishes.is_empty() { String::new() } else { format!(" with {}", wishes.join(", ")) }
}

fn selects(selector: &MachineSelector, machine: &Machine) -> bool {
    let none = BTreeMap::new();
    let labels = machine.metadata.labels.as_ref().unwrap_or(&none);
    selector.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
        && selector.match_expressions.iter().all(|expression| holds(expression, labels))
}

fn holds(expression: &LabelSelectorRequirement, labels: &BTreeMap<String, String>) -> bool {
    let value = labels.get(&expression.key);
    let listed = |value: &String| expression.values.iter().flatten().any(|other| other == value);
    match expression.operator.as_str() {
        "In" => value.is_some_and(listed),
        "NotIn" => !value.is_some_and(listed),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        _ => false,
    }
}
