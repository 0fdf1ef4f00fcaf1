//! Messages with their length in front (RFC 9000, 16), out of pieces of a stream.

/// Bytes of the longest message that anyone sends here.
const MESSAGE_BYTES_MAX: usize = 2 * 1024 * 1024;

/// A length that no message has.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLong;

/// Appends a message with its length, in two bytes up to 16 KiB and in four beyond, as the broker writes it.
pub(super) fn push_message(out: &mut Vec<u8>, message: &[u8]) {
    match u16::try_from(message.len()) {
        Ok(length) if length < 1 << 14 => out.extend_from_slice(&(length | 0x4000).to_be_bytes()),
        _ => {
            let length = u32::try_from(message.len()).unwrap_or(u32::MAX) & 0x3fff_ffff;
            out.extend_from_slice(&(length | 0x8000_0000).to_be_bytes());
        }
    }
    out.extend_from_slice(message);
}

/// The start of an unfinished message.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    rest: Vec<u8>,
}

impl Assembler {
    /// Hands each message that is complete with this piece to `take`.
    ///
    /// # Errors
    /// When a message is longer than any is.
    pub(super) fn feed(&mut self, piece: &[u8], mut take: impl FnMut(&[u8])) -> Result<(), TooLong> {
        if self.rest.is_empty() {
            let taken = walk(piece, &mut take)?;
            self.rest.extend_from_slice(&piece[taken..]);
        } else {
            self.rest.extend_from_slice(piece);
            let taken = walk(&self.rest, &mut take)?;
            self.rest.drain(..taken);
        }
        Ok(())
    }
}

fn walk(bytes: &[u8], take: &mut impl FnMut(&[u8])) -> Result<usize, TooLong> {
    let mut at = 0;
    while let Some((length, header_bytes)) = length(&bytes[at..]) {
        if length > MESSAGE_BYTES_MAX as u64 {
            return Err(TooLong);
        }
        let start = at + header_bytes;
        let end = start + usize::try_from(length).map_err(|_| TooLong)?;
        let Some(message) = bytes.get(start..end) else { break };
        take(message);
        at = end;
    }
    Ok(at)
}

/// The length in front, and the bytes it takes.
fn length(bytes: &[u8]) -> Option<(u64, usize)> {
    let first = *bytes.first()?;
    let taken = 1 << (first >> 6);
    let rest = bytes.get(1..taken)?;
    Some((rest.iter().fold(u64::from(first & 0x3f), |sum, &byte| sum << 8 | u64::from(byte)), taken))
}

#[cfg(test)]
mod tests {
    use super::*;
    use waspmq_protocol::stream;

    #[test]
    fn messages_are_found_however_the_stream_is_cut_and_as_the_protocol_lays_them_out() {
        let messages = [vec![b'a'; 3], vec![], vec![b'b'; 16_383], vec![b'c'; 16_384], vec![b'd'; 70_000]];
        let (mut own, mut theirs) = (Vec::new(), Vec::new());
        for message in &messages {
            push_message(&mut own, message);
            let start = stream::begin(&mut theirs);
            theirs.extend_from_slice(message);
            stream::end(&mut theirs, start);
        }
        assert!(own == theirs);
        for step in [7, 1_199, 65_536, own.len()] {
            let (mut assembler, mut seen) = (Assembler::default(), Vec::new());
            for piece in own.chunks(step) {
                assembler.feed(piece, |message| seen.push(message.to_vec())).unwrap();
            }
            assert!(seen == messages && assembler.rest.is_empty(), "{step}");
        }
    }

    #[test]
    fn lengths_of_any_width_are_read_and_excessive_ones_are_not() {
        for header in [&[3][..], &[0x40, 3], &[0x80, 0, 0, 3], &[0xc0, 0, 0, 0, 0, 0, 0, 3]] {
            let mut seen = Vec::new();
            let bytes = [header, b"abc"].concat();
            Assembler::default().feed(&bytes, |message| seen.push(message.to_vec())).unwrap();
            assert_eq!(seen, [b"abc"]);
        }
        assert_eq!(Assembler::default().feed(&[0xbf, 0xff, 0xff, 0xff], |_| {}), Err(TooLong));
    }
}
