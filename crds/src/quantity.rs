//! Kubernetes quantities for sizes: `32Gi`, `200G`, `8192Mi`.

/// Parses a size in bytes. Understands plain numbers and the suffixes k, M, G, T, P and Ki, Mi, Gi, Ti, Pi.
///
/// Returns `None` for what is not a size; the CRD's pattern has refused that before.
pub fn parse_bytes(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let factor: u64 = match suffix {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "P" => 1_000_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        "Pi" => 1 << 50,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// The schema of such a size.
pub(crate) fn schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "string", "maxLength": 20, "pattern": "^[0-9]+(k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_mean_what_kubernetes_means_by_them() {
        for (text, bytes) in [("0", 0), ("32Gi", 32 << 30), ("200G", 200_000_000_000), ("8192Mi", 8192 << 20)] {
            assert_eq!(parse_bytes(text), Some(bytes), "{text}");
        }
        for text in ["", "Gi", "12 Gi", "1.5Gi", "99999999999999999999", "20000Pi"] {
            assert_eq!(parse_bytes(text), None, "{text}");
        }
    }
}
