//! The boot plan of a Machine, from reconciled objects.

use std::collections::BTreeMap;

use athanor_crds::{BootProfileSpec, Deployment, Machine, MachineState, bootprofile::Success, machine::LocalBoot};
use athanor_wire::{fnv, work::TOKEN_WORD};

use crate::{
    boot_plan::{AgentWork, BootPlan, FORMAT, Linux, MachineKey, Order, PlanInterface, Safe, Source},
    ipxe,
    metadata::Metadata,
    support,
};

/// Why no order can be compiled. The field's path, what is wrong, what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A text that cannot stand in a script.
    #[error("profile {profile}: {source}")]
    Unquotable {
        /// The profile.
        profile: String,
        /// What and where.
        source: ipxe::Unquotable,
    },
    /// A file by a path, but no media to look it up in.
    #[error("profile {profile}: {field} is {path:?}, a path, but spec.media.path names no ISO to look it up in")]
    NoMedia {
        /// The profile.
        profile: String,
        /// The field.
        field: &'static str,
        /// Its value.
        path: String,
    },
}

/// The secrets-that-are-not: tokens drawn by the operator's shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    /// Names the machine's script in URLs; rotated at acceptance and release.
    pub script: String,
    /// The one before, until the next rotation.
    pub previous: Option<String>,
    /// With which the guest of this attempt reports.
    pub report: String,
}

/// What the operator decided, besides the objects themselves.
#[derive(Debug, Clone)]
pub struct Decided<'a> {
    /// Where the Machine is.
    pub state: MachineState,
    /// What it does without an order.
    pub safe: Safe,
    /// The attempt that may act, with what it boots.
    pub order: Option<OrderInput<'a>>,
    /// What its machine-agent has to do; its order is then the ramdisk.
    pub work: Option<AgentWork>,
    /// What its operating system may ask for.
    pub metadata: Option<Metadata>,
    /// Whether a magic packet is to switch it on.
    pub wake: bool,
    /// Its interfaces with the addresses that are truly theirs.
    pub interfaces: Vec<PlanInterface>,
}

/// What an order is compiled from.
#[derive(Debug, Clone)]
pub struct OrderInput<'a> {
    /// The attempt's id.
    pub attempt: String,
    /// The claim.
    pub deployment: &'a Deployment,
    /// The profile's name, or the Deployment's for one written in place.
    pub profile_name: String,
    /// The profile.
    pub profile: &'a BootProfileSpec,
}

/// Compiles the plan of a Machine.
///
/// # Errors
/// The profile cannot be turned into a script; the plan without its order is then what to serve.
pub fn build(machine: &Machine, decided: &Decided<'_>, tokens: &Tokens) -> Result<BootPlan, PlanError> {
    let order = match (&decided.work, &decided.order) {
        (Some(work), input) => Some(ramdisk(work, input.as_ref(), tokens, machine.spec.local_boot)),
        (None, Some(input)) => Some(order(input, decided.metadata.as_ref(), tokens, machine.spec.local_boot)?),
        (None, None) => None,
    };
    let hostname = decided.order.as_ref().map(|input| {
        let deployment = input.deployment;
        deployment.spec.hostname.clone().or_else(|| deployment.metadata.name.clone()).unwrap_or_default()
    });
    Ok(BootPlan {
        format: FORMAT,
        machine: MachineKey {
            namespace: machine.metadata.namespace.clone().unwrap_or_default(),
            name: machine.metadata.name.clone().unwrap_or_default(),
        },
        state: decided.state.clone(),
        token: tokens.script.clone(),
        previous_token: tokens.previous.clone(),
        interfaces: decided.interfaces.clone(),
        hostname: hostname.filter(|name| !name.is_empty()),
        local_boot: machine.spec.local_boot,
        loader: machine.spec.loader.clone(),
        safe: decided.safe.clone(),
        order,
        work: decided.work.clone(),
        metadata: decided.metadata.clone(),
        wake: decided.wake,
    })
}

/// The order to boot the machine-agent.
fn ramdisk(work: &AgentWork, input: Option<&OrderInput<'_>>, tokens: &Tokens, disk: LocalBoot) -> Order {
    let file = |file: &str| Source::Ramdisk { file: file.to_owned() };
    let linux = Linux {
        kernel: "vmlinuz".to_owned(),
        initrds: vec!["initramfs".to_owned()],
        // The last console is the one that the agent speaks on; a machine without a serial port loses nothing.
        arguments: format!("console=tty0 console=ttyS0,115200 panic=30 {TOKEN_WORD}{}", tokens.script),
        asks_servers: true,
        metadata: None,
    };
    Order {
        attempt: work.work.id.clone(),
        deployment: input.and_then(|input| input.deployment.metadata.name.clone()).unwrap_or_else(|| "the machine-agent".to_owned()),
        report_token: tokens.report.clone(),
        script: ipxe::linux(&linux, None, disk),
        linux: Some(linux),
        files: BTreeMap::from([("vmlinuz".to_owned(), file("vmlinuz")), ("initramfs".to_owned(), file("initramfs"))]),
        trees: BTreeMap::new(),
        success: Success::Reported,
    }
}

fn order(input: &OrderInput<'_>, metadata: Option<&Metadata>, tokens: &Tokens, disk: LocalBoot) -> Result<Order, PlanError> {
    let profile = input.profile;
    let unquotable = |source| PlanError::Unquotable { profile: input.profile_name.clone(), source };
    let mut files = BTreeMap::new();
    let (script, linux) = match (&profile.script, &profile.kernel) {
        (Some(own), _) => {
            let text = own.ipxe.trim_start();
            (format!("{}\n", text.strip_prefix("#!ipxe").unwrap_or(text).trim()), None)
        }
        (None, Some(kernel)) => {
            let mut linux = Linux { kernel: place(input, &mut files, "spec.kernel", "kernel", kernel)?, ..Linux::default() };
            for (index, initrd) in profile.initrds.iter().enumerate() {
                linux.initrds.push(place(input, &mut files, "spec.initrds", &format!("initrd{index}"), initrd)?);
            }
            linux.arguments = ipxe::words("spec.cmdline", profile.cmdline.as_deref().unwrap_or_default()).map_err(unquotable)?;
            linux.metadata = metadata.filter(|_| !names_datasource(&linux.arguments)).and_then(Metadata::told_by_script);
            let report = (profile.success == Success::Reported).then_some(tokens.report.as_str());
            (ipxe::linux(&linux, report, disk), Some(linux))
        }
        // Image profiles have neither; support::of refuses them before they come here.
        (None, None) => (String::new(), None),
    };
    let trees = profile.media.iter().filter_map(|media| {
        Some((prefix(&input.profile_name, profile)?, Source::Iso { path: media.path.clone()?, member: String::new() }))
    });
    Ok(Order {
        attempt: input.attempt.clone(),
        deployment: input.deployment.metadata.name.clone().unwrap_or_default(),
        report_token: tokens.report.clone(),
        script,
        linux,
        trees: trees.collect(),
        files,
        success: profile.success,
    })
}

/// The files that a profile's orders have in its ISO; the ISO itself where they name none of them.
pub fn sources(profile: &BootProfileSpec) -> Vec<Source> {
    let iso =
        profile.media.as_ref().and_then(|media| media.path.as_ref()).filter(|_| profile.image.is_none() && support::of(profile).supported);
    let Some(iso) = iso else { return Vec::new() };
    // One with a script of its own loads what that says.
    let named = profile.kernel.iter().chain(&profile.initrds).filter(|path| profile.script.is_none() && !ipxe::is_url(path));
    let mut all: Vec<Source> = named.map(|path| member(iso, path)).collect();
    if all.is_empty() {
        all.push(member(iso, ""));
    }
    all
}

/// Which files these are, for whoever says something of them.
pub fn digest(sources: &[Source]) -> String {
    let names = sources.iter().flat_map(|source| match source {
        Source::Iso { path, member } => [path.as_str(), "\0", member.as_str(), "\0"],
        Source::Ramdisk { file } => ["", "\0", file.as_str(), "\0"],
    });
    format!("{:016x}", fnv(names.collect::<String>().as_bytes()))
}

/// Whether the kernel's arguments say where cloud-init finds its data: a person knows better.
fn names_datasource(arguments: &str) -> bool {
    arguments.split_whitespace().any(|word| word.starts_with("ds=") || word.starts_with("ci.ds="))
}

fn member(iso: &str, path: &str) -> Source {
    Source::Iso { path: iso.to_owned(), member: path.trim_start_matches('/').to_owned() }
}

/// The folder under which a profile's media are served: the one it names, else one by its own name.
pub fn prefix(name: &str, profile: &BootProfileSpec) -> Option<String> {
    // A profile may be named like one of the server's own folders, a prefix may not.
    let by_name = || if OWN_FOLDERS.contains(&name) { format!("media-{name}") } else { name.to_owned() };
    Some(profile.media.as_ref()?.prefix.clone().unwrap_or_else(by_name))
}

/// Folders of boot HTTP that are no media.
const OWN_FOLDERS: [&str; 4] = ["b", "l", "v1", "healthz"];

/// What a loader asks for: the URL as it stands, or the name of a file out of the media.
fn place(
    input: &OrderInput<'_>,
    files: &mut BTreeMap<String, Source>,
    field: &'static str,
    name: &str,
    path: &str,
) -> Result<String, PlanError> {
    if ipxe::is_url(path) {
        return ipxe::words(field, path).map_err(|source| PlanError::Unquotable { profile: input.profile_name.clone(), source });
    }
    let media = input.profile.media.as_ref().and_then(|media| media.path.clone());
    let media = media.ok_or_else(|| PlanError::NoMedia { profile: input.profile_name.clone(), field, path: path.to_owned() })?;
    files.insert(name.to_owned(), member(&media, path));
    Ok(name.to_owned())
}
