//! UTF-8 checked as it arrives: a text may be cut between any two bytes by fragments and by reads.
//!
//! A wrong byte is found with that byte, not at the end of the text: [`std::str::from_utf8`] tells an incomplete
//! last character from one that no further byte can complete.

/// Where a text stands: the bytes of a last character that has not ended, at most three.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Utf8 {
    pending: [u8; 4],
    pending_count: u8,
}

impl Utf8 {
    /// Continues the text; false when no continuation can make it UTF-8.
    pub(super) fn push(&mut self, mut bytes: &[u8]) -> bool {
        while self.pending_count > 0 {
            let Some((&first, rest)) = bytes.split_first() else { return true };
            bytes = rest;
            match self.complete(first) {
                Some(true) => self.pending_count = 0,
                Some(false) => return false,
                None => {}
            }
        }
        let Err(error) = std::str::from_utf8(bytes) else { return true };
        if error.error_len().is_some() {
            return false;
        }
        for &byte in bytes.get(error.valid_up_to()..).unwrap_or_default() {
            self.hold(byte);
        }
        true
    }

    /// Whether the text may end here.
    pub(super) const fn is_complete(self) -> bool {
        self.pending_count == 0
    }

    /// Adds one byte to the last character: whether it is right now, or not known yet.
    fn complete(&mut self, byte: u8) -> Option<bool> {
        self.hold(byte);
        let character = self.pending.get(..usize::from(self.pending_count)).unwrap_or_default();
        match std::str::from_utf8(character) {
            Ok(_) => Some(true),
            Err(error) if error.error_len().is_some() => Some(false),
            Err(_) => None,
        }
    }

    fn hold(&mut self, byte: u8) {
        if let Some(slot) = self.pending.get_mut(usize::from(self.pending_count)) {
            *slot = byte;
            self.pending_count += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same verdict, at the same byte, as the whole text prefix by prefix.
    fn check(text: &[u8]) {
        let mut incremental = Utf8::default();
        for end in 1..=text.len() {
            let prefix = std::str::from_utf8(&text[..end]);
            let hopeless = prefix.is_err_and(|error| error.error_len().is_some());
            assert_eq!(incremental.push(&text[end - 1..end]), !hopeless, "{text:x?} up to {end}");
            if hopeless {
                return;
            }
            assert_eq!(incremental.is_complete(), prefix.is_ok(), "{text:x?} up to {end}");
        }
    }

    #[test]
    fn every_sequence_of_a_lead_and_boundary_bytes() {
        const FOLLOW: [u8; 12] = [0x00, 0x41, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xed, 0xff];
        for lead in 0..=255u8 {
            for a in FOLLOW {
                for b in FOLLOW {
                    for c in FOLLOW {
                        check(&[lead, a, b, c]);
                    }
                }
            }
        }
    }
}
