//! A drive's own erase: NVMe's Format NVM with its secure erase (NVM Express Base 2.0, 5.14). No I/O: what a drive says of itself comes in.

/// Format NVM.
pub const FORMAT: u8 = 0x80;
/// What Identify is asked of: the namespace, the controller, the namespaces that there are.
pub const NAMESPACE: u32 = 0;
/// See [`NAMESPACE`].
pub const CONTROLLER: u32 = 1;
/// See [`NAMESPACE`].
pub const ACTIVE_NAMESPACES: u32 = 2;

/// Identify Controller: optional admin commands, the second of which is Format NVM.
const OACS: usize = 256;
/// Identify Controller: attributes of a format.
const FNA: usize = 524;
/// FNA: a format, or a secure erase, is one of all namespaces.
const OF_ALL: u8 = 0b11;
/// Identify Controller: whether the drive has more than one controller.
const CMIC: usize = 76;
/// Identify Namespace: the format that it has.
const FLBAS: usize = 26;
/// Identify Namespace: its protection of data.
const DPS: usize = 29;
/// Secure Erase Settings: user data.
const USER_DATA: u32 = 1;

/// The tenth word of the command that erases a namespace and leaves its format as it is.
///
/// # Errors
/// The drive cannot, or would erase what was not asked for; the message says which.
pub fn format(controller: &[u8], namespace: &[u8], namespaces: &[u8]) -> Result<u32, &'static str> {
    let byte = |of: &[u8], at: usize| of.get(at).copied().unwrap_or_default();
    if byte(controller, OACS) & 0b10 == 0 {
        return Err("the drive has no Format NVM");
    }
    let there = namespaces.chunks_exact(4).filter(|number| number.iter().any(|byte| *byte != 0)).count();
    // Another controller, or nobody at the moment, may have namespaces that are not among those that we see.
    let hidden = byte(controller, CMIC) & 0b10 != 0 || byte(controller, OACS) & 0b1000 != 0;
    if (there > 1 || hidden) && byte(controller, FNA) & OF_ALL != 0 {
        return Err("the drive erases all its namespaces at once, and may have others");
    }
    let (format, protection) = (u32::from(byte(namespace, FLBAS)), u32::from(byte(namespace, DPS)));
    // The low four bits of the format's number, and the two above them, stand apart.
    let (low, inline_metadata, high) = (format & 0xF, format >> 4 & 1, format >> 5 & 0b11);
    Ok(low | inline_metadata << 4 | (protection & 0b111) << 5 | (protection >> 3 & 1) << 8 | USER_DATA << 9 | high << 12)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a drive says: bytes at places.
    fn says(bytes: &[(usize, u8)]) -> Vec<u8> {
        let mut page = vec![0; 4096];
        bytes.iter().for_each(|(at, byte)| page[*at] = *byte);
        page
    }

    #[test]
    fn a_namespace_is_erased_in_its_own_format_and_alone() {
        let (able, one, two) = (says(&[(OACS, 0b110)]), says(&[(0, 1)]), says(&[(0, 1), (4, 2)]));
        let plain = says(&[]);
        assert_eq!(format(&able, &plain, &one), Ok(1 << 9));
        // Format 0x25 (5 and 2 × 16), metadata inline, protection type 1 in the first bytes.
        let odd = says(&[(FLBAS, 0b0101_0101), (DPS, 0b1001)]);
        assert_eq!(format(&able, &odd, &two), Ok(5 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 2 << 12));
        assert_eq!(format(&says(&[(OACS, 0b100)]), &plain, &one), Err("the drive has no Format NVM"));
        let all_at_once = says(&[(OACS, 0b10), (FNA, 0b10)]);
        assert_eq!(format(&all_at_once, &plain, &two), Err("the drive erases all its namespaces at once, and may have others"));
        assert_eq!(format(&all_at_once, &plain, &one), Ok(1 << 9));
        assert!(format(&says(&[(OACS, 0b10), (FNA, 0b10), (CMIC, 0b10)]), &plain, &one).is_err(), "of another host");
        assert!(format(&says(&[(OACS, 0b1010), (FNA, 0b01)]), &plain, &one).is_err(), "detached");
        assert!(format(&[], &[], &[]).is_err());
    }
}
