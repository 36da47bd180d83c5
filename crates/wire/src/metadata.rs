//! The metadata service: what an operating system may ask for while it runs, in the words of cloud-init.
//!
//! ```text
//!   GET  /v1/metadata/<token>/meta-data     and what else NoCloud, OpenStack or EC2 have there
//!   POST /v1/metadata/<token>/phone-home    cloud-init is done: the instance runs
//! ```

use std::collections::BTreeMap;

use serde_json::json;

use crate::work::Documents;

/// The folder of boot HTTP that it is.
pub const METADATA_FOLDER: &str = "v1/metadata";
/// What is posted to, below that and a token, when cloud-init is done.
pub const PHONE_HOME: &str = "phone-home";
/// The label of NoCloud's file system.
pub const NO_CLOUD: &str = "cidata";
/// The label of OpenStack's config drive.
pub const CONFIG_DRIVE: &str = "config-2";
/// How often cloud-init tries to say that it is there, with growing pauses: the server may be restarted just then.
const TRIES: u32 = 10;

/// Where an instance asks a server (`http://192.168.10.1:7481`) for what is its own. It ends with a slash, which NoCloud wants.
pub fn url(server: &str, token: &str) -> String {
    format!("{server}/{METADATA_FOLDER}/{token}/")
}

impl Documents {
    /// Its files, with what asks cloud-init to phone home. That is vendor-data: what a person's user-data says comes before it.
    pub fn all_files(&self) -> BTreeMap<String, String> {
        let mut files = self.files.clone();
        let Some(url) = &self.metadata else { return files };
        let config = json!({ "phone_home": { "url": format!("{url}{PHONE_HOME}"), "post": "all", "tries": TRIES } });
        // JSON is YAML, and quotes itself.
        let config = format!("#cloud-config\n{config}\n");
        let (name, text) = match self.label.as_str() {
            NO_CLOUD => ("vendor-data", config),
            _ => ("openstack/latest/vendor_data.json", format!("{}\n", json!({ "cloud-init": config }))),
        };
        files.entry(name.to_owned()).or_insert(text);
        files
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cloud_init_is_asked_to_phone_home_in_either_layout() {
        let documents = |label: &str, token: Option<&str>| Documents {
            label: label.into(),
            files: [("user-data".to_owned(), "#cloud-config\n".to_owned())].into(),
            metadata: token.map(|token| url("http://192.168.10.1:7481", token)),
        };
        let phones = "{\"phone_home\":{\"post\":\"all\",\"tries\":10,\"url\":\"http://192.168.10.1:7481/v1/metadata/t-1/phone-home\"}}";
        let files = documents(NO_CLOUD, Some("t-1")).all_files();
        assert_eq!(files.get("vendor-data"), Some(&format!("#cloud-config\n{phones}\n")));
        let files = documents(CONFIG_DRIVE, Some("t-1")).all_files();
        let vendor: serde_json::Value = serde_json::from_str(&files["openstack/latest/vendor_data.json"]).unwrap();
        assert_eq!(vendor["cloud-init"], format!("#cloud-config\n{phones}\n"));
        assert_eq!(documents(NO_CLOUD, None).all_files(), documents(NO_CLOUD, None).files);
    }
}
