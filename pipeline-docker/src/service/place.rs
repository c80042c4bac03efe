//! [`Place`]: where a service is on its network, and the way there.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use bollard::models::EndpointSettings;
use tokio::net::TcpStream;

use crate::engine::{Engine, EngineKind};

/// How long a connection may take; the service is next door.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);

/// Where a service is on its network.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) address: IpAddr,
    /// The engine's own address on the network.
    gateway: Option<IpAddr>,
    /// The network's id.
    network: String,
}

impl Place {
    /// `None` if the container has no address, as when it does not run.
    pub(super) fn new(endpoint: EndpointSettings) -> Option<Self> {
        let parse = |text: Option<String>| text.and_then(|text| text.parse().ok());
        Some(Self {
            address: parse(endpoint.ip_address)?,
            gateway: parse(endpoint.gateway),
            network: endpoint.network_id.unwrap_or_default(),
        })
    }

    /// Connects to a port of the service; if that fails, what is the case instead.
    pub(super) async fn connect(&self, engine: &Engine, port: u16) -> Result<TcpStream, String> {
        let address = SocketAddr::new(self.address, port);
        let connecting = tokio::time::timeout(CONNECT_LIMIT, TcpStream::connect(address));
        let is_certain = self.is_seen();
        let seen = match connecting.await {
            Ok(Ok(stream)) if !is_certain && self.is_namesake(engine, &stream) => {
                format!("what answers at {address} is in another network of this machine")
            }
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => format!("{address}: {error}"),
            Err(_) => format!("{address} does not answer"),
        };
        // A socket may be forwarded from another machine; podman's bridges have other names here, too.
        let is_podman = engine.info().kind == EngineKind::Podman;
        if is_certain || (is_podman && engine.address().is_socket()) {
            return Err(seen);
        }
        Err(format!(
            "{seen} (the engine at {} may be on another machine, whose networks cannot be reached from here: use Readiness::exec, a log line or the engine's health check then)",
            engine.address()
        ))
    }

    /// Whether the network is seen from here, by the bridge that Docker names by its id.
    fn is_seen(&self) -> bool {
        self.network.get(..12).is_some_and(|id| {
            let bridge = format!("br-{id}");
            Path::new("/sys/class/net").join(bridge).exists()
        })
    }

    /// Whether a connection into a network that is not seen leads to another one. Engines on two
    /// machines give the same addresses to their networks, and the nearer one would answer for the
    /// other one's service.
    fn is_namesake(&self, engine: &Engine, stream: &TcpStream) -> bool {
        let from = stream.local_addr().ok().map(|address| address.ip());
        engine.info().kind == EngineKind::Docker && from.is_some() && from == self.gateway
    }
}
