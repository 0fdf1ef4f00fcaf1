//! Certificates and keys: ours, others', and what is said about those that cannot be used.

use super::*;

#[test]
fn a_certificate_of_our_own_is_good_for_less_than_two_weeks() {
    let (credentials, certificate) = credentials();
    let check = |now: u64, is_good: bool| {
        let mut pair = Pair::with(&credentials, client_config(&certificate, now, rustls::ALL_VERSIONS));
        pair.client.write_tls(&mut pair.pipe.incoming).unwrap();
        _ = pair.session.read(&mut pair.pipe, &mut [0; 64]);
        assert_eq!(pair.deliver().is_ok(), is_good, "at {now}");
    };
    check(NOW, true);
    check(NOW + SELF_SIGNED_SECONDS - 1, true);
    check(NOW + SELF_SIGNED_SECONDS + 1, false);
    check(NOW - 14 * 86_400 + SELF_SIGNED_SECONDS, false);
}

#[test]
fn a_name_that_is_none_is_refused() {
    let error = self_signed(&["gr\u{fc}n".to_owned()], NOW).unwrap_err();
    assert!(error.to_string().contains("gr"), "{error}");
}

#[test]
fn bad_credentials_are_told_apart() {
    let one = self_signed(&["a.example".to_owned()], NOW).unwrap();
    let two = self_signed(&["b.example".to_owned()], NOW).unwrap();
    let check = |certificate: &str, key: &str, expected: &str| {
        let error = Credentials::from_pem(certificate.as_bytes(), key.as_bytes()).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    };
    check("", &one.key_pem, "the certificate has no usable");
    check(&one.key_pem, &one.key_pem, "the certificate has no usable");
    check(&one.certificate_pem, "", "the key has no usable");
    check(&one.certificate_pem, &one.certificate_pem, "the key has no usable");
    let with_password = one.key_pem.replace("BEGIN PRIVATE", "BEGIN ENCRYPTED PRIVATE");
    check(&one.certificate_pem, &with_password.replace("END PRIVATE", "END ENCRYPTED PRIVATE"), "a password");
    let begin = "BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA\n";
    check(&one.certificate_pem, &format!("-----{begin}-----END EC PRIVATE KEY-----\n"), "a password");
    check(&one.certificate_pem, &two.key_pem, "does not belong");
    check(&one.certificate_pem.repeat(17), &one.key_pem, "the limit is 16");
    let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    check(garbage, &one.key_pem, "cannot be used");
    let garbage = "-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n";
    check(garbage, &one.key_pem, "the certificate has no usable");
}

#[test]
fn nothing_of_a_key_is_in_what_is_said_about_it() {
    let made = self_signed(&["a.example".to_owned()], NOW).unwrap();
    let secret: String = made.key_pem.lines().filter(|line| !line.starts_with('-')).collect();
    let check = |certificate: &str, key: &str, expected: &str| {
        let error = Credentials::from_pem(certificate.as_bytes(), key.as_bytes()).unwrap_err();
        for said in [error.to_string(), format!("{error:?}")] {
            assert!(said.contains(expected), "{said}");
            // As text, and as numbers, as bytes are printed for people who look for faults.
            for run in secret.as_bytes().windows(4) {
                let (text, numbers) = (std::str::from_utf8(run).unwrap(), format!("{run:?}"));
                assert!(!said.contains(text), "{text} in {said}");
                assert!(!said.contains(numbers.trim_matches(['[', ']'])), "{numbers} in {said}");
            }
        }
    };
    let broken = [
        (made.key_pem.replace('\n', ""), "line ends lost"),
        (made.key_pem.replace('\n', " "), "line ends lost"),
        (made.key_pem.replace('\n', "\\n"), "line ends lost"),
        (made.key_pem.replace("-----END", "-----ENDE"), "no line `-----END"),
        (made.key_pem.replace(&secret[..8], &format!("!{}", &secret[1..8])), "not base64"),
    ];
    for (key, expected) in &broken {
        check(&made.certificate_pem, key, expected);
        check(key, &made.key_pem, expected);
    }
    check(&made.key_pem, &made.certificate_pem, "there is none");
}

#[test]
fn credentials_are_the_same_if_the_whole_chain_is() {
    let [one, two] = [0, 1].map(|later| self_signed(&["a.example".to_owned()], NOW + later).unwrap());
    let of =
        |chain: &[&str]| Credentials::from_pem(chain.concat().as_bytes(), one.key_pem.as_bytes()).unwrap();
    let alone = of(&[&one.certificate_pem]);
    assert!(alone.is_same(&of(&["\n", &one.certificate_pem])));
    let longer = of(&[&one.certificate_pem, &two.certificate_pem]);
    assert_eq!(longer.fingerprint(), alone.fingerprint());
    assert!(!longer.is_same(&alone));
}

#[test]
fn the_fingerprint_is_the_hash_of_the_certificate() {
    let (credentials, _) = credentials();
    // Of nothing, from FIPS 180-4's examples: shows which hash it is.
    assert_eq!(credentials::sha256(b"").unwrap()[..4], [0xe3, 0xb0, 0xc4, 0x42]);
    assert_ne!(credentials.fingerprint(), &[0; 32]);
}
