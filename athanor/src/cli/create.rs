//! `create` and `update`: flags in, one object out. The object that each line makes is a golden test and a table in the docs.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use anyhow::{Context as _, bail};
use athanor_crds::{
    Architecture, BootProfileSpec, Deployment, DeploymentSpec, MachineSpec, SubnetSpec,
    bootprofile::{Installer, InstallerType, Live, Media, ProfileRef},
    deployment::{MachineClaim, User},
    machine::{AddressClaim, Interface},
    subnet::{AddressRange, Mode},
};
use athanor_wire::MacAddr;
use clap::{Args, Subcommand, ValueEnum, builder::NonEmptyStringValueParser};
use ipnet::IpNet;
use kube::{
    Api, Client, ResourceExt as _,
    api::{Patch, PostParams},
};
use serde_json::{Value, json};

use super::{Global, connect, deploy, kinds::Kind, lifecycle, out, wait};
use crate::planned;

/// How long an `update` waits for the operator; it takes milliseconds.
const PLANNED: Duration = Duration::from_secs(2);

/// What can be created.
#[derive(Debug, Subcommand)]
pub(crate) enum Create {
    /// A claim on a machine, and what it runs
    Deployment(DeploymentArgs),
    /// How an operating system gets onto, or under, a machine
    #[command(visible_alias = "bootprofile")]
    Boot(BootArgs),
    /// A machine that has not registered itself
    Machine(MachineArgs),
    /// A network that is served
    Subnet(SubnetArgs),
}

/// What can be changed.
#[derive(Debug, Subcommand)]
pub(crate) enum Update {
    /// A deployment, by name or by the MAC of its machine
    Deployment(DeploymentArgs),
}

/// Flags of a deployment.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct DeploymentArgs {
    /// Its name [default: the host name, else made of the MAC]
    pub(crate) name: Option<String>,
    /// The machine, by a MAC address in any common spelling
    #[arg(long, alias = "MAC", value_parser = mac)]
    pub(crate) mac: Option<MacAddr>,
    /// The machine, by name
    #[arg(long, conflicts_with = "mac")]
    pub(crate) machine: Option<String>,
    /// The boot profile
    #[arg(long)]
    pub(crate) profile: Option<String>,
    /// Its host name
    #[arg(long)]
    pub(crate) hostname: Option<String>,
    /// An address for its boot interface; more with commas
    #[arg(long, value_parser = ip, value_delimiter = ',')]
    pub(crate) address: Vec<IpAddr>,
    /// Packages to install, with commas
    #[arg(long, value_delimiter = ',')]
    pub(crate) packages: Vec<String>,
    /// A file with SSH public keys for the user
    #[arg(long, value_name = "FILE")]
    pub(crate) ssh_key: Option<PathBuf>,
    /// The user that gets the keys
    #[arg(long, default_value = "admin", requires = "ssh_key")]
    pub(crate) user: String,
}

/// Flags of a boot profile.
#[derive(Debug, Clone, Args)]
pub(crate) struct BootArgs {
    /// Its name
    #[arg(long)]
    name: String,
    /// The ISO, below a mediaDir of the services
    #[arg(long, alias = "isoPath", value_name = "PATH", value_parser = NonEmptyStringValueParser::new())]
    iso_path: Option<String>,
    /// The folder under which the ISO's tree is served
    #[arg(long, alias = "isoPrefix", value_name = "PREFIX", requires = "iso_path")]
    iso_prefix: Option<String>,
    /// The kernel: a path in the ISO, or an http URL
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    kernel: String,
    /// An initial ramdisk, likewise; more with commas
    #[arg(long, value_delimiter = ',')]
    initrd: Vec<String>,
    /// The kernel's arguments
    #[arg(long)]
    cmdline: Option<String>,
    /// What it is: live runs from memory, the others are installers
    #[arg(long = "type", alias = "deploymentType", value_enum, default_value_t = ProfileType::Live)]
    type_: ProfileType,
    /// The architecture of its files
    #[arg(long, value_parser = architecture, default_value = "amd64")]
    architecture: Architecture,
}

/// Kinds of profile that `--type` names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProfileType {
    /// Runs from memory
    Live,
    /// Debian's preseed
    Preseed,
    /// Red Hat's kickstart
    Kickstart,
    /// Ubuntu's autoinstall
    Autoinstall,
    /// SUSE's AutoYaST
    Autoyast,
}

impl ProfileType {
    /// Its name, as `status.type` has it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Preseed => "preseed",
            Self::Kickstart => "kickstart",
            Self::Autoinstall => "autoinstall",
            Self::Autoyast => "autoyast",
        }
    }

    fn installer(self) -> Option<InstallerType> {
        match self {
            Self::Live => None,
            Self::Preseed => Some(InstallerType::Preseed),
            Self::Kickstart => Some(InstallerType::Kickstart),
            Self::Autoinstall => Some(InstallerType::Autoinstall),
            Self::Autoyast => Some(InstallerType::Autoyast),
        }
    }
}

/// Flags of a machine.
#[derive(Debug, Clone, Args)]
pub(crate) struct MachineArgs {
    /// Its name [default: made of its first MAC]
    name: Option<String>,
    /// A MAC address; more with commas, the first boots
    #[arg(long, alias = "MAC", value_parser = mac, value_delimiter = ',', required = true)]
    mac: Vec<MacAddr>,
    /// A fixed address for the boot interface
    #[arg(long, value_parser = ip)]
    address: Option<IpAddr>,
    /// Accept it at once
    #[arg(long)]
    accept: bool,
}

/// Flags of a subnet.
#[derive(Debug, Clone, Args)]
pub(crate) struct SubnetArgs {
    /// Its name
    #[arg(long)]
    name: String,
    /// The network, like 192.168.10.0/24
    #[arg(long, value_parser = cidr)]
    cidr: IpNet,
    /// What is served: dhcp, proxy or off
    #[arg(long, value_parser = mode, default_value = "dhcp")]
    mode: Mode,
    /// The default gateway
    #[arg(long, value_parser = ip)]
    gateway: Option<IpAddr>,
    /// A range of addresses, like 192.168.10.100-192.168.10.199; more with commas
    #[arg(long, value_parser = range, value_delimiter = ',')]
    range: Vec<AddressRange>,
}

fn mac(text: &str) -> Result<MacAddr, String> {
    text.parse().map_err(|error: athanor_wire::ParseMacError| error.to_string())
}

fn cidr(text: &str) -> Result<IpNet, String> {
    text.parse().map_err(|_| athanor_crds::subnet::NO_CIDR.to_owned())
}

fn architecture(text: &str) -> Result<Architecture, String> {
    serde_json::from_value(json!(text)).map_err(|_| "write amd64, arm64, i386, arm or riscv64".to_owned())
}

fn mode(text: &str) -> Result<Mode, String> {
    serde_json::from_value(json!(text)).map_err(|_| "write dhcp, proxy or off".to_owned())
}

fn ip(text: &str) -> Result<IpAddr, String> {
    text.trim().parse().map_err(|_| "no IP address; write it like 192.168.10.20".to_owned())
}

fn range(text: &str) -> Result<AddressRange, String> {
    let parsed =
        text.split_once('-').and_then(|(from, to)| Some(AddressRange { from: from.trim().parse().ok()?, to: to.trim().parse().ok()? }));
    parsed.ok_or_else(|| "write it like 192.168.10.100-192.168.10.199".to_owned())
}

/// `create`.
///
/// # Errors
/// The flags make no object, or the API says no.
pub(crate) async fn create(global: &Global, what: Create) -> anyhow::Result<()> {
    let (kind, name, spec, note) = match what {
        Create::Deployment(args) => {
            let spec = deployment_spec(&args, None)?;
            ("deployment", deployment_name(&args)?, json!(spec), String::new())
        }
        Create::Boot(args) => {
            let (spec, note) = boot_spec(&args)?;
            ("bootprofile", args.name.clone(), json!(spec), note)
        }
        Create::Machine(args) => (
            "machine",
            args.name.clone().unwrap_or_else(|| athanor_crds::names::machine(args.mac[0])),
            json!(machine_spec(&args)),
            String::new(),
        ),
        Create::Subnet(args) => ("subnet", args.name.clone(), json!(subnet_spec(&args)), String::new()),
    };
    let client = connect::client(global).await?;
    post(&client, global, &Kind::named(kind)?, &name, spec).await?;
    let note = match kind {
        "deployment" => deploy::waits(&client, global, &name).await,
        // The services have the last word about an image: it is theirs to read.
        "bootprofile" => wait::trouble::<athanor_crds::BootProfile>(&client, global, &name)
            .await
            .map_or(note, |trouble| format!("; it cannot be used yet: {trouble}")),
        "machine" => {
            wait::trouble::<athanor_crds::Machine>(&client, global, &name).await.map_or(note, |trouble| format!("; but {trouble}"))
        }
        _ => note,
    };
    out(&format!("{kind}/{name} created{note}\n"));
    Ok(())
}

/// Posts an object; what the API says of it is the error.
pub(crate) async fn post(client: &Client, global: &Global, kind: &Kind, name: &str, spec: Value) -> anyhow::Result<()> {
    let object = serde_json::from_value(json!({
        "apiVersion": kind.api_version(), "kind": kind.kind, "metadata": { "name": name }, "spec": spec
    }))?;
    super::get::api(client, global, kind)
        .create(&PostParams { field_manager: Some(connect::MANAGER.to_owned()), ..PostParams::default() }, &object)
        .await?;
    Ok(())
}

/// `update`.
///
/// # Errors
/// Nothing or too much is meant, or the API says no.
pub(crate) async fn update(global: &Global, what: Update) -> anyhow::Result<()> {
    let Update::Deployment(args) = what;
    let client = connect::client(global).await?;
    let api: Api<Deployment> = Api::namespaced(client.clone(), &global.namespace);
    let name = find(&client, global, &args).await?;
    let mut spec = changes(&args)?;
    if args.name.is_some() && (args.mac.is_some() || args.machine.is_some()) {
        let now = api.get(&name).await?;
        check_stays(&client, global, &now, &args).await?;
        spec["machine"] = json!({ "name": args.machine, "mac": args.mac, "selector": null, "minimum": null });
    }
    if spec == json!({}) {
        bail!("nothing to change: give --profile, --hostname, --address, --packages, --ssh-key, or for one that waits --mac or --machine");
    }
    let updated = api.patch(&name, &connect::patch_params(), &Patch::Merge(json!({ "spec": spec }))).await?;
    let served = match updated.status.as_ref().and_then(|status| status.machine.as_deref()) {
        Some(machine) if planned::wait(&client, &global.namespace, machine, &updated, PLANNED).await? => {
            "; its machine is served the change from now on"
        }
        Some(_) => "; its machine is not served the change yet, see athanorctl get deployments -o wide",
        None => "",
    };
    out(&format!("deployment/{name} updated{served}\n"));
    Ok(())
}

/// A deployment that has a machine stays on it.
async fn check_stays(client: &Client, global: &Global, now: &Deployment, args: &DeploymentArgs) -> anyhow::Result<()> {
    let Some(has) = now.status.as_ref().and_then(|status| status.machine.clone()) else { return Ok(()) };
    let meant = match args.mac {
        Some(mac) => lifecycle::machine_called(client, global, &mac.to_string()).await.ok(),
        None => args.machine.clone(),
    };
    if meant.as_ref() != Some(&has) {
        bail!("deployment/{0} is on machine {has} and stays there; delete it and deploy it anew to have it on another one", now.name_any());
    }
    Ok(())
}

/// What an `update` changes in the spec, as a merge patch.
fn changes(args: &DeploymentArgs) -> anyhow::Result<Value> {
    let mut spec = json!({});
    if let Some(profile) = &args.profile {
        spec["profile"] = json!({ "name": profile, "inline": null });
    }
    if let Some(hostname) = &args.hostname {
        spec["hostname"] = json!(hostname);
    }
    if !args.address.is_empty() {
        spec["addresses"] = json!(addresses(args));
    }
    if !args.packages.is_empty() {
        spec["packages"] = json!(args.packages);
    }
    if args.ssh_key.is_some() {
        spec["users"] = json!(users(args)?);
    }
    Ok(spec)
}

/// The Deployment that is meant: by name, or by the MAC of its machine.
async fn find(client: &Client, global: &Global, args: &DeploymentArgs) -> anyhow::Result<String> {
    if let Some(name) = &args.name {
        return Ok(name.clone());
    }
    let mac = args.mac.context("which deployment? Give its name, or --mac of its machine")?;
    lifecycle::on_mac(client, global, mac).await
}

pub(crate) fn deployment_name(args: &DeploymentArgs) -> anyhow::Result<String> {
    args.name
        .clone()
        .or_else(|| args.hostname.clone())
        .or_else(|| args.mac.map(|mac| format!("d-{}", mac.to_hex())))
        .or_else(|| args.machine.as_ref().map(|machine| format!("d-{machine}")))
        .context("the deployment needs a name: give one, or --hostname, or --mac")
}

/// The object behind the flags. `profile` is what `deploy --type` found.
pub(crate) fn deployment_spec(args: &DeploymentArgs, profile: Option<String>) -> anyhow::Result<DeploymentSpec> {
    let profile = args.profile.clone().or(profile).context("which boot profile? Give --profile; athanorctl get boot lists them")?;
    Ok(DeploymentSpec {
        machine: MachineClaim { name: args.machine.clone(), mac: args.mac, ..MachineClaim::default() },
        profile: ProfileRef { name: Some(profile), inline: None },
        hostname: args.hostname.clone(),
        addresses: addresses(args),
        users: users(args)?,
        packages: args.packages.clone(),
        ..DeploymentSpec::default()
    })
}

fn addresses(args: &DeploymentArgs) -> Vec<AddressClaim> {
    args.address.iter().map(|ip| AddressClaim { subnet: None, ip: *ip }).collect()
}

fn users(args: &DeploymentArgs) -> anyhow::Result<Vec<User>> {
    let Some(file) = &args.ssh_key else { return Ok(Vec::new()) };
    let text = std::fs::read_to_string(file).with_context(|| format!("--ssh-key {}: cannot be read", file.display()))?;
    if text.contains("PRIVATE KEY") {
        bail!("--ssh-key {}: this is a private key; give the public one, {}.pub", file.display(), file.display());
    }
    let keys: Vec<String> =
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned).collect();
    // OpenSSH's key types; options may stand before them.
    let is_key = |line: &str| line.split_whitespace().any(|word| ["ssh-", "ecdsa-", "sk-"].iter().any(|type_| word.starts_with(type_)));
    if let Some(other) = keys.iter().find(|line| !is_key(line)) {
        let start: String = other.chars().take(20).collect();
        bail!("--ssh-key {}: \"{start}…\" is no SSH public key; its lines are like ssh-ed25519 AAAA… name", file.display());
    }
    if keys.is_empty() {
        bail!("--ssh-key {}: there is no key in it", file.display());
    }
    Ok(vec![User { name: args.user.clone(), ssh_keys: keys, sudo: true }])
}

/// The object behind the flags, and what was found in the ISO, where the ISO is on this machine.
fn boot_spec(args: &BootArgs) -> anyhow::Result<(BootProfileSpec, String)> {
    let media = args.iso_path.as_ref().map(|path| Media {
        path: Some(absolute(path)),
        prefix: args.iso_prefix.as_ref().map(|prefix| prefix.trim_matches('/').to_owned()),
        ..Media::default()
    });
    let mut spec = BootProfileSpec {
        architecture: args.architecture,
        kernel: Some(args.kernel.clone()),
        initrds: args.initrd.clone(),
        cmdline: args.cmdline.clone(),
        media,
        ..BootProfileSpec::default()
    };
    athanor_plan::ipxe::words("--cmdline", spec.cmdline.as_deref().unwrap_or_default())?;
    match args.type_.installer() {
        None => spec.live = Some(Live {}),
        Some(type_) => spec.installer = Some(Installer { type_, template: None }),
    }
    let note = match spec.media.as_ref().and_then(|media| media.path.as_ref()) {
        Some(path) => look_inside(std::path::Path::new(path), &spec)?,
        None => String::new(),
    };
    Ok((spec, note))
}

/// A path that exists here is made canonical; any other is the services' to find below their mediaDirs.
fn absolute(path: &str) -> String {
    std::path::Path::new(path).canonicalize().map_or_else(|_| path.to_owned(), |path| path.display().to_string())
}

fn look_inside(path: &std::path::Path, spec: &BootProfileSpec) -> anyhow::Result<String> {
    if path.is_relative() {
        return Ok(format!("; {} is looked up below the mediaDirs of the services", path.display()));
    }
    if !path.exists() {
        // The services may be on another machine; their agents tell what is missing there.
        return Ok(format!("; {} is not on this machine, so it was not looked into", path.display()));
    }
    let iso = athanor_media::Iso::open(path)?;
    let mut found = Vec::new();
    let kernel = spec.kernel.iter().map(|path| ("kernel", path));
    for (what, member) in kernel.chain(spec.initrds.iter().map(|path| ("initrd", path))).filter(|(_, path)| !path.starts_with("http")) {
        let file = iso.boot_file(member)?;
        found.push(format!("{what} {}", megabytes(file.size())));
    }
    let label = iso.label().map(|label| format!(" ({label})")).unwrap_or_default();
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    Ok(format!(": {} found in {name}{label}", found.join(" and ")))
}

/// A size with one decimal, as people say it.
fn megabytes(bytes: u64) -> String {
    let tenths = bytes / 100_000;
    if tenths < 1 { format!("{} kB", bytes.div_ceil(1000)) } else { format!("{}.{} MB", tenths / 10, tenths % 10) }
}

fn machine_spec(args: &MachineArgs) -> MachineSpec {
    let address = args.address.map(|ip| AddressClaim { subnet: None, ip });
    let interfaces = args.mac.iter().enumerate().map(|(index, mac)| Interface {
        mac: *mac,
        boot: index == 0,
        addresses: address.clone().filter(|_| index == 0).into_iter().collect(),
    });
    MachineSpec { accepted: args.accept, interfaces: interfaces.collect(), ..MachineSpec::default() }
}

fn subnet_spec(args: &SubnetArgs) -> SubnetSpec {
    SubnetSpec { mode: args.mode, gateway: args.gateway, ranges: args.range.clone(), ..SubnetSpec::of(args.cidr) }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::deploy::DeployArgs;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(subcommand)]
        what: Create,
    }

    #[derive(Debug, clap::Parser)]
    struct UpdateLine {
        #[command(subcommand)]
        what: Update,
    }

    #[derive(Debug, clap::Parser)]
    struct DeployLine {
        #[command(flatten)]
        args: DeployArgs,
    }

    fn object(line: &str) -> String {
        let words = line.split_whitespace();
        if line.starts_with("update") {
            let Update::Deployment(args) = UpdateLine::try_parse_from(words).unwrap().what;
            return serde_saphyr::to_string(&changes(&args).unwrap()).unwrap();
        }
        if line.starts_with("deploy") {
            let args = DeployLine::try_parse_from(words).unwrap().args.deployment;
            let spec = deployment_spec(&args, Some("the-only-one-of-its-type".to_owned())).unwrap();
            return format!("{}\n{}", deployment_name(&args).unwrap(), serde_saphyr::to_string(&spec).unwrap());
        }
        let line = Line::try_parse_from(words).unwrap();
        let (name, spec) = match line.what {
            Create::Deployment(args) => (deployment_name(&args).unwrap(), json!(deployment_spec(&args, None).unwrap())),
            Create::Boot(args) => (args.name.clone(), json!(boot_spec(&args).unwrap().0)),
            Create::Machine(args) => (String::new(), json!(machine_spec(&args))),
            Create::Subnet(args) => (args.name.clone(), json!(subnet_spec(&args))),
        };
        format!("{name}\n{}", serde_saphyr::to_string(&spec).unwrap())
    }

    #[test]
    fn the_object_that_each_line_creates() {
        let lines = [
            "create deployment --mac 00:11:22:33:44:55 --profile NAME",
            "create deployment --MAC 0011.2233.4455 --profile NAME --hostname web-1 --address 192.168.10.50 --packages openssh,mariadb",
            "update deployment --mac 00:11:22:33:44:55 --profile OTHER",
            "deploy --mac 00:11:22:33:44:55 --address 192.168.10.50 --packages openssh,mariadb --type kickstart",
            "create boot --name debian --iso-path /nowhere/debian.iso --iso-prefix debian --kernel install.amd/vmlinuz --initrd install.amd/initrd.gz --cmdline quiet",
            "create boot --name centos --isoPath /nowhere/c.iso --isoPrefix c --kernel k --deploymentType kickstart",
            "create machine --mac 00-11-22-33-44-55,001122334466 --address 192.168.10.7 --accept",
            "create subnet --name lab --cidr 192.168.10.0/24 --gateway 192.168.10.1 --range 192.168.10.100-192.168.10.199",
        ];
        let text: String = lines.iter().map(|line| format!("$ athanorctl {line}\n{}\n", object(line))).collect();
        insta::assert_snapshot!(text);
    }
}
