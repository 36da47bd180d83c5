//! Who asks, and whether they may: roles from the one rights table, tokens by their hash.

use std::{collections::BTreeMap, fs, io, io::Write as _, os::unix::fs::OpenOptionsExt as _, path::Path};

use athanor_crds::rights::Role;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    error::{ApiError, Result},
    path::Target,
};

/// Who asks. In-process callers carry it as a request extension; others prove it with a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The role, from the rights table.
    pub role: Role,
}

impl Identity {
    /// Whether it may use a verb on what a URL names.
    pub(crate) fn allow(self, verb: &str, target: &Target) -> Result<()> {
        let (resource, group) = (target.resource(), &target.kind.group);
        if self.role.may(verb, group, &resource, target.namespace.as_deref()) {
            return Ok(());
        }
        let place = target
            .namespace
            .as_ref()
            .map_or_else(|| "at the cluster scope".to_owned(), |namespace| format!("in the namespace {namespace:?}"));
        let message = format!(
            "{} is forbidden: User {:?} cannot {verb} resource {resource:?} in API group {group:?} {place}",
            target.kind.resource(),
            self.role.user()
        );
        let error = ApiError::new(http::StatusCode::FORBIDDEN, "Forbidden", message);
        Err(error.about(&target.kind, target.name.as_deref().unwrap_or_default()))
    }
}

/// Bytes of entropy in a token.
const TOKEN_BYTES: usize = 32;

/// The tokens that are honoured, by the hash of each: the file gives nobody away.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Tokens {
    /// SHA-256 in hexadecimal → user name of the role.
    sha256: BTreeMap<String, String>,
}

impl Tokens {
    /// Reads the tokens of a data folder.
    ///
    /// # Errors
    /// The file is there but cannot be read, or is no such file.
    pub fn load(path: &Path) -> io::Result<Self> {
        match fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    /// Draws a new token for a role, in place of the role's old one. The token itself is returned once and kept nowhere.
    ///
    /// # Errors
    /// No randomness, or the file cannot be written.
    pub fn issue(&mut self, role: Role, path: &Path) -> io::Result<String> {
        let mut bytes = [0; TOKEN_BYTES];
        getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
        let token = URL_SAFE_NO_PAD.encode(bytes);
        self.sha256.retain(|_, user| user != role.user());
        self.sha256.insert(hash(&token), role.user().to_owned());
        write_private(path, &serde_json::to_vec_pretty(self)?)?;
        Ok(token)
    }

    /// The identity that a token proves. The comparison is of hashes, so its timing tells nothing about the token.
    pub(crate) fn identify(&self, token: &str) -> Option<Identity> {
        let user = self.sha256.get(&hash(token))?;
        Role::ALL.into_iter().find(|role| role.user() == user).map(|role| Identity { role })
    }

    /// Whether a token is one of a role.
    pub fn holds(&self, role: Role, token: &str) -> bool {
        self.identify(token) == Some(Identity { role })
    }
}

fn hash(token: &str) -> String {
    Sha256::digest(token.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes a file that only its owner may read, whole or not at all.
///
/// # Errors
/// The folder cannot be written.
pub fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let aside = path.with_extension("new");
    let _ = fs::remove_file(&aside);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&aside, path)
}
