//! Netlink messages as bytes: headers and attributes, written and read. Knows lengths and padding, and no subsystem of netfilter.

/// A buffer of netlink messages, written front to back.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
}

/// An open attribute or message: where its length will be filled in.
#[must_use]
pub(crate) struct Open(usize);

impl Writer {
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Opens a message with its headers (`nlmsghdr`, `nfgenmsg`; include/uapi/linux/netlink.h, netfilter/nfnetlink.h).
    pub(crate) fn open_message(
        &mut self,
        kind: u16,
        flags: u16,
        sequence: u32,
        family: u8,
        resource: u16,
    ) -> Open {
        let open = Open(self.bytes.len());
        self.bytes.extend_from_slice(&[0; 4]); // length, filled in by close_message
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]); // port: the kernel knows
        self.bytes.extend_from_slice(&[family, 0]); // version 0
        self.bytes.extend_from_slice(&resource.to_be_bytes());
        open
    }

    pub(crate) fn close_message(&mut self, Open(start): Open) {
        let length = u32::try_from(self.bytes.len() - start).unwrap_or(u32::MAX);
        self.fill(start, &length.to_ne_bytes());
    }

    /// Opens an attribute that holds others.
    pub(crate) fn open(&mut self, kind: u16) -> Open {
        const NESTED: u16 = 1 << 15;
        let open = Open(self.bytes.len());
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        open
    }

    pub(crate) fn close(&mut self, Open(start): Open) {
        let length = u16::try_from(self.bytes.len() - start).unwrap_or(u16::MAX);
        self.fill(start, &length.to_ne_bytes());
    }

    /// Writes an attribute of raw bytes, padded to four.
    pub(crate) fn put(&mut self, kind: u16, value: &[u8]) {
        self.put_parts(kind, &[value]);
    }

    /// Writes an attribute whose value is these parts, one after the other, padded to four.
    pub(crate) fn put_parts(&mut self, kind: u16, parts: &[&[u8]]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        for part in parts {
            self.bytes.extend_from_slice(part);
        }
        self.close(Open(start));
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// Writes a number; netfilter takes its numbers in network order.
    pub(crate) fn put_u32(&mut self, kind: u16, value: u32) {
        self.put(kind, &value.to_be_bytes());
    }

    /// Writes a name, ended by a zero byte.
    pub(crate) fn put_name(&mut self, kind: u16, name: &str) {
        self.put_parts(kind, &[name.as_bytes(), &[0]]);
    }

    fn fill(&mut self, start: usize, length: &[u8]) {
        if let Some(place) = self.bytes.get_mut(start..start + length.len()) {
            place.copy_from_slice(length);
        }
    }
}

/// One message as it came from the kernel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    /// All after the `nlmsghdr`.
    pub(crate) body: &'a [u8],
}

impl<'a> Message<'a> {
    /// The attributes after the `nfgenmsg`.
    pub(crate) fn attributes(&self) -> Attributes<'a> {
        Attributes(self.body.get(4..).unwrap_or_default())
    }
}

/// Walks the messages of one datagram; stops at the first that is cut short.
#[derive(Debug)]
pub(crate) struct Messages<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::try_from(u32_ne(self.0.get(0..4)?)).ok()?;
        let message = Message {
            kind: u16_ne(self.0.get(4..6)?),
            flags: u16_ne(self.0.get(6..8)?),
            sequence: u32_ne(self.0.get(8..12)?),
            body: self.0.get(16..length)?,
        };
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    }
}

/// Walks attributes: their number without the flag bits, and their value.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attributes<'a>(pub(crate) &'a [u8]);

/// The attributes that are still to be walked.
#[derive(Debug)]
pub(crate) struct Walk<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    /// The value of the first attribute of that number.
    pub(crate) fn find(self, kind: u16) -> Option<&'a [u8]> {
        self.into_iter().find_map(|(found, value)| (found == kind).then_some(value))
    }

    /// The attributes inside the first attribute of that number.
    pub(crate) fn inside(self, kind: u16) -> Option<Self> {
        self.find(kind).map(Self)
    }

    /// A number in network order.
    pub(crate) fn u32(self, kind: u16) -> Option<u32> {
        self.find(kind)?.try_into().ok().map(u32::from_be_bytes)
    }

    /// A name without its zero byte.
    pub(crate) fn name(self, kind: u16) -> Option<&'a str> {
        std::str::from_utf8(self.find(kind)?).ok().map(|name| name.trim_end_matches('\0'))
    }
}

impl<'a> IntoIterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);
    type IntoIter = Walk<'a>;

    fn into_iter(self) -> Walk<'a> {
        Walk(self.0)
    }
}

impl<'a> Iterator for Walk<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16_ne(self.0.get(0..2)?));
        let kind = u16_ne(self.0.get(2..4)?) & 0x3fff;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

fn u16_ne(bytes: &[u8]) -> u16 {
    bytes.try_into().map_or(0, u16::from_ne_bytes)
}

/// A number in the machine's own order.
pub(crate) fn u32_ne(bytes: &[u8]) -> u32 {
    bytes.try_into().map_or(0, u32::from_ne_bytes)
}
