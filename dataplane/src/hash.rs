//! A hash that is the same in every build and version, which the standard library's do not promise: for names and marks that
//! a later run must find again.

/// FNV-1a, 64 bits.
pub fn stable(bytes: impl IntoIterator<Item = u8>) -> u64 {
    Stable::default().and(bytes).value()
}

/// The same, of bytes that are not all there at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stable(u64);

impl Default for Stable {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Stable {
    /// Takes in more bytes.
    #[must_use]
    pub fn and(self, bytes: impl IntoIterator<Item = u8>) -> Self {
        Self(
            bytes
                .into_iter()
                .fold(self.0, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)),
        )
    }

    /// The hash of all bytes so far.
    pub fn value(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::{Stable, stable};

    /// The test vectors of draft-eastlake-fnv, appendix C.
    #[test]
    fn it_is_fnv_1a() {
        assert_eq!(stable(*b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(stable(*b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(stable(*b"foobar"), 0x8594_4171_f739_67e8);
        assert_eq!(Stable::default().and(*b"foo").and(*b"bar").value(), 0x8594_4171_f739_67e8);
    }
}
