//! A large component: one of the test guests with a module of many functions behind it, which is compiled like all of
//! it and never called.

/// Appends a core module to a component until it has this many bytes, about.
pub(super) fn enlarged(component: &[u8], bytes: usize) -> Vec<u8> {
    let module = module(bytes.saturating_sub(component.len()) / body().len());
    let mut all = component.to_vec();
    // Section 1 of a component is a core module.
    section(&mut all, 1, &module);
    all
}

/// A module of `count` functions from two numbers to one, all the same: what is compiled does not depend on what it says.
fn module(count: usize) -> Vec<u8> {
    const TYPE: [u8; 7] = [1, 0x60, 2, 0x7e, 0x7e, 1, 0x7e];
    let mut module = b"\0asm\x01\0\0\0".to_vec();
    section(&mut module, 1, &TYPE);
    let mut functions = Vec::new();
    number(&mut functions, count);
    functions.resize(functions.len() + count, 0);
    section(&mut module, 3, &functions);
    let (mut code, body) = (Vec::new(), body());
    number(&mut code, count);
    (0..count).for_each(|_| code.extend_from_slice(&body));
    section(&mut module, 10, &code);
    module
}

/// The body of a function behind its length: rounds of arithmetic on both parameters.
fn body() -> Vec<u8> {
    /// `a = (a * b) ^ a; b = b + a`, and an instruction that does nothing.
    const ROUND: [u8; 18] =
        [0x20, 0, 0x20, 1, 0x7e, 0x20, 0, 0x85, 0x21, 0, 0x20, 1, 0x20, 0, 0x7c, 0x21, 1, 0x01];
    let mut code = vec![0];
    (0..24).for_each(|_| code.extend_from_slice(&ROUND));
    code.extend_from_slice(&[0x20, 0, 0x20, 1, 0x7c, 0x0b]);
    let mut body = Vec::new();
    number(&mut body, code.len());
    body.extend_from_slice(&code);
    body
}

fn section(to: &mut Vec<u8>, id: u8, content: &[u8]) {
    to.push(id);
    number(to, content.len());
    to.extend_from_slice(content);
}

/// Unsigned LEB128.
fn number(to: &mut Vec<u8>, mut value: usize) {
    loop {
        let low = u8::try_from(value & 0x7f).unwrap_or_default();
        value >>= 7;
        to.push(if value > 0 { low | 0x80 } else { low });
        if value == 0 {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_leb128() {
        let leb = |value| {
            let mut bytes = Vec::new();
            number(&mut bytes, value);
            bytes
        };
        assert_eq!(
            (leb(0), leb(127), leb(128), leb(624_485)),
            (vec![0], vec![127], vec![128, 1], vec![0xe5, 0x8e, 0x26])
        );
    }

    #[test]
    fn a_component_grows_to_the_size() {
        let component = b"\0asm\x0d\0\x01\0";
        let large = enlarged(component, 1_500_000);
        assert!((1_450_000..1_550_000).contains(&large.len()), "{}", large.len());
        assert!(large.starts_with(component) && large[8] == 1);
        assert_eq!(&large[12..16], b"\0asm", "behind the section's number and its length of three bytes");
    }
}
