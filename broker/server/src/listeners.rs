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
pub(crate) fn bind(address: SocketAddr, count: usize) -> io::Result<Vec<TcpListener>> {
    let first = socket(address)?;
    first.bind(&address.into())?;
    first.set_reuse_port(true)?;
    first.listen(BACKLOG)?;
    let first: TcpListener = first.into();
    let address = first.local_addr()?;
    let mut listeners = vec![first];
    for _ in 1..count {
        let socket = socket(address)?;
        socket.set_reuse_port(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        listeners.push(socket.into());
    }
    Ok(listeners)
}

fn socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of a broker that just stopped linger in the kernel and must not keep the next one out.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, TcpStream};

    #[test]
    fn a_second_broker_on_the_same_address_fails() {
        let first = bind((Ipv4Addr::LOCALHOST, 0).into(), 2).unwrap();
        let address = first[0].local_addr().unwrap();
        assert_eq!(first[1].local_addr().unwrap(), address);
        let error = bind(address, 2).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn connections_spread_over_the_sockets() {
        let sockets = bind((Ipv4Addr::LOCALHOST, 0).into(), 2).unwrap();
        let address = sockets[0].local_addr().unwrap();
        let clients: Vec<_> = (0..64).map(|_| TcpStream::connect(address).unwrap()).collect();
        let accepted = |socket: &TcpListener| std::iter::from_fn(|| socket.accept().ok()).count();
        let (one, two) = (accepted(&sockets[0]), accepted(&sockets[1]));
        assert_eq!(one + two, clients.len());
        assert!(one > 0 && two > 0, "{one} + {two}");
    }
}
