//! Network interfaces with a device behind them.

use std::path::Path;

use athanor_wire::Nic;

use super::{link_name, names, word};

/// The most interfaces that are told.
const MAX_NICS: usize = 64;

pub(super) fn nics(root: &Path) -> Vec<Nic> {
    let folder = root.join("sys/class/net");
    let nic = |name: String| {
        let place = folder.join(&name);
        if !place.join("device").exists() {
            return None;
        }
        let speed = word(&place.join("speed")).and_then(|speed| speed.parse::<i64>().ok()).filter(|speed| *speed > 0);
        Some(Nic {
            mac: word(&place.join("address"))?.parse().ok()?,
            driver: link_name(&place.join("device/driver")),
            pci: std::fs::canonicalize(place.join("device")).ok().and_then(|device| {
                device
                    .components()
                    .rev()
                    .map(|part| part.as_os_str().to_string_lossy().into_owned())
                    .find(|part| part.len() == 12 && part.contains(':'))
            }),
            link: word(&place.join("carrier")).map(|carrier| carrier == "1"),
            neighbour: None,
            speed_mbps: speed.and_then(|speed| u32::try_from(speed).ok()),
            name: Some(name),
        })
    };
    names(&folder).into_iter().filter_map(nic).take(MAX_NICS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::tests::tree;

    #[test]
    fn what_has_no_device_is_no_interface_of_the_machine() {
        let root = tree(&[
            ("sys/class/net/eth0/address", "52:54:00:aa:00:01\n"),
            ("sys/class/net/eth0/speed", "-1\n"),
            ("sys/class/net/eth0/carrier", "1\n"),
            ("sys/class/net/eth0/device/x", ""),
            ("sys/class/net/lo/address", "00:00:00:00:00:00\n"),
        ]);
        let all = nics(root.path());
        assert_eq!(all.len(), 1);
        assert_eq!((all[0].mac.to_string().as_str(), all[0].speed_mbps, all[0].link), ("52:54:00:aa:00:01", None, Some(true)));
    }
}
