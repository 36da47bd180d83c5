//! Measures the binary that `ATHANOR_BIN` names; `make bench` builds it for release. A figure beyond its limit is a failure.
//!
//! ```text
//!   small    what one machine pays for having Athanor: size, memory, processor time, and how soon it answers
//! ```

mod asker;
mod process;
mod small;

use std::process::ExitCode;

/// A figure and what it must stay below.
struct Figure {
    what: &'static str,
    value: f64,
    limit: f64,
    unit: &'static str,
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let figures = match args[..] {
        ["small"] => small::run(),
        // What `small` runs on another host of its rack.
        [asker::COMMAND, mac] => return report(asker::run(mac)),
        _ => Err(anyhow::anyhow!("which suite? make bench SUITE=small")),
    };
    report(figures.and_then(|figures| print(&figures)))
}

fn report(done: anyhow::Result<()>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn print(figures: &[Figure]) -> anyhow::Result<()> {
    for figure in figures {
        let verdict = if figure.value < figure.limit { "" } else { "   beyond its limit" };
        println!("{:<52} {:>8.2} {:<4} (below {} {}){verdict}", figure.what, figure.value, figure.unit, figure.limit, figure.unit);
    }
    anyhow::ensure!(figures.iter().all(|figure| figure.value < figure.limit), "a figure is beyond its limit");
    Ok(())
}
