//! A client that asks DHCP every few milliseconds until somebody answers, and prints when that was.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, bail};
use athanor_tests::FirmwareClient;

/// The word with which the bench starts itself as this client.
pub(crate) const COMMAND: &str = "ask-dhcp";
/// How often it asks: the measure cannot be finer.
const PAUSE: Duration = Duration::from_millis(5);
/// When it gives up.
const PATIENCE: Duration = Duration::from_secs(30);

/// Asks until answered; prints the time of the answer in seconds since the epoch.
pub(crate) fn run(mac: &str) -> anyhow::Result<()> {
    let mac: athanor_wire::MacAddr = mac.parse()?;
    let client = FirmwareClient::new(mac)?;
    client.socket.set_read_timeout(Some(PAUSE))?;
    let began = Instant::now();
    println!("asking");
    while began.elapsed() < PATIENCE {
        if client.ask() {
            println!("{}", SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).context("the clock")?.as_secs_f64());
            return Ok(());
        }
    }
    bail!("no DHCP answer within {} s", PATIENCE.as_secs())
}
