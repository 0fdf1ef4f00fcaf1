//! Listening sockets: one per worker on the same address, and none when somebody else listens there.

use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{SocketAddr, TcpListener};

/// Connections the kernel holds until a worker accepts them; above it, clients retry. The kernel caps it at
/// `net.core.somaxconn`.
pub(crate) const BACKLOG: i32 = 4096;

/// Opens `count` sockets on `address`. Port 0 takes any free port, the same for all.
///
/// The first socket is bound without `SO_REUSEPORT`, so that a second broker on the same address fails with
/// "address in use" and does not take half of the connections; then it allows the others beside it.
///
/// Accepted connections have the listener's send buffer. Left to itself the kernel gives one that does not read up to
/// 4 MiB, of data that is too old to be of use, and takes memory from those that read once many do that.
pub(crate) fn bind(
    address: SocketAddr,
    count: usize,
    send_buffer_bytes: usize,
) -> io::Result<Vec<TcpListener>> {
    let first = socket(address, send_buffer_bytes)?;
    first.bind(&address.into())?;
    first.set_reuse_port(true)?;
    first.listen(BACKLOG)?;
    let first: TcpListener = first.into();
    let address = first.local_addr()?;
    let mut listeners = vec![first];
    for _ in 1..count {
        let socket = socket(address, send_buffer_bytes)?;
        socket.set_reuse_port(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        listeners.push(socket.into());
    }
    Ok(listeners)
}

fn socket(address: SocketAddr, send_buffer_bytes: usize) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of a broker that just stopped linger in the kernel and must not keep the next one out.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.set_send_buffer_size(send_buffer_bytes)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::net::{Ipv4Addr, TcpStream};

    const SEND_BUFFER_BYTES: usize = 64 * 1024;

    #[test]
    fn a_second_broker_on_the_same_address_fails() {
        let first = bind((Ipv4Addr::LOCALHOST, 0).into(), 2, SEND_BUFFER_BYTES).unwrap();
        let address = first[0].local_addr().unwrap();
        assert_eq!(first[1].local_addr().unwrap(), address);
        let error = bind(address, 2, SEND_BUFFER_BYTES).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn connections_spread_over_the_sockets() {
        let sockets = bind((Ipv4Addr::LOCALHOST, 0).into(), 2, SEND_BUFFER_BYTES).unwrap();
        let address = sockets[0].local_addr().unwrap();
        let clients: Vec<_> = (0..64).map(|_| TcpStream::connect(address).unwrap()).collect();
        let accepted = |socket: &TcpListener| std::iter::from_fn(|| socket.accept().ok()).count();
        let (one, two) = (accepted(&sockets[0]), accepted(&sockets[1]));
        assert_eq!(one + two, clients.len());
        assert!(one > 0 && two > 0, "{one} + {two}");
    }

    #[test]
    fn what_the_kernel_holds_for_a_connection_that_does_not_read_is_bounded() {
        let listener = bind((Ipv4Addr::LOCALHOST, 0).into(), 1, SEND_BUFFER_BYTES).unwrap().remove(0);
        let reader = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
        reader.set_recv_buffer_size(4096).unwrap();
        reader.connect(&listener.local_addr().unwrap().into()).unwrap();
        let (mut accepted, _) = listener.accept().unwrap();
        accepted.set_nonblocking(true).unwrap();
        let chunk = [0; 4096];
        let taken: usize = std::iter::from_fn(|| accepted.write(&chunk).ok()).take(4096).sum();
        // The kernel doubles what it is given, for its own accounts.
        assert!(taken <= 3 * SEND_BUFFER_BYTES, "{taken} bytes");
    }
}
