//! Partition tables, as bytes: GPT (UEFI 2.10 chapter 5) and the four entries of an MBR. What is changed is changed in memory; whoever calls
//! writes it, and writes it last.

/// A GPT with its entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpt {
    header: Vec<u8>,
    entries: Vec<u8>,
    entry_size: usize,
    block: u64,
}

/// A partition in bytes from the disk's beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Its first byte.
    pub start: u64,
    /// The byte behind its last.
    pub end: u64,
}

/// Why a table cannot be changed as wished.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// All entries are used.
    #[error("its partition table has no free entry")]
    Full,
    /// A partition is where another should go.
    #[error("its last partition ends at byte {end}, beyond byte {limit}")]
    NoRoom {
        /// Where the last partition ends.
        end: u64,
        /// Where it had to end.
        limit: u64,
    },
}

const SIGNATURE: &[u8] = b"EFI PART";
/// Linux filesystem data, which installers and cloud-init expect of a partition with files.
const BASIC_DATA: [u8; 16] = [0xA2, 0xA0, 0xD0, 0xEB, 0xE5, 0xB9, 0x33, 0x44, 0x87, 0xC0, 0x68, 0xB6, 0xB7, 0x26, 0x99, 0xC7];
/// The most bytes of entries that are read: 128 entries of 512 bytes.
const MAX_ENTRIES: usize = 64 << 10;

fn number(bytes: &[u8], at: usize, size: usize) -> u64 {
    bytes.get(at..at + size).unwrap_or_default().iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

fn put(bytes: &mut [u8], at: usize, value: u64, size: usize) {
    bytes[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
}

impl Gpt {
    /// Reads the primary table out of a disk's first bytes. `None` where there is none, or a broken one.
    pub fn parse(head: &[u8], block: u32) -> Option<Self> {
        let block = u64::from(block);
        let start = usize::try_from(block).ok()?;
        let header_size = usize::try_from(number(head, start + 12, 4)).ok().filter(|size| (92..=512).contains(size))?;
        let header = head.get(start..start + header_size)?.to_vec();
        if !header.starts_with(SIGNATURE) || checksum(&header) != number(&header, 16, 4) {
            return None;
        }
        let (count, entry_size) = (usize::try_from(number(&header, 80, 4)).ok()?, usize::try_from(number(&header, 84, 4)).ok()?);
        let size = count.checked_mul(entry_size).filter(|size| *size <= MAX_ENTRIES && entry_size >= 128)?;
        let place = usize::try_from(number(&header, 72, 8).checked_mul(block)?).ok()?;
        let entries = head.get(place..place.checked_add(size)?)?.to_vec();
        (u64::from(crc32fast::hash(&entries)) == number(&header, 88, 4)).then_some(Self { header, entries, entry_size, block })
    }

    fn used(&self) -> impl Iterator<Item = (usize, Extent)> + '_ {
        self.entries.chunks_exact(self.entry_size).enumerate().filter(|(_, entry)| entry[..16].iter().any(|byte| *byte != 0)).map(
            |(index, entry)| {
                let (first, last) = (number(entry, 32, 8), number(entry, 40, 8));
                let bytes = |blocks: u64| blocks.saturating_mul(self.block);
                (index, Extent { start: bytes(first), end: bytes(last.saturating_add(1)) })
            },
        )
    }

    /// The partitions.
    pub fn partitions(&self) -> Vec<Extent> {
        self.used().map(|(_, extent)| extent).collect()
    }

    /// Fits the table to a disk of so many bytes: its backup goes to the disk's end.
    pub fn fit(&mut self, disk: u64) {
        let last = disk / self.block - 1;
        let entries = (self.entries.len() as u64).div_ceil(self.block);
        put(&mut self.header, 32, last, 8);
        put(&mut self.header, 48, last - entries - 1, 8);
    }

    /// Lets the last partition end at a byte.
    ///
    /// # Errors
    /// It ends beyond that already.
    pub fn grow_last(&mut self, limit: u64) -> Result<(), TableError> {
        let Some((index, last)) = self.used().max_by_key(|(_, extent)| extent.end) else { return Ok(()) };
        if last.end > limit {
            return Err(TableError::NoRoom { end: last.end, limit });
        }
        put(&mut self.entries, index * self.entry_size + 40, limit / self.block - 1, 8);
        Ok(())
    }

    /// Adds a partition with a name, after all others.
    ///
    /// # Errors
    /// There is no free entry, or one of the others is in the way.
    pub fn add(&mut self, extent: Extent, name: &str, id: [u8; 16]) -> Result<(), TableError> {
        if let Some((_, other)) = self.used().find(|(_, other)| other.end > extent.start) {
            return Err(TableError::NoRoom { end: other.end, limit: extent.start });
        }
        let free = self.entries.chunks_exact_mut(self.entry_size).find(|entry| entry[..16].iter().all(|byte| *byte == 0));
        let entry = free.ok_or(TableError::Full)?;
        entry[..16].copy_from_slice(&BASIC_DATA);
        entry[16..32].copy_from_slice(&id);
        put(entry, 32, extent.start / self.block, 8);
        put(entry, 40, extent.end / self.block - 1, 8);
        for (index, unit) in name.encode_utf16().take(36).enumerate() {
            put(entry, 56 + 2 * index, u64::from(unit), 2);
        }
        Ok(())
    }

    /// Puts the primary table into a disk's first bytes.
    pub fn put_primary(&self, head: &mut [u8]) {
        let mut header = self.header.clone();
        let place = number(&header, 72, 8);
        put(&mut header, 24, 1, 8);
        self.seal(&mut header, place);
        let (start, at) = (self.block as usize, (place * self.block) as usize);
        head[start..start + header.len()].copy_from_slice(&header);
        head[at..at + self.entries.len()].copy_from_slice(&self.entries);
        // The protective entry of the MBR covers the disk, as far as it can say.
        if head.get(450) == Some(&0xEE) {
            put(head, 458, number(&header, 32, 8).min(u64::from(u32::MAX)), 4);
        }
    }

    /// The backup table: where it goes, and its bytes.
    pub fn backup(&self) -> (u64, Vec<u8>) {
        let last = number(&self.header, 32, 8);
        let place = last - (self.entries.len() as u64).div_ceil(self.block);
        let mut header = self.header.clone();
        put(&mut header, 24, last, 8);
        put(&mut header, 32, 1, 8);
        self.seal(&mut header, place);
        let mut bytes = self.entries.clone();
        bytes.resize(((last - place) * self.block) as usize, 0);
        header.resize(self.block as usize, 0);
        bytes.extend(header);
        (place * self.block, bytes)
    }

    fn seal(&self, header: &mut [u8], place: u64) {
        put(header, 72, place, 8);
        put(header, 88, u64::from(crc32fast::hash(&self.entries)), 4);
        let sum = checksum(header);
        put(header, 16, sum, 4);
    }
}

fn checksum(header: &[u8]) -> u64 {
    let mut bytes = header.to_vec();
    put(&mut bytes, 16, 0, 4);
    u64::from(crc32fast::hash(&bytes))
}

/// The partitions of an MBR that is not a GPT's protective one; `None` where there is no MBR.
pub fn mbr(head: &[u8]) -> Option<Vec<Extent>> {
    let entries = head.get(446..510)?.chunks_exact(16);
    if head.get(510..512)? != [0x55, 0xAA] || entries.clone().any(|entry| entry[4] == 0xEE || entry[0] & 0x7F != 0) {
        return None;
    }
    let extent = |entry: &[u8]| {
        let (start, size) = (number(entry, 8, 4) * 512, number(entry, 12, 4) * 512);
        (entry[4] != 0 && size > 0).then_some(Extent { start, end: start + size })
    };
    Some(entries.filter_map(extent).collect())
}

/// Lets the last partition of an MBR end at a byte, as far as 32 bits reach.
///
/// # Errors
/// It ends beyond that already.
pub fn grow_last_of_mbr(head: &mut [u8], limit: u64) -> Result<(), TableError> {
    let entries = head[446..510].chunks_exact_mut(16).filter(|entry| entry[4] != 0);
    let Some(last) = entries.max_by_key(|entry| number(entry, 8, 4)) else { return Ok(()) };
    let (start, size) = (number(last, 8, 4), number(last, 12, 4));
    let wanted = (limit / 512).min(u64::from(u32::MAX)).saturating_sub(start);
    if size > wanted {
        return Err(TableError::NoRoom { end: (start + size) * 512, limit });
    }
    put(last, 12, wanted, 4);
    Ok(())
}

/// Adds a partition to an MBR, after all others.
///
/// # Errors
/// There is no free entry, or one of the others is in the way.
pub fn add_to_mbr(head: &mut [u8], extent: Extent) -> Result<(), TableError> {
    if let Some(other) = mbr(head).unwrap_or_default().into_iter().find(|other| other.end > extent.start) {
        return Err(TableError::NoRoom { end: other.end, limit: extent.start });
    }
    let beyond = extent.end / 512 > u64::from(u32::MAX);
    let free = head[446..510].chunks_exact_mut(16).find(|entry| entry[4] == 0).filter(|_| !beyond).ok_or(TableError::Full)?;
    // No address in cylinders: what reads LBA ignores it (as all have done for 25 years).
    free[..8].copy_from_slice(&[0, 0xFE, 0xFF, 0xFF, 0x0C, 0xFE, 0xFF, 0xFF]);
    put(free, 8, extent.start / 512, 4);
    put(free, 12, (extent.end - extent.start) / 512, 4);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// A disk of 64 MiB with one partition of 8 MiB, as `sgdisk` would make it.
    pub(crate) fn head(block: u32) -> Vec<u8> {
        let size = u64::from(block);
        let mut entries = vec![0; 128 * 128];
        entries[..16].copy_from_slice(&BASIC_DATA);
        put(&mut entries, 32, MIB / size, 8);
        put(&mut entries, 40, 9 * MIB / size - 1, 8);
        let mut header = vec![0; 92];
        header[..8].copy_from_slice(SIGNATURE);
        put(&mut header, 8, 0x10000, 4);
        put(&mut header, 12, 92, 4);
        put(&mut header, 24, 1, 8);
        put(&mut header, 32, 64 * MIB / size - 1, 8);
        put(&mut header, 40, 6, 8);
        put(&mut header, 72, 2, 8);
        put(&mut header, 80, 128, 4);
        put(&mut header, 84, 128, 4);
        let gpt = Gpt { header, entries, entry_size: 128, block: size };
        let mut head = vec![0; MIB as usize];
        (head[450], head[510], head[511]) = (0xEE, 0x55, 0xAA);
        gpt.put_primary(&mut head);
        head
    }

    #[test]
    fn a_table_is_fitted_grown_and_added_to() {
        for block in [512, 4096] {
            let mut bytes = head(block);
            let mut gpt = Gpt::parse(&bytes, block).unwrap();
            assert_eq!(gpt.partitions(), [Extent { start: MIB, end: 9 * MIB }]);
            let disk = 1024 * MIB;
            gpt.fit(disk);
            gpt.grow_last(1000 * MIB).unwrap();
            let config = Extent { start: 1000 * MIB, end: 1008 * MIB };
            gpt.add(config, "config-2", [7; 16]).unwrap();
            gpt.put_primary(&mut bytes);
            let again = Gpt::parse(&bytes, block).unwrap();
            assert_eq!(again.partitions(), [Extent { start: MIB, end: 1000 * MIB }, config]);
            let (place, backup) = gpt.backup();
            assert_eq!(place + backup.len() as u64, disk, "the backup ends where the disk ends");
            let header = &backup[backup.len() - block as usize..];
            assert!(header.starts_with(SIGNATURE));
            assert_eq!(number(header, 72, 8) * u64::from(block), place);
            assert_eq!(checksum(&header[..92]), number(header, 16, 4));
            assert_eq!(
                gpt.add(Extent { start: 900 * MIB, end: 901 * MIB }, "x", [8; 16]),
                Err(TableError::NoRoom { end: 1000 * MIB, limit: 900 * MIB })
            );
        }
    }

    #[test]
    fn a_broken_table_is_none() {
        let mut bytes = head(512);
        assert!(Gpt::parse(&bytes, 4096).is_none());
        bytes[1024] ^= 1;
        assert!(Gpt::parse(&bytes, 512).is_none(), "an entry changed");
        assert!(Gpt::parse(&[0; 512], 512).is_none());
        let mut huge = head(512);
        put(&mut huge, 512 + 80, u64::from(u32::MAX), 4);
        let sum = checksum(&huge[512..604]);
        put(&mut huge, 512 + 16, sum, 4);
        assert!(Gpt::parse(&huge, 512).is_none(), "four billion entries");
    }

    #[test]
    fn an_mbr_is_grown_and_added_to() {
        let mut bytes = vec![0; 512];
        (bytes[510], bytes[511], bytes[450]) = (0x55, 0xAA, 0x83);
        put(&mut bytes, 454, 2048, 4);
        put(&mut bytes, 458, 2048, 4);
        grow_last_of_mbr(&mut bytes, 10 * MIB).unwrap();
        add_to_mbr(&mut bytes, Extent { start: 10 * MIB, end: 18 * MIB }).unwrap();
        assert_eq!(mbr(&bytes).unwrap(), [Extent { start: MIB, end: 10 * MIB }, Extent { start: 10 * MIB, end: 18 * MIB }]);
        assert!(add_to_mbr(&mut bytes, Extent { start: 17 * MIB, end: 18 * MIB }).is_err());
        assert!(mbr(&head(512)).is_none(), "a protective MBR is none of ours");
    }
}
