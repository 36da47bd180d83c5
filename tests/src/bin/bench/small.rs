//! What one machine pays for having Athanor.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    process::Stdio,
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use athanor_tests::{Rack, Service, service, wait_for};

use super::{
    asker,
    figure::{Aim, Figure},
    process,
};

/// How long the idle load is watched.
const WATCH: Duration = Duration::from_secs(30);
/// A lab of this size must fit.
const MACHINES: usize = 1000;
/// The probe for other DHCP servers takes five seconds.
const PROBED: Duration = Duration::from_secs(15);

pub(crate) fn run() -> anyhow::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let mut measure = |what: &str, value, limit, unit| figures.push(Figure::own(what, value, Aim::Below(limit), unit));
    measure("binary", fs::metadata(service::binary()?)?.len() as f64 / 1e6, 40.0, "MB");
    let rack = Rack::up()?;
    let mut service = Service::start(&rack)?;
    wait_for("a verdict", PROBED, || match service.get("subnet", "lab") {
        Ok(subnet) if subnet["status"]["servers"][0]["authority"] == "Alone" => Ok(()),
        Ok(subnet) => Err(subnet["status"].to_string()),
        Err(error) => Err(error.to_string()),
    })?;
    measure("resident, nothing in it", process::resident_mb(pid(&service)?)?, 40.0, "MB");
    measure("processor, nothing in it", process::load_percent(pid(&service)?, WATCH)?, 1.0, "%");
    measure("from start to the first DHCP answer", first_answer(&rack, &mut service)?, 0.5, "s");
    fill(&rack, &service)?;
    measure("processor, 1,000 Machines", process::load_percent(pid(&service)?, WATCH)?, 1.0, "%");
    measure("resident, 1,000 Machines", process::resident_mb(pid(&service)?)?, 64.0, "MB");
    service.kill();
    service.restart()?;
    // Every Machine is looked at once after a start.
    process::load_percent(pid(&service)?, Duration::from_secs(5))?;
    measure("processor, 1,000 Machines, started anew", process::load_percent(pid(&service)?, WATCH)?, 1.0, "%");
    measure("resident, 1,000 Machines, started anew", process::resident_mb(pid(&service)?)?, 64.0, "MB");
    Ok(figures)
}

fn pid(service: &Service<'_>) -> anyhow::Result<u32> {
    service.pid().context("the services do not run")
}

/// A known machine asks while the services are started, with a kept verdict that nobody else is there.
fn first_answer(rack: &Rack, service: &mut Service<'_>) -> anyhow::Result<f64> {
    let host = rack.neighbour("192.168.10.77/24")?;
    let mac = host.mac()?;
    service.ctl(&format!("create machine asker --mac {mac}"))?;
    service.wait("machine", "asker", 10, |machine| machine["status"]["address"].is_string())?;
    service.kill();
    let mut command = host.command(std::env::current_exe()?);
    let mut asking = athanor_tests::rack::Process(command.args([asker::COMMAND, &mac]).stdout(Stdio::piped()).spawn()?);
    let mut said = BufReader::new(asking.0.stdout.take().context("no output")?);
    said.read_line(&mut String::new())?;
    let began = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs_f64();
    service.restart()?;
    let mut answered = String::new();
    said.read_to_string(&mut answered)?;
    Ok(answered.trim().parse::<f64>().context("the asker was not answered")? - began)
}

fn fill(rack: &Rack, service: &Service<'_>) -> anyhow::Result<()> {
    let subnet = "apiVersion: metal.athanor.dev/v1alpha1\nkind: Subnet\nmetadata: {name: big}\n\
                  spec: {mode: dhcp, cidr: 10.77.0.0/20, ranges: [{from: 10.77.1.0, to: 10.77.15.0}]}\n";
    let mut file = subnet.to_owned();
    for number in 0..MACHINES {
        let (high, low) = (number / 256, number % 256);
        file.push_str(&format!(
            "---\napiVersion: metal.athanor.dev/v1alpha1\nkind: Machine\nmetadata:\n  name: m{number}\n  \
             labels: {{rack: r{}, metal.athanor.dev/subnet: big}}\nspec:\n  accepted: true\n  architecture: amd64\n  firmware: UEFI\n  \
             interfaces: [{{mac: \"52:54:01:00:{high:02x}:{low:02x}\", boot: true}}]\n",
            number / 40
        ));
    }
    fs::write(rack.file("many.yaml"), file)?;
    service.ctl(&format!("apply -f {}", rack.file("many.yaml").display()))?;
    wait_for("every Machine available", Duration::from_secs(120), || {
        let table = service.ctl("get machines").map_err(|error| error.to_string())?;
        let available = table.lines().filter(|line| line.contains("Available") && line.contains("10.77.")).count();
        if available == MACHINES { Ok(()) } else { Err(format!("{available} of {MACHINES}")) }
    })
}
