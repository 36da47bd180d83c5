//! Measures the binary that `ATHANOR_BIN` names; `make bench` builds it for release. A figure that misses its aim is a failure.
//!
//! ```text
//!   small    what one machine pays for having Athanor: size, memory, processor time, and how soon it answers
//!   fleet    what a fleet costs on a real control plane: planning, changing, enrolling, memory
//!   dhcp     exchanges held, beside Kea and dnsmasq
//!   tftp     one reader and five hundred, near and far and over a link that loses, beside tftpd-hpa, dnsmasq and atftpd
//!   http     images and scripts, beside nginx
//! ```

mod asker;
mod figure;
mod fleet;
mod plane;
mod process;
mod results;
mod small;

use std::process::ExitCode;

use figure::Figure;

/// How many Machines a fleet has, unless somebody says otherwise.
const FLEET: usize = 10_000;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args[..] {
        ["small"] => small::run().and_then(|figures| print("small", &figures)),
        ["fleet"] => fleet::run(FLEET).and_then(|figures| print("fleet", &figures)),
        ["fleet", machines] => {
            machines.parse().map_err(anyhow::Error::from).and_then(fleet::run).and_then(|figures| print("fleet", &figures))
        }
        ["dhcp"] => plane::dhcp::run().and_then(|figures| print("dhcp", &figures)),
        ["tftp"] => plane::tftp::run().and_then(|figures| print("tftp", &figures)),
        ["http"] => plane::http::run().and_then(|figures| print("http", &figures)),
        // What the suites run elsewhere in their rack.
        [asker::COMMAND, mac] => asker::run(mac),
        [plane::reader::COMMAND, ref rest @ ..] => plane::reader::run(rest),
        [plane::getter::COMMAND, ref rest @ ..] => plane::getter::run(rest),
        [plane::dhcp::ECHO] => plane::dhcp::echo(),
        [fleet::API, ref rest @ ..] => fleet::api::run(rest),
        [fleet::FIRMWARE, count] => count.parse().map_err(anyhow::Error::from).and_then(fleet::firmware::run),
        _ => Err(anyhow::anyhow!("which suite? make bench SUITE=small, fleet, dhcp, tftp or http")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn print(suite: &str, figures: &[Figure]) -> anyhow::Result<()> {
    for figure in figures {
        println!("{figure}");
    }
    results::write(suite, figures)?;
    anyhow::ensure!(figures.iter().all(Figure::is_reached), "an aim is missed");
    Ok(())
}
