//! Ethernet MAC addresses: any common spelling in, lower case with colons out.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// An EUI-48 hardware address.
///
/// Parses `52:54:00:aa:00:01`, `52-54-00-AA-00-01`, `5254.00aa.0001` and `525400aa0001`; prints the first, lower-case form, which is
/// the only one the API stores.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddr(pub [u8; 6]);

/// The text is not a MAC address in any of the common spellings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a MAC address; write it like 52:54:00:aa:00:01")]
pub struct ParseMacError(String);

impl MacAddr {
    /// Twelve lower-case hexadecimal digits, as object names carry them (`m-525400aa0001`).
    pub fn to_hex(self) -> String {
        crate::hex::encode(&self.0)
    }

    /// Whether one station can own it: neither a group address nor all zeros.
    pub fn is_unicast(self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MacAddr {
    type Err = ParseMacError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fail = || ParseMacError(text.chars().take(40).collect());
        let groups: Vec<&str> = text.split([':', '-', '.']).collect();
        let width = match groups.len() {
            6 => 2,
            3 => 4,
            1 => 12,
            _ => return Err(fail()),
        };
        // One separator throughout: `52:54-00…` is a typing mistake, not a spelling.
        let mixed = text.chars().filter(|c| [':', '-', '.'].contains(c)).collect::<std::collections::BTreeSet<_>>().len() > 1;
        if mixed || groups.iter().any(|group| group.len() != width || !group.bytes().all(|b| b.is_ascii_hexdigit())) {
            return Err(fail());
        }
        let value = u64::from_str_radix(&groups.concat(), 16).map_err(|_| fail())?;
        let [_, _, bytes @ ..] = value.to_be_bytes();
        Ok(Self(bytes))
    }
}

impl Serialize for MacAddr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MacAddr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(feature = "schemars")]
impl schemars::JsonSchema for MacAddr {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "MacAddr".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        // A rule and not a pattern: its message says how to write one.
        schemars::json_schema!({
            "type": "string",
            "maxLength": 17,
            "x-kubernetes-validations": [{
                "rule": "self.matches('^([0-9a-f]{2}:){5}[0-9a-f]{2}$')",
                "message": "must be a MAC address in lower case with colons, like 52:54:00:aa:00:01"
            }, {
                "rule": "!self.matches('^.[13579bdf]') && self != '00:00:00:00:00:00'",
                "message": "must be the address of one station, not of a group and not all zeros"
            }]
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_common_spelling_is_the_same_address() {
        for text in ["52:54:00:aa:00:01", "52-54-00-AA-00-01", "5254.00aa.0001", "525400AA0001"] {
            assert_eq!(text.parse::<MacAddr>().unwrap().to_string(), "52:54:00:aa:00:01", "{text}");
        }
    }

    #[test]
    fn what_is_not_a_mac_says_how_to_write_one() {
        for text in ["", "52:54:00:aa:00", "52:54:00:aa:00:0g", "52:54-00:aa:00:01", "+25400aa0001", "52:54:00:aa:00:01:02"] {
            let error = text.parse::<MacAddr>().unwrap_err().to_string();
            assert_eq!(error, format!("{text:?} is not a MAC address; write it like 52:54:00:aa:00:01"));
        }
    }

    #[test]
    fn group_addresses_belong_to_no_machine() {
        assert!(!MacAddr([0xff; 6]).is_unicast());
        assert!(!MacAddr([0; 6]).is_unicast());
        assert!(MacAddr([0x52, 0x54, 0, 0, 0, 1]).is_unicast());
    }

    proptest! {
        #[test]
        fn what_is_printed_parses_back(bytes: [u8; 6]) {
            let mac = MacAddr(bytes);
            prop_assert_eq!(mac.to_string().parse::<MacAddr>().unwrap(), mac);
            prop_assert_eq!(mac.to_hex().parse::<MacAddr>().unwrap(), mac);
            prop_assert_eq!(mac.to_string().replace(':', "-").parse::<MacAddr>().unwrap(), mac);
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,40}") {
            let _ = text.parse::<MacAddr>();
        }
    }
}
