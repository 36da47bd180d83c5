//! The metadata service: what an operating system may ask for while it runs, in the words of cloud-init, and what cloud-init is asked to do for us.
//!
//! ```text
//!   GET  /v1/metadata/<token>/meta-data     and what else NoCloud, OpenStack or EC2 have there
//!   POST /v1/metadata/<token>/phone-home    cloud-init is done: the instance runs
//!   GET  /v1/metadata/<other>/release       `restart` once its Deployment was deleted; the release hook asks, with a token for nothing else
//! ```

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::work::Documents;

/// The folder of boot HTTP that it is.
pub const METADATA_FOLDER: &str = "v1/metadata";
/// What is posted to, below that and a token, when cloud-init is done.
pub const PHONE_HOME: &str = "phone-home";
/// What is asked there by the release hook.
pub const RELEASE: &str = "release";
/// What it is answered when its machine is to restart; else nothing.
pub const RESTART: &str = "restart";
/// The label of NoCloud's file system.
pub const NO_CLOUD: &str = "cidata";
/// The label of OpenStack's config drive.
pub const CONFIG_DRIVE: &str = "config-2";
/// How often cloud-init tries to say that it is there, each 3 s: for five minutes, in which a server is started anew or an agent moves.
const TRIES: u32 = 100;
/// The release hook, as a script that cloud-init runs once.
const HOOK: &str = include_str!("release-hook.sh");
/// What stands in it for the addresses that it asks.
const HOOK_ASKS: &str = "@URLS@";
/// Between the parts of vendor-data.
const BOUNDARY: &str = "=-athanor-part-of-vendor-data-=";

/// Where the service is for one instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Service {
    /// The server that it was told of by, then those that may take over; each ends with a slash, which NoCloud wants.
    pub urls: Vec<String>,
    /// What the release hook asks, in this order; none is installed without.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hook: Vec<String>,
}

/// Where an instance asks a server (`http://192.168.10.1:7481`) with a token.
pub fn url(server: &str, token: &str) -> String {
    format!("{server}/{METADATA_FOLDER}/{token}/")
}

impl Documents {
    /// Its files, with what asks cloud-init to phone home and to install the release hook. That is vendor-data: what a person's user-data says
    /// comes before it.
    pub fn all_files(&self) -> BTreeMap<String, String> {
        let mut files = self.files.clone();
        let Some(text) = self.metadata.as_ref().and_then(vendor_data) else { return files };
        let (name, text) = match self.label.as_str() {
            NO_CLOUD => ("vendor-data", text),
            _ => ("openstack/latest/vendor_data.json", format!("{}\n", json!({ "cloud-init": text }))),
        };
        files.entry(name.to_owned()).or_insert(text);
        files
    }
}

/// In parts: a script of its own runs whatever a person's user-data says about commands.
fn vendor_data(service: &Service) -> Option<String> {
    let first = service.urls.first()?;
    // JSON is YAML, and quotes itself.
    let config = json!({ "phone_home": { "url": format!("{first}{PHONE_HOME}"), "post": "all", "tries": TRIES } });
    let config = format!("#cloud-config\n{config}\n");
    if service.hook.is_empty() {
        return Some(config);
    }
    let hook = HOOK.replace(HOOK_ASKS, &service.hook.join(" "));
    let part = |kind: &str, text: &str| {
        let encoding = "MIME-Version: 1.0\nContent-Transfer-Encoding: 7bit";
        format!("--{BOUNDARY}\nContent-Type: {kind}; charset=\"us-ascii\"\n{encoding}\n\n{text}\n")
    };
    let parts = part("text/cloud-config", &config) + &part("text/x-shellscript", &hook);
    Some(format!("Content-Type: multipart/mixed; boundary=\"{BOUNDARY}\"\nMIME-Version: 1.0\n\n{parts}--{BOUNDARY}--\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asks() -> Vec<String> {
        ["http://192.168.10.1:7481", "http://192.168.10.2:7481"].map(|server| url(server, "h-1") + RELEASE).into()
    }

    fn documents(label: &str, hook: Option<bool>) -> Documents {
        let urls = ["http://192.168.10.1:7481", "http://192.168.10.2:7481"].map(|server| url(server, "t-1")).into();
        Documents {
            label: label.into(),
            files: [("user-data".to_owned(), "#cloud-config\n".to_owned())].into(),
            metadata: hook.map(|hook| Service { urls, hook: if hook { asks() } else { Vec::new() } }),
        }
    }

    #[test]
    fn cloud_init_is_asked_to_phone_home_in_either_layout() {
        let phones = "{\"phone_home\":{\"post\":\"all\",\"tries\":100,\"url\":\"http://192.168.10.1:7481/v1/metadata/t-1/phone-home\"}}";
        let files = documents(NO_CLOUD, Some(false)).all_files();
        assert_eq!(files.get("vendor-data"), Some(&format!("#cloud-config\n{phones}\n")));
        let files = documents(CONFIG_DRIVE, Some(false)).all_files();
        let vendor: serde_json::Value = serde_json::from_str(&files["openstack/latest/vendor_data.json"]).unwrap();
        assert_eq!(vendor["cloud-init"], format!("#cloud-config\n{phones}\n"));
        assert_eq!(documents(NO_CLOUD, None).all_files(), documents(NO_CLOUD, None).files);
    }

    #[test]
    fn the_release_hook_asks_every_server_and_is_plain_text() {
        let text = &documents(NO_CLOUD, Some(true)).all_files()["vendor-data"];
        assert!(text.is_ascii() && !text.contains('@'), "{text}");
        let asks = "http://192.168.10.1:7481/v1/metadata/h-1/release http://192.168.10.2:7481/v1/metadata/h-1/release";
        assert!(text.contains(asks) && text.contains(PHONE_HOME) && text.contains(&format!("= {RESTART} ]")), "{text}");
        assert_eq!(text.matches(BOUNDARY).count(), 4, "{text}");
    }
}
