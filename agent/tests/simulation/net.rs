//! The simulated TCP as the swarm's network.

use std::io;
use std::net::SocketAddr;

use skep_identity::{Io, Listener, Network};

/// Streams of the simulation.
pub struct SimNetwork;

struct SimListener(turmoil::net::TcpListener);

#[async_trait::async_trait]
impl Network for SimNetwork {
    async fn connect(&self, addr: &str) -> io::Result<Io> {
        let addr: SocketAddr = addr.parse().map_err(io::Error::other)?;
        Ok(Box::new(turmoil::net::TcpStream::connect(addr).await?))
    }

    async fn bind(&self, addr: &str) -> io::Result<Box<dyn Listener>> {
        let addr: SocketAddr = addr.parse().map_err(io::Error::other)?;
        // The simulation knows no other address to listen on.
        let listener = turmoil::net::TcpListener::bind(("0.0.0.0", addr.port())).await?;
        Ok(Box::new(SimListener(listener)))
    }
}

#[async_trait::async_trait]
impl Listener for SimListener {
    async fn accept(&mut self) -> io::Result<(Io, SocketAddr)> {
        let (stream, from) = self.0.accept().await?;
        Ok((Box::new(stream), from))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}
