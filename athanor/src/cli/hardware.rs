//! A machine's hardware, as people want to read it.

use athanor_crds::MachineInventory;
use athanor_wire::Inventory;

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
