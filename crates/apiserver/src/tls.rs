//! TLS from the first day: a certificate authority of one's own in the data folder, and a server certificate of it at every start.

use std::{fs, io, net::IpAddr, path::Path, sync::Arc};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject as _},
};

use crate::auth::write_private;

/// A certificate cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The folder cannot be read or written.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A stored key or certificate is damaged.
    #[error("the certificate authority in {path} cannot be used ({source}); remove the folder to have a new one made", path = .path.display())]
    Authority {
        /// The folder.
        path: std::path::PathBuf,
        /// Why.
        source: rcgen::Error,
    },
    /// The authority has a certificate and no key.
    #[error("the certificate authority's key {path} is gone; put a copy of it back, or remove {folder} to have a new authority made, whom no kubeconfig handed out before trusts", path = .0.display(), folder = .0.parent().unwrap_or(.0).display())]
    KeyGone(std::path::PathBuf),
    /// rustls refuses it.
    #[error("the server certificate is not usable: {0}")]
    Server(#[from] rustls::Error),
}

/// A certificate authority and a server certificate of it.
pub struct Pki {
    /// The authority's certificate, for clients to trust.
    pub ca_pem: String,
    /// What the server speaks TLS with.
    pub server: Arc<ServerConfig>,
}

impl Pki {
    /// Opens the authority in a folder, or makes one; then certifies the server for these addresses and `localhost`.
    ///
    /// # Errors
    /// The folder cannot be used, or what is in it.
    pub fn open(folder: &Path, addresses: &[IpAddr]) -> Result<Self, TlsError> {
        let (certificate_file, key_file) = (folder.join("ca.crt"), folder.join("ca.key"));
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| TlsError::Io { path, source }
        };
        let authority = |source| TlsError::Authority { path: folder.to_owned(), source };
        fs::create_dir_all(folder).map_err(io(folder))?;
        let certificate = match fs::read(&certificate_file) {
            Ok(pem) => Some(pem),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(io(&certificate_file)(error)),
        };
        if certificate.is_some() && !key_file.exists() {
            // Everybody who trusts the certificate would be turned away without a word.
            return Err(TlsError::KeyGone(key_file));
        }
        // One that is blank or cut off is as good as none; by the same key it is made again.
        if certificate.is_none_or(|pem| CertificateDer::from_pem_slice(&pem).is_err()) {
            if !key_file.exists() {
                let key = KeyPair::generate().map_err(authority)?;
                write_private(&key_file, key.serialize_pem().as_bytes()).map_err(io(&key_file))?;
            }
            let key = read_key(&key_file).map_err(io(&key_file))?.map_err(authority)?;
            let made = authority_params().self_signed(&key).map_err(authority)?;
            write_private(&certificate_file, made.pem().as_bytes()).map_err(io(&certificate_file))?;
        }
        let ca_pem = fs::read_to_string(&certificate_file).map_err(io(&certificate_file))?;
        let key = read_key(&key_file).map_err(io(&key_file))?.map_err(authority)?;
        let issuer = Issuer::new(authority_params(), key);
        let server = server_config(&issuer, addresses).map_err(|error| match error {
            ServerError::Make(source) => authority(source),
            ServerError::Use(source) => TlsError::Server(source),
        })?;
        Ok(Self { ca_pem, server: Arc::new(server) })
    }
}

fn read_key(file: &Path) -> io::Result<Result<KeyPair, rcgen::Error>> {
    Ok(KeyPair::from_pem(&fs::read_to_string(file)?))
}

enum ServerError {
    Make(rcgen::Error),
    Use(rustls::Error),
}

fn authority_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, "Athanor");
    params.distinguished_name = name;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn server_config(issuer: &Issuer<'_, KeyPair>, addresses: &[IpAddr]) -> Result<ServerConfig, ServerError> {
    let key = KeyPair::generate().map_err(ServerError::Make)?;
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).map_err(ServerError::Make)?;
    // Names of certificates compare without regard to case (RFC 5280 section 7.1): one like the authority's would say that it signed itself.
    params.distinguished_name.push(DnType::CommonName, "athanor API server");
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.subject_alt_names.extend(addresses.iter().copied().map(SanType::IpAddress));
    let certificate = params.signed_by(&key, issuer).map_err(ServerError::Make)?;
    let chain = vec![CertificateDer::from(certificate.der().to_vec())];
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(ServerError::Use)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(ServerError::Use)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
