//! The figures as a file, for who compares them: `target/bench/results.json`, a list with a row for each, whatever suites were run.

use std::{fs, path::PathBuf};

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::figure::Figure;

/// Replaces a suite's rows.
pub(crate) fn write(suite: &str, figures: &[Figure]) -> anyhow::Result<()> {
    let path = path()?;
    let before: Vec<Value> = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    let mut rows: Vec<Value> = before.into_iter().filter(|row| row["suite"] != suite).collect();
    rows.extend(figures.iter().map(|figure| {
        let peer = figure.peer.as_ref();
        json!({
            "suite": suite, "row": figure.what, "unit": figure.unit, "ours": figure.value, "peer": peer.map(|peer| peer.value),
            "peer_name": peer.map(|peer| peer.name.as_str()), "ratio": figure.ratio(), "aim": figure.aim()
        })
    }));
    fs::create_dir_all(path.parent().context("no folder")?)?;
    fs::write(&path, serde_json::to_vec_pretty(&rows)?).with_context(|| path.display().to_string())?;
    println!("{}", path.display());
    Ok(())
}

/// Beside the folder that this program was built into.
fn path() -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe()?;
    let target = program.parent().and_then(|folder| folder.parent()).context("the bench was not built by Cargo")?;
    Ok(target.join("bench/results.json"))
}
