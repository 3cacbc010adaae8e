//! How large the pages of a Parquet column become: asked before the reader allocates what they say.
//!
//! ```text
//!   column chunk:  header │ page │ header │ page │ …       header: a struct of compact Thrift, of which only
//!                                                          2: uncompressed size, 3: compressed size  are of interest
//! ```

/// Structs in structs that are skipped; the ones we know have three levels.
const LEVELS_MAX: usize = 8;

/// Adds up the uncompressed sizes of the pages of a column chunk; `None` if they cannot be walked over.
pub(super) fn uncompressed_bytes(chunk: &[u8]) -> Option<u64> {
    let (mut rest, mut sum) = (Reader(chunk), 0u64);
    while !rest.0.is_empty() {
        let (uncompressed, compressed) = rest.page_header()?;
        sum = sum.checked_add(uncompressed)?;
        rest.take(usize::try_from(compressed).ok()?)?;
    }
    Some(sum)
}

struct Reader<'c>(&'c [u8]);

impl<'c> Reader<'c> {
    fn take(&mut self, count: usize) -> Option<&'c [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        Some(self.take(1)?[0])
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// A number with a sign, which must not be negative here.
    fn size(&mut self) -> Option<u64> {
        let coded = self.varint()?;
        (coded & 1 == 0).then_some(coded >> 1)
    }

    /// The next field of a struct: its number and its type; `Some(None)` at the end.
    fn field(&mut self, before: i64) -> Option<Option<(i64, u8)>> {
        let byte = self.byte()?;
        if byte == 0 {
            return Some(None);
        }
        let number = match byte >> 4 {
            0 => {
                let coded = self.varint()?;
                (coded >> 1) as i64 ^ -((coded & 1) as i64)
            }
            more => before + i64::from(more),
        };
        Some(Some((number, byte & 0x0f)))
    }

    fn page_header(&mut self) -> Option<(u64, u64)> {
        let (mut number, mut uncompressed, mut compressed) = (0, None, None);
        while let Some((next, kind)) = self.field(number)? {
            number = next;
            match (next, kind) {
                (2, 5) => uncompressed = Some(self.size()?),
                (3, 5) => compressed = Some(self.size()?),
                _ => self.skip(kind, LEVELS_MAX)?,
            }
        }
        Some((uncompressed?, compressed?))
    }

    fn skip(&mut self, kind: u8, levels: usize) -> Option<()> {
        let levels = levels.checked_sub(1)?;
        match kind {
            1 | 2 => {}
            3 => {
                self.byte()?;
            }
            4..=6 => {
                self.varint()?;
            }
            7 => {
                self.take(8)?;
            }
            8 => {
                let length = usize::try_from(self.varint()?).ok()?;
                self.take(length)?;
            }
            9 | 10 => {
                let head = self.byte()?;
                let count = if head >> 4 == 15 { self.varint()? } else { u64::from(head >> 4) };
                for _ in 0..count {
                    // In a list a truth value takes a byte.
                    let kind = if matches!(head & 0x0f, 1 | 2) { 3 } else { head & 0x0f };
                    self.skip(kind, levels)?;
                }
            }
            12 => {
                let mut number = 0;
                while let Some((next, kind)) = self.field(number)? {
                    number = next;
                    self.skip(kind, levels)?;
                }
            }
            // Page headers have no maps.
            _ => return None,
        }
        Some(())
    }
}
