//! Which disk an operating system goes on: Metal3's root-device hints, else the smallest that will do.

use athanor_wire::{Disk, RootDeviceHints};

use crate::AgentError;

/// The disk, and why that one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Its kernel name.
    pub name: String,
    /// In words.
    pub why: String,
}

/// Chooses a disk for an image of at least so many bytes.
///
/// # Errors
/// No disk will do; the message says why for each.
pub fn choose(disks: &[Disk], hints: Option<&RootDeviceHints>, at_least: u64) -> Result<Choice, AgentError> {
    let mut refused = Vec::new();
    let mut fitting: Vec<&Disk> = Vec::new();
    for disk in disks {
        match unfit(disk, hints, at_least) {
            Some(why) => refused.push(format!("{} {why}", disk.name)),
            None => fitting.push(disk),
        }
    }
    fitting.sort_by_key(|disk| (disk.size_bytes, disk.name.clone()));
    let Some(chosen) = fitting.first() else {
        let all = if refused.is_empty() { "the machine has no disk at all".to_owned() } else { refused.join("; ") };
        return Err(AgentError::NoDisk(format!("no disk will do: {all}. Change spec.rootDeviceHints, the image, or the disk")));
    };
    let why = match (hints.filter(|hints| **hints != RootDeviceHints::default()), fitting.len()) {
        (Some(_), 1) => "the only one that the root-device hints mean".to_owned(),
        (Some(_), many) => format!("the smallest of {many} that the root-device hints mean"),
        (None, 1) => "the only one".to_owned(),
        (None, many) => format!("the smallest of {many}; spec.rootDeviceHints would choose another"),
    };
    Ok(Choice { name: chosen.name.clone(), why })
}

/// Why a disk will not do.
fn unfit(disk: &Disk, hints: Option<&RootDeviceHints>, at_least: u64) -> Option<String> {
    // A disk in a USB case says that it is fixed; a hint may mean it all the same.
    if disk.removable || (disk.can_be_taken_out() && hints.is_none_or(|hints| *hints == RootDeviceHints::default())) {
        return Some("is removable".to_owned());
    }
    if disk.read_only {
        return Some("is read-only".to_owned());
    }
    let size = u64::try_from(disk.size_bytes).unwrap_or(0);
    if size < at_least || size == 0 {
        return Some(format!("has {size} bytes, fewer than the {at_least} that are needed"));
    }
    let hints = hints?;
    let exactly = |hint: &Option<String>, has: Option<&String>| {
        hint.as_ref().is_some_and(|hint| has.is_none_or(|has| !has.eq_ignore_ascii_case(hint)))
    };
    let within = |hint: &Option<String>, has: Option<&String>| {
        hint.as_ref().is_some_and(|hint| has.is_none_or(|has| !has.to_lowercase().contains(&hint.to_lowercase())))
    };
    let no = |key: &str| Some(format!("is not what {key} asks for"));
    if let Some(name) = &hints.device_name {
        let named = name.trim_start_matches("/dev/");
        let by_path = named.strip_prefix("disk/by-path/");
        if named != disk.name && (by_path.is_none() || by_path != disk.path.as_deref()) {
            return no("deviceName");
        }
    }
    // A World Wide Name is what a disk has, however it is written.
    let wwn = disk.wwn.as_ref().map(|wwn| plain_wwn(wwn));
    let wwn_differs = |hint: &Option<String>| hint.as_ref().is_some_and(|hint| wwn.as_ref() != Some(&plain_wwn(hint)));
    let extension = wwn.as_ref().and_then(|wwn| wwn.get(16..)).filter(|extension| !extension.is_empty());
    let extension_differs = hints.wwn_vendor_extension.as_ref().is_some_and(|hint| extension != Some(plain_wwn(hint).as_str()));
    let base_differs = hints.wwn.as_ref().is_some_and(|hint| wwn.as_ref().is_none_or(|wwn| !wwn.starts_with(&plain_wwn(hint))));
    let checks = [
        (exactly(&hints.hctl, disk.hctl.as_ref()), "hctl"),
        (within(&hints.model, disk.model.as_ref()), "model"),
        (within(&hints.vendor, disk.vendor.as_ref()), "vendor"),
        (exactly(&hints.serial_number, disk.serial.as_ref()), "serialNumber"),
        (hints.min_size_gigabytes.is_some_and(|least| size < u64::from(least) << 30), "minSizeGigabytes"),
        (base_differs, "wwn"),
        (wwn_differs(&hints.wwn_with_extension), "wwnWithExtension"),
        (extension_differs, "wwnVendorExtension"),
        (hints.rotational.is_some_and(|wanted| disk.rotational != Some(wanted)), "rotational"),
    ];
    checks.into_iter().find(|(differs, _)| *differs).and_then(|(_, key)| no(key))
}

/// `naa.5000c500…`, `0x5000c500…`, `eui.…` are one name in several spellings.
fn plain_wwn(wwn: &str) -> String {
    let lower = wwn.to_lowercase();
    let stripped = ["naa.", "eui.", "t10.", "0x"].iter().find_map(|prefix| lower.strip_prefix(prefix));
    stripped.unwrap_or(&lower).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(name: &str, gib: i64) -> Disk {
        Disk { name: name.into(), size_bytes: gib << 30, rotational: Some(false), ..Disk::default() }
    }

    fn chosen(disks: &[Disk], hints: RootDeviceHints) -> Result<String, String> {
        choose(disks, Some(&hints), 1 << 30).map(|choice| choice.name).map_err(|error| error.to_string())
    }

    #[test]
    fn without_hints_it_is_the_smallest_that_is_large_enough_and_stays_in() {
        let stick = Disk { removable: true, ..disk("sdb", 4) };
        let all = [disk("sdc", 1), disk("sda", 100), stick, disk("nvme0n1", 50), Disk { read_only: true, ..disk("sdd", 5) }];
        let choice = choose(&all, None, 2 << 30).unwrap();
        assert_eq!(
            (choice.name.as_str(), choice.why.as_str()),
            ("nvme0n1", "the smallest of 2; spec.rootDeviceHints would choose another")
        );
        let error = choose(&all[2..3], None, 1).unwrap_err().to_string();
        assert_eq!(error, "no disk will do: sdb is removable. Change spec.rootDeviceHints, the image, or the disk");
        assert!(choose(&[], None, 1).unwrap_err().to_string().contains("no disk at all"));
    }

    #[test]
    fn every_hint_counts() {
        let mut one = disk("sda", 10);
        one.hctl = Some("0:0:0:0".into());
        one.model = Some("QEMU HARDDISK".into());
        one.vendor = Some("ATA".into());
        one.serial = Some("S1".into());
        one.wwn = Some("naa.5000c500a1b2c3d4ffee0000ffee0001".into());
        one.path = Some("pci-0000:00:1f.2-ata-1".into());
        one.rotational = Some(true);
        let all = [one, disk("sdb", 10)];
        let text = |text: &str| Some(text.to_owned());
        let none = RootDeviceHints::default;
        for hints in [
            RootDeviceHints { device_name: text("/dev/sda"), ..none() },
            RootDeviceHints { device_name: text("/dev/disk/by-path/pci-0000:00:1f.2-ata-1"), ..none() },
            RootDeviceHints { hctl: text("0:0:0:0"), ..none() },
            RootDeviceHints { model: text("hard"), ..none() },
            RootDeviceHints { vendor: text("ata"), ..none() },
            RootDeviceHints { serial_number: text("S1"), ..none() },
            RootDeviceHints { wwn: text("0x5000c500a1b2c3d4"), ..none() },
            RootDeviceHints { wwn_with_extension: text("0x5000c500a1b2c3d4ffee0000ffee0001"), ..none() },
            RootDeviceHints { wwn_vendor_extension: text("0xffee0000ffee0001"), ..none() },
            RootDeviceHints { rotational: Some(true), ..none() },
        ] {
            assert_eq!(chosen(&all, hints.clone()), Ok("sda".to_owned()), "{hints:?}");
            assert!(chosen(&all[1..], hints.clone()).unwrap_err().contains("sdb is not what"), "{hints:?}");
        }
        assert!(chosen(&all, RootDeviceHints { min_size_gigabytes: Some(11), ..none() }).unwrap_err().contains("minSizeGigabytes"));
    }
}
