//! Base 36 of big-endian bytes, as join tokens spell digests.

const ALPHABET: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

/// `bytes` as a base-36 number, padded on the left with zeros to `width` digits.
pub(crate) fn encode(bytes: &[u8], width: usize) -> String {
    let mut number = bytes.to_vec();
    let mut digits = Vec::with_capacity(width);
    while number.iter().any(|&b| b != 0) {
        let mut remainder = 0u32;
        for byte in &mut number {
            let value = remainder << 8 | u32::from(*byte);
            *byte = (value / 36) as u8;
            remainder = value % 36;
        }
        digits.push(ALPHABET[remainder as usize] as char);
    }
    while digits.len() < width {
        digits.push('0');
    }
    digits.iter().rev().collect()
}

/// Whether `text` is made of base-36 digits only.
pub(crate) fn is_valid(text: &str) -> bool {
    text.bytes().all(|b| ALPHABET.contains(&b))
}

#[cfg(test)]
mod tests {
    use super::encode;

    #[test]
    fn known_values() {
        for (bytes, width, expected) in [
            (&[0u8, 0][..], 3, "000"),
            (&[35], 1, "z"),
            (&[36], 2, "10"),
            (&[1, 0], 4, "0074"),
            (&[0xff; 4], 7, "1z141z3"),
        ] {
            assert_eq!(encode(bytes, width), expected);
        }
        assert_eq!(encode(&[0xff; 32], 50).len(), 50);
    }
}
