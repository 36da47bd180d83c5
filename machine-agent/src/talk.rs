//! Signed questions to a boot-agent.

use std::{sync::Mutex, time::Duration};

use athanor_wire::{
    Assignment, StepReport, hex,
    work::{KEY_HEADER, Next, PATIENCE_SECONDS, SIGNATURE_HEADER, signed},
};
use ring::{
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair as _},
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{AgentError, engine::Event, image::lock, net::Names};

/// How long a question may take beyond what the server waits.
const MARGIN: Duration = Duration::from_secs(10);
/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long a transfer may say nothing.
const SILENCE: Duration = Duration::from_secs(60);

/// An HTTP client for both boot-agents and images.
pub fn agent(names: Names) -> ureq::Agent {
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_connect(Some(CONNECT))
        .timeout_recv_response(Some(Duration::from_secs(PATIENCE_SECONDS) + MARGIN))
        .timeout_per_read(Some(SILENCE))
        .user_agent("athanor-machine-agent")
        .build();
    ureq::Agent::with_parts(config, ureq::unversioned::transport::DefaultConnector::default(), names)
}

/// Speaks to boot-agents, as one machine with one key.
pub struct Talk {
    agent: ureq::Agent,
    key: Ed25519KeyPair,
    servers: Vec<String>,
    token: Mutex<String>,
}

impl Talk {
    /// One with a key of its own, which lives as long as it does.
    ///
    /// # Errors
    /// The kernel gives no randomness.
    pub fn new(agent: ureq::Agent, servers: Vec<String>, token: String) -> Result<Self, AgentError> {
        let random = SystemRandom::new();
        let failed = || AgentError::System { what: "making a key".to_owned(), source: std::io::Error::other("no randomness") };
        let document = Ed25519KeyPair::generate_pkcs8(&random).map_err(|_| failed())?;
        let key = Ed25519KeyPair::from_pkcs8(document.as_ref()).map_err(|_| failed())?;
        Ok(Self { agent, key, servers, token: Mutex::new(token) })
    }

    /// Asks for a step.
    pub fn ask(&self, server: usize, next: &Next) -> Event {
        match self.post::<Assignment>(server, "next", next) {
            Posted::Nothing => Event::Answered(None),
            Posted::Answer(assignment) => {
                if let Some(token) = &assignment.token {
                    lock(&self.token).clone_from(token);
                }
                Event::Answered(Some(assignment))
            }
            Posted::Refused => Event::Stranger,
            Posted::Unknown => Event::Unknown,
            Posted::Over | Posted::Lost => Event::Lost,
        }
    }

    /// Tells how a step goes.
    pub fn tell(&self, server: usize, report: &StepReport) -> Event {
        match self.post::<serde_json::Value>(server, "tell", report) {
            Posted::Nothing | Posted::Answer(_) => Event::Stored,
            Posted::Over => Event::Over,
            Posted::Refused => Event::Stranger,
            Posted::Unknown => Event::Unknown,
            Posted::Lost => Event::Lost,
        }
    }

    fn post<T: DeserializeOwned>(&self, server: usize, verb: &str, body: &impl Serialize) -> Posted<T> {
        let Some(base) = self.servers.get(server) else { return Posted::Lost };
        let path = format!("/v1/agent/{}/{verb}", lock(&self.token));
        let body = serde_json::to_vec(body).unwrap_or_default();
        let signature = self.key.sign(&signed(&path, &body));
        let request = self
            .agent
            .post(format!("{base}{path}"))
            .content_type("application/json")
            .header(KEY_HEADER, hex::encode(self.key.public_key().as_ref()))
            .header(SIGNATURE_HEADER, hex::encode(signature.as_ref()));
        let mut response = match request.send(&body) {
            Ok(response) => response,
            Err(error) => {
                eprintln!("athanor: {base}: {error}");
                return Posted::Lost;
            }
        };
        match response.status().as_u16() {
            204 => Posted::Nothing,
            200 => response
                .body_mut()
                .read_to_vec()
                .ok()
                .and_then(|bytes| serde_json::from_slice(&bytes).ok())
                .map_or(Posted::Lost, Posted::Answer),
            403 => Posted::Refused,
            404 => Posted::Unknown,
            410 => Posted::Over,
            status => {
                eprintln!("athanor: {base} answers {status}: {}", response.body_mut().read_to_string().unwrap_or_default().trim());
                Posted::Lost
            }
        }
    }
}

enum Posted<T> {
    Nothing,
    Answer(T),
    Refused,
    Unknown,
    Over,
    Lost,
}
