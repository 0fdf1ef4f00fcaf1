//! The XOR with a client's masking key (RFC 6455, 5.3). Eight bytes a step, which the compiler widens further.

/// Applies `key` to `bytes`, whose first byte is byte `offset` of the payload. Its own inverse.
pub(super) fn apply(bytes: &mut [u8], key: [u8; 4], offset: usize) {
    let mut turned = key;
    turned.rotate_left(offset % 4);
    let [a, b, c, d] = turned;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (blocks, rest) = bytes.as_chunks_mut::<8>();
    for block in blocks {
        *block = (u64::from_ne_bytes(*block) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(wide.to_ne_bytes()) {
        *byte ^= key;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_the_definition_for_every_length_and_offset() {
        let key = [0x37, 0xfa, 0x21, 0x3d];
        for length in 0..70usize {
            for offset in 0..9 {
                let plain: Vec<u8> = (0..length).map(|i| u8::try_from(i * 7 % 251).unwrap()).collect();
                let expected: Vec<u8> =
                    plain.iter().enumerate().map(|(i, byte)| byte ^ key[(i + offset) % 4]).collect();
                let mut masked = plain.clone();
                apply(&mut masked, key, offset);
                assert_eq!(masked, expected, "length {length}, offset {offset}");
            }
        }
    }
}
