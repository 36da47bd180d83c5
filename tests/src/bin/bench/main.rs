//! Measures the binary that `ATHANOR_BIN` names; `make bench` builds it for release. A figure that misses its aim is a failure.
//!
//! ```text
//!   small    what one machine pays for having Athanor: size, memory, processor time, and how soon it answers
//!   fleet    what a fleet costs on a real control plane: planning, changing, enrolling, memory
//! ```

mod asker;
mod fleet;
mod process;
mod results;
mod small;

use std::process::ExitCode;

/// How many Machines a fleet has, unless somebody says otherwise.
const FLEET: usize = 10_000;

/// What a figure must reach.
#[derive(Debug, Clone, Copy)]
enum Aim {
    Below(f64),
    AtLeast(f64),
    /// It is only told.
    None,
}

/// A figure and its aim.
struct Figure {
    what: String,
    value: f64,
    aim: Aim,
    unit: &'static str,
}

impl Figure {
    fn is_reached(&self) -> bool {
        match self.aim {
            Aim::Below(limit) => self.value < limit,
            Aim::AtLeast(limit) => self.value >= limit,
            Aim::None => true,
        }
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args[..] {
        ["small"] => small::run().and_then(|figures| print("small", &figures)),
        ["fleet"] => fleet::run(FLEET).and_then(|figures| print("fleet", &figures)),
        ["fleet", machines] => {
            machines.parse().map_err(anyhow::Error::from).and_then(fleet::run).and_then(|figures| print("fleet", &figures))
        }
        // What the suites run elsewhere in their rack.
        [asker::COMMAND, mac] => asker::run(mac),
        [fleet::API, ref rest @ ..] => fleet::api::run(rest),
        [fleet::FIRMWARE, count] => count.parse().map_err(anyhow::Error::from).and_then(fleet::firmware::run),
        _ => Err(anyhow::anyhow!("which suite? make bench SUITE=small, or SUITE=fleet")),
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
        let aim = match figure.aim {
            Aim::Below(limit) => format!("(below {limit:.2} {})", figure.unit),
            Aim::AtLeast(limit) => format!("(at least {limit:.2} {})", figure.unit),
            Aim::None => String::new(),
        };
        let verdict = if figure.is_reached() { "" } else { "   missed" };
        println!("{:<60} {:>9.3} {:<3} {aim}{verdict}", figure.what, figure.value, figure.unit);
    }
    results::write(suite, figures)?;
    anyhow::ensure!(figures.iter().all(Figure::is_reached), "an aim is missed");
    Ok(())
}
