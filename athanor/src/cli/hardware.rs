//! A machine's hardware, as people want to read it; and whether the records of its wipes are true.

use anyhow::{Context as _, bail};
use athanor_crds::{MachineInventory, WipeRecord, names, wiperecord};
use athanor_wire::{Inventory, hex};
use base64::Engine as _;
use clap::Args;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt as _, api::ListParams};
use ring::signature::{ED25519, UnparsedPublicKey};

use super::{Global, connect, out};

/// Arguments of `verify-wipe`.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// The machine that was wiped; it may be gone
    machine: String,
}

/// `verify-wipe`.
///
/// # Errors
/// There is no record, or one was not signed by this installation.
pub(crate) async fn verify_wipe(global: &Global, args: VerifyArgs) -> anyhow::Result<()> {
    let client = connect::client(global).await?;
    let records = Api::<WipeRecord>::namespaced(client.clone(), &global.namespace).list(&ListParams::default()).await?.items;
    let mut of_it: Vec<&WipeRecord> = records.iter().filter(|record| record.spec.machine == args.machine).collect();
    of_it.sort_by_key(|record| record.spec.finished.0);
    if of_it.is_empty() {
        bail!("no wipe of {} is recorded in namespace {}", args.machine, global.namespace);
    }
    let secret = Api::<Secret>::namespaced(client, names::SYSTEM_NAMESPACE).get(names::INSTALLATION_SECRET).await?;
    let public = secret.data.as_ref().and_then(|data| data.get(names::INSTALLATION_PUBLIC)).map(|key| key.0.clone());
    let public = public
        .and_then(|text| hex::decode(std::str::from_utf8(&text).ok()?))
        .with_context(|| format!("the Secret {} has no public key", names::INSTALLATION_SECRET))?;
    let mut bad = 0;
    for record in of_it {
        let signature = base64::engine::general_purpose::STANDARD.decode(&record.spec.signature).unwrap_or_default();
        let text = wiperecord::signed(&record.namespace().unwrap_or_default(), &record.name_any(), &record.spec);
        let is_true = UnparsedPublicKey::new(&ED25519, &public).verify(&text, &signature).is_ok();
        bad += usize::from(!is_true);
        let verdict = if is_true { "signed by this installation" } else { "NOT signed by this installation, or changed since" };
        out(&format!("{}  {}  {verdict}\n", record.name_any(), record.spec.finished.0));
        for disk in &record.spec.disks {
            let name = disk.serial.as_deref().or(disk.wwn.as_deref()).unwrap_or("without a serial number");
            out(&format!(
                "  {name}: {:?}, {} bytes; {} places read back, {} of them not empty\n",
                disk.method, disk.bytes, disk.sampled, disk.mismatched
            ));
        }
        for serial in &record.spec.missing {
            out(&format!("  {serial}: was not there any more\n"));
        }
    }
    if bad > 0 {
        bail!("{bad} records do not hold");
    }
    Ok(())
}

/// The facts about a machine, a line each.
pub(crate) fn shown(inventory: &MachineInventory) -> String {
    let Inventory {
        vendor,
        product,
        serial,
        uuid,
        bios,
        firmware,
        cpu_model,
        sockets,
        cores,
        cpus,
        memory_mib,
        tpm,
        gpus,
        disks,
        nics,
        ..
    } = &inventory.spec.facts;
    let mut lines = Vec::new();
    let mut line =
        |name: &str, value: Option<String>| lines.extend(value.filter(|text| !text.is_empty()).map(|text| format!("{name:<10} {text}")));
    let joined = |parts: &[&Option<String>]| {
        let all: Vec<&str> = parts.iter().filter_map(|part| part.as_deref()).collect();
        Some(all.join(" "))
    };
    line("model", joined(&[vendor, product]));
    line("serial", serial.clone());
    line("uuid", uuid.clone());
    line("firmware", joined(&[firmware, bios]));
    let counts = [(sockets, "sockets"), (cores, "cores"), (cpus, "threads")];
    let counts: Vec<String> = counts.iter().filter_map(|(count, what)| count.map(|count| format!("{count} {what}"))).collect();
    line("processor", Some([cpu_model.clone().unwrap_or_default(), counts.join(", ")].join("  ").trim().to_owned()));
    line("memory", memory_mib.map(|mib| format!("{mib} MiB")));
    line("tpm", tpm.clone());
    gpus.iter().for_each(|gpu| line("gpu", Some(gpu.clone())));
    for disk in disks {
        let size = format!("{:.1} GB", disk.size_bytes as f64 / 1e9);
        let what = [disk.bus.as_deref(), disk.model.as_deref(), disk.serial.as_deref(), disk.path.as_deref()];
        let what: Vec<&str> = what.into_iter().flatten().collect();
        let holds = disk.contents.as_deref().unwrap_or("empty");
        line("disk", Some(format!("{:<8} {size:>10}  {}  ({holds})", disk.name, what.join(" "))));
    }
    for nic in nics {
        let speed = nic.speed_mbps.map(|speed| format!("{speed} Mbit/s"));
        let link = nic.link.map(|link| if link { "link" } else { "no link" }.to_owned());
        let rest: Vec<String> = [nic.driver.clone(), link, speed].into_iter().flatten().collect();
        line("nic", Some(format!("{:<8} {}  {}", nic.name.as_deref().unwrap_or("-"), nic.mac, rest.join(", "))));
    }
    lines.push(format!("{:<10} {}", "told by", inventory.spec.source));
    lines.join("\n")
}
