//! Request heads: any bytes are handled, and what is true of a head is true however much follows it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use waspmq_transport::http;
use waspmq_transport::limits::HEAD_BYTES_MAX;

fuzz_target!(|input: &[u8]| {
    match http::parse(input) {
        Ok(Some(request)) => {
            assert!(request.head_bytes <= input.len().min(HEAD_BYTES_MAX));
            assert_eq!(http::parse(&input[..request.head_bytes]), Ok(Some(request.clone())));
            if let Some(upgrade) = &request.upgrade {
                http::accept_response(
                    upgrade.key,
                    upgrade.subprotocols.first().copied(),
                    upgrade.deflate,
                    &mut Vec::new(),
                );
            }
        }
        Ok(None) => assert!(input.len() < HEAD_BYTES_MAX),
        Err(refusal) => http::error_response(&refusal, http::Asker::of_bytes(input), &mut Vec::new()),
    }
});
