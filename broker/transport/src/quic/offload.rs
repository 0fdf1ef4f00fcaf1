//! What the kernel does for UDP.

use quinn::udp::{UdpSockRef, UdpSocketState};
use std::io;
use std::net::{Ipv4Addr, UdpSocket};

/// How many datagrams one system call moves at most; 1 is no offload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offload {
    /// Generic segmentation offload.
    pub send_segments: usize,
    /// Generic receive offload.
    pub receive_segments: usize,
}

/// Asks the kernel.
///
/// # Errors
/// A UDP socket cannot be opened.
pub fn offload() -> io::Result<Offload> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
    Ok(Offload { send_segments: state.max_gso_segments(), receive_segments: state.gro_segments() })
}
