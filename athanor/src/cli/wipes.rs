//! `verify-wipe`: whether the records of wipes are true. Who has the public key needs no access to the installation.

use std::path::PathBuf;

use anyhow::{Context as _, anyhow, bail};
use athanor_crds::{WipeRecord, names, wiperecord};
use athanor_wire::hex;
use base64::Engine as _;
use clap::Args;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client, ResourceExt as _, api::ListParams};
use ring::signature::{ED25519, ED25519_PUBLIC_KEY_LEN, UnparsedPublicKey};

use super::{Global, apply, connect, out};

/// Arguments of `verify-wipe`.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// The machine that was wiped; it may be gone
    #[arg(required_unless_present = "filename")]
    machine: Option<String>,
    /// Records that were kept in a file (athanorctl get wiperecords -o yaml)
    #[arg(short, long, value_name = "FILE")]
    filename: Option<PathBuf>,
    /// The installation's public key, as an earlier verify-wipe told it; without it the installation is asked
    #[arg(long, value_name = "HEX", value_parser = public_key)]
    public_key: Option<PublicKey>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct PublicKey(Vec<u8>);

fn public_key(text: &str) -> Result<PublicKey, String> {
    let bytes = hex::decode(text.trim()).filter(|bytes| bytes.len() == ED25519_PUBLIC_KEY_LEN);
    bytes.map(PublicKey).ok_or_else(|| format!("no public key; it is {} hexadecimal digits", 2 * ED25519_PUBLIC_KEY_LEN))
}

/// `verify-wipe`.
///
/// # Errors
/// There is no record, or one was not signed by this installation.
pub(crate) async fn verify_wipe(global: &Global, args: VerifyArgs) -> anyhow::Result<()> {
    let client = match (&args.filename, &args.public_key) {
        (Some(_), Some(_)) => None,
        _ => Some(connect::client(global).await?),
    };
    let mut records = match (&args.filename, &client) {
        (Some(file), _) => in_file(file)?,
        (None, Some(client)) => Api::<WipeRecord>::namespaced(client.clone(), &global.namespace).list(&ListParams::default()).await?.items,
        (None, None) => Vec::new(),
    };
    records.retain(|record| args.machine.as_ref().is_none_or(|machine| record.spec.machine == *machine));
    records.sort_by_key(|record| record.spec.finished.0);
    if records.is_empty() {
        let place =
            args.filename.as_ref().map_or_else(|| format!("in namespace {}", global.namespace), |file| format!("in {}", file.display()));
        bail!("no wipe{} is recorded {place}", args.machine.map(|machine| format!(" of {machine}")).unwrap_or_default());
    }
    let key = match (args.public_key, &client) {
        (Some(key), _) => key,
        (None, Some(client)) => of_installation(client).await?,
        (None, None) => bail!("--public-key is missing"),
    };
    let mut bad = 0;
    for record in &records {
        let is_true = is_true(record, &key);
        bad += usize::from(!is_true);
        out(&told(record, is_true));
    }
    out(&format!("public key {}\n", hex::encode(&key.0)));
    if bad > 0 {
        bail!("{bad} records do not hold");
    }
    Ok(())
}

fn in_file(file: &std::path::Path) -> anyhow::Result<Vec<WipeRecord>> {
    let read = |object: serde_json::Value| {
        if object["kind"] != "WipeRecord" {
            return Err(anyhow!("-f {}: {} is no WipeRecord", file.display(), object["kind"]));
        }
        serde_json::from_value(object).with_context(|| format!("-f {}: a WipeRecord cannot be read", file.display()))
    };
    apply::read(file)?.into_iter().map(read).collect()
}

/// Beside the key with which it signs, so only who may read that is told; others were given it.
async fn of_installation(client: &Client) -> anyhow::Result<PublicKey> {
    let secret = Api::<Secret>::namespaced(client.clone(), names::SYSTEM_NAMESPACE).get(names::INSTALLATION_SECRET).await?;
    let public = secret.data.as_ref().and_then(|data| data.get(names::INSTALLATION_PUBLIC)).map(|key| key.0.clone());
    let public = public.and_then(|text| public_key(std::str::from_utf8(&text).ok()?).ok());
    public.with_context(|| format!("the Secret {} has no public key", names::INSTALLATION_SECRET))
}

fn is_true(record: &WipeRecord, key: &PublicKey) -> bool {
    let signature = base64::engine::general_purpose::STANDARD.decode(&record.spec.signature).unwrap_or_default();
    let text = wiperecord::signed(&record.namespace().unwrap_or_default(), &record.name_any(), &record.spec);
    UnparsedPublicKey::new(&ED25519, &key.0).verify(&text, &signature).is_ok()
}

fn told(record: &WipeRecord, is_true: bool) -> String {
    let verdict = if is_true { "signed by this installation" } else { "NOT signed by this installation, or changed since" };
    let mut text = format!("{}  {}  {verdict}\n", record.name_any(), record.spec.finished.0);
    for disk in &record.spec.disks {
        let name = disk.serial.as_deref().or(disk.wwn.as_deref()).unwrap_or("without a serial number");
        text.push_str(&format!(
            "  {name}: {:?}, {} bytes; {} places read back, {} of them not empty\n",
            disk.method, disk.bytes, disk.sampled, disk.mismatched
        ));
    }
    for serial in &record.spec.missing {
        text.push_str(&format!("  {serial}: was not there any more\n"));
    }
    text
}
