//! YAML that people wrote: read, or refused with the place and in words that speak of the file.

use anyhow::anyhow;
use serde::de::DeserializeOwned;

/// A fleet's objects in one file: kubectl has no limit, and what is in memory already costs a hundred times its length at the most.
const MAX_DOCUMENTS: usize = 1_000_000;
/// Likewise.
const MAX_NODES: usize = 50_000_000;

/// The one document of a file.
///
/// # Errors
/// It is no YAML, or more than one document.
pub(crate) fn document<T: DeserializeOwned>(file: &str, text: &str) -> anyhow::Result<T> {
    serde_saphyr::from_str(text).map_err(|error| explain(file, &error))
}

/// Every document of a file.
///
/// # Errors
/// It is no YAML.
pub(crate) fn documents<T: DeserializeOwned>(file: &str, text: &str) -> anyhow::Result<Vec<T>> {
    let budget = serde_saphyr::budget! { max_documents: MAX_DOCUMENTS, max_nodes: MAX_NODES, max_events: 2 * MAX_NODES };
    serde_saphyr::from_multiple_with_options(text, serde_saphyr::options! { budget: budget }).map_err(|error| explain(file, &error))
}

fn explain(file: &str, error: &serde_saphyr::Error) -> anyhow::Error {
    let place = error.location().map(|place| format!("{}:{}: ", place.line(), place.column())).unwrap_or_default();
    let text = error.without_snippet().to_string();
    let line = text.lines().next().unwrap_or("not valid YAML");
    // The library's advice is for programmers, and the place is told already.
    let line = line.split(" at line ").next().unwrap_or(line);
    let line = line.split(", set DuplicateKeyPolicy").next().unwrap_or(line);
    let line = if line.contains("from_multiple") || line.contains("from_str_multiple") {
        "one document is expected, here begins another"
    } else {
        line
    };
    anyhow!("{file}:{place}{line}")
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn what_is_wrong_is_told_once_and_in_words_of_the_file() {
        let refused = |text: &str| document::<Value>("c.yaml", text).unwrap_err().to_string();
        assert_eq!(refused("a: 1\nb: 2\na: 3\n"), "c.yaml:3:1: duplicate mapping key: a");
        assert_eq!(refused("a: 1\n---\nb: 2\n"), "c.yaml:3:1: one document is expected, here begins another");
    }

    #[test]
    fn a_fleet_fits_into_one_file() {
        let text: String = (0..5000).map(|number| format!("---\nname: m{number}\nspec: {{a: 1, b: [1, 2]}}\n")).collect();
        assert_eq!(documents::<Value>("fleet.yaml", &text).unwrap().len(), 5000);
    }
}
