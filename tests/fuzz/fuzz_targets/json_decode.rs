//! JSON text from a peer, in both directions.
#![no_main]

use libfuzzer_sys::fuzz_target;
use waspmq_protocol::client::Frame;
use waspmq_protocol::limits::CONTROL_BYTES_MAX;
use waspmq_protocol::{Profile, decode, encode};

fuzz_target!(|text: &[u8]| {
    // Only the binary profile bounds the body of a control frame as a whole, so a longer one would not survive.
    if text.len() > CONTROL_BYTES_MAX / 4 {
        return;
    }
    let frames: Vec<_> = decode::json_frames(text).collect();
    for frame in frames.iter().flatten() {
        survives(frame);
    }
    // One frame in a message is the same frame read alone.
    if let Ok(alone) = decode::json(text) {
        assert_eq!(frames, [Ok(alone)]);
    }
    let mut rest = text;
    while let Ok((_, consumed)) = decode::server_json(rest) {
        assert!(consumed > 0, "a frame takes bytes");
        rest = &rest[consumed..];
    }
});

fn survives(frame: &Frame<'_>) {
    for profile in Profile::ALL {
        let mut bytes = Vec::new();
        encode::client(profile, frame, &mut bytes).expect("what was decoded is within bounds");
        let again = match profile {
            Profile::Json => decode::json(&bytes),
            Profile::Binary => decode::binary(&bytes),
        };
        assert_eq!(again.as_ref(), Ok(frame), "{profile:?}");
    }
}
