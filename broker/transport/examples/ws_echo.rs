//! `ws_echo [addr]`: a WebSocket server that echoes, on this crate's framing alone.
//!
//! It is what outside conformance checks (Autobahn's fuzzing client) talk to: any path, messages up to 64 MiB, no
//! time limit while open. permessage-deflate is negotiated with who offers it, and what came compressed is echoed
//! compressed. Default address: 127.0.0.1:9001; port 0 takes a free one, which is printed.

#[path = "support/echo.rs"]
mod echo;

use tokio::net::TcpListener;

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9001".to_owned());
    let listener = TcpListener::bind(&address).await?;
    announce(listener.local_addr()?);
    echo::serve(listener).await
}

#[expect(clippy::print_stdout, reason = "the address is this program's output")]
fn announce(address: std::net::SocketAddr) {
    println!("listening on ws://{address}");
}
