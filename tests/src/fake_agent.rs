//! A machine-agent that is told what to say: the questions are real, and signed; no machine is booted.

use std::{fs, time::Duration};

use anyhow::Context as _;
use athanor_wire::hex;
use rcgen::{KeyPair, PKCS_ED25519, SigningKey as _};
use serde_json::{Value, json};

use crate::{FakeIpxe, Rack, Service, wait_for};

/// A ramdisk that nobody boots.
///
/// # Errors
/// It cannot be written.
pub fn ramdisk(rack: &Rack) -> anyhow::Result<()> {
    fs::create_dir_all(rack.file("ramdisk"))?;
    for file in ["vmlinuz", "initramfs"] {
        fs::write(rack.file("ramdisk").join(file), file)?;
    }
    Ok(())
}

/// The profile `image`, whose file nobody has.
///
/// # Errors
/// The API says no.
pub fn profile(service: &Service<'_>) -> anyhow::Result<()> {
    let image = json!({ "url": "http://192.168.10.1:8080/x.raw", "checksum": format!("sha256:{}", "0".repeat(64)) });
    let object = json!({ "apiVersion": "metal.athanor.dev/v1alpha1", "kind": "BootProfile", "metadata": { "name": "image" }, "spec": { "image": image } });
    service.apply(&object.to_string())
}

/// A Deployment of that profile with user-data from the Secret of its name.
///
/// # Errors
/// The API says no.
pub fn deployment_with_data(service: &Service<'_>, name: &str) -> anyhow::Result<()> {
    let user_data = json!({ "secretRef": { "name": name, "key": "value" } });
    let spec = json!({ "machine": { "selector": {} }, "profile": { "name": "image" }, "userData": user_data });
    let object = json!({ "apiVersion": "metal.athanor.dev/v1alpha1", "kind": "Deployment", "metadata": { "name": name }, "spec": spec });
    service.apply(&object.to_string())
}

/// A Secret with user-data.
///
/// # Errors
/// The API says no.
pub fn user_data(service: &Service<'_>, name: &str, text: &str) -> anyhow::Result<()> {
    let data = json!({ "value": text });
    let type_ = "metal.athanor.dev/user-data";
    let object = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name }, "type": type_, "stringData": data });
    service.apply(&object.to_string())
}

/// The end of a look at a machine with one disk of 100 GiB.
pub fn inventory(contents: Option<&str>) -> Value {
    let disk = json!({ "name": "sda", "sizeBytes": 100_u64 << 30, "serial": "S1", "contents": contents });
    json!({ "outcome": "Done", "inventory": { "vendor": "QEMU", "cpus": 4, "memoryMib": 8192, "disks": [disk], "nics": [] } })
}

/// The end of a wipe of that disk.
pub fn wiped() -> Value {
    let disk = json!({ "serial": "S1", "method": "Metadata", "bytes": 33_554_432, "sampled": 1024, "mismatched": 0 });
    let mut done = inventory(None);
    done["wiped"] = json!([disk]);
    done
}

/// The agent, as one boot of the ramdisk has it.
pub struct FakeAgent<'a> {
    machine: &'a FakeIpxe,
    key: KeyPair,
    server: String,
    token: String,
}

/// The status and the body of an answer.
pub type Answer = (u16, Value);

impl<'a> FakeAgent<'a> {
    /// Boots the ramdisk: takes the order that the script at `first` leads to, and makes a key.
    ///
    /// # Errors
    /// No such order comes.
    pub fn boot(machine: &'a FakeIpxe, first: &str) -> anyhow::Result<Self> {
        let script = wait_for("the ramdisk's order", Duration::from_secs(15), || {
            // A boot, and not a question of one that waits.
            let script = machine.http(first).map_err(|error| error.to_string())?;
            let script = String::from_utf8_lossy(&script).into_owned();
            if script.contains("athanor.token=") { Ok(script) } else { Err(script) }
        })?;
        let word = |before: &str| script.split(before).nth(1).and_then(|rest| rest.split_whitespace().next()).map(str::to_owned);
        let server = word("set server ").context("no server in the script")?;
        let token = word("athanor.token=").context("no token in the script")?;
        Ok(Self { machine, key: KeyPair::generate_for(&PKCS_ED25519)?, server, token })
    }

    /// Another agent with the same token, and a key of its own.
    ///
    /// # Errors
    /// No key can be made.
    pub fn twin(&self) -> anyhow::Result<Self> {
        let key = KeyPair::generate_for(&PKCS_ED25519)?;
        Ok(Self { machine: self.machine, key, server: self.server.clone(), token: self.token.clone() })
    }

    /// Asks for a step.
    ///
    /// # Errors
    /// Nobody answers.
    pub fn next(&self, work: Option<&str>, done: usize) -> anyhow::Result<Answer> {
        self.post("next", &json!({ "work": work, "done": done }), None)
    }

    /// Asks until a step comes.
    ///
    /// # Errors
    /// None does.
    pub fn step(&self, work: Option<&str>, done: usize) -> anyhow::Result<Value> {
        wait_for("a step", Duration::from_secs(40), || match self.next(work, done) {
            Ok((200, assignment)) => Ok(assignment),
            other => Err(format!("{other:?}")),
        })
    }

    /// Tells how a step goes; `more` is added to the report.
    ///
    /// # Errors
    /// Nobody answers.
    pub fn tell(&self, assignment: &Value, more: Value) -> anyhow::Result<Answer> {
        let mut report = json!({ "work": assignment["work"], "index": assignment["index"], "phase": "test" });
        for (key, value) in more.as_object().into_iter().flatten() {
            report[key] = value.clone();
        }
        self.post("tell", &report, None)
    }

    /// Posts a body, with the signature of another one where that is given.
    ///
    /// # Errors
    /// Nobody answers.
    pub fn post(&self, verb: &str, body: &Value, signed_instead: Option<&[u8]>) -> anyhow::Result<Answer> {
        let (path, body) = (format!("/v1/agent/{}/{verb}", self.token), body.to_string());
        let text = athanor_wire::work::signed(&path, signed_instead.unwrap_or(body.as_bytes()));
        let mut curl = self.machine.host.command("curl");
        curl.args(["-s", "--max-time", "40", "-w", "\n%{http_code}", "-H", "content-type: application/json", "-d", &body]);
        curl.arg("-H").arg(format!("athanor-key: {}", hex::encode(self.key.public_key_raw())));
        curl.arg("-H").arg(format!("athanor-signature: {}", hex::encode(&self.key.sign(&text)?)));
        let output = curl.arg(format!("{}{path}", self.server)).output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, code) = said.rsplit_once('\n').context("no answer")?;
        let code: u16 = code.parse()?;
        anyhow::ensure!(code != 0, "no answer");
        Ok((code, serde_json::from_str(body).unwrap_or_else(|_| Value::String(body.to_owned()))))
    }
}
