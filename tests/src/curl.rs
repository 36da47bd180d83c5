//! The API as curl sees it, for what kubectl never sends.

use anyhow::Context as _;

use crate::{Rack, Service, tools};

/// A person with curl and the token out of the kubeconfig.
pub struct Curl<'a> {
    rack: &'a Rack,
    token: String,
}

impl<'a> Curl<'a> {
    /// For the embedded API of a service.
    ///
    /// # Errors
    /// It has no kubeconfig with a token.
    pub fn of(service: &Service<'_>, rack: &'a Rack) -> anyhow::Result<Self> {
        let config: serde_json::Value = serde_saphyr::from_str(&std::fs::read_to_string(service.kubeconfig())?)?;
        let token = config["users"][0]["user"]["token"].as_str().context("no token")?.to_owned();
        Ok(Self { rack, token })
    }

    /// The answer to a request on our objects in the default namespace: its code and its body.
    ///
    /// # Errors
    /// Nobody answers.
    pub fn ask(&self, method: &str, path: &str, content_type: &str, body: &str) -> anyhow::Result<(String, String)> {
        let mut curl = self.rack.command("curl");
        curl.args(["-sk", "-w", "\n%{http_code}", "-X", method, "-H", &format!("authorization: Bearer {}", self.token)]);
        curl.args(["-H", &format!("content-type: {content_type}")]);
        if !body.is_empty() {
            curl.args(["--data-binary", body]);
        }
        curl.arg(format!("https://127.0.0.1:7480/apis/metal.athanor.dev/v1alpha1/namespaces/default/{path}"));
        let said = tools::run(&mut curl)?;
        let (body, code) = said.rsplit_once('\n').context("no code")?;
        Ok((code.to_owned(), body.to_owned()))
    }
}
