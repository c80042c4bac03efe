use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::ports::PortClaim;
use super::requests::RequestWatch;

/// How many connections are relayed at once if the limit of open files allows it; more wait
/// in the system's queue.
const CONNECTIONS: u64 = 4096;
/// Open files that are not for connections.
const SPARE_FILES: u64 = 64;
/// How long a connection is held while its release is being started again.
const HOLD: Duration = Duration::from_secs(15);

/// Gives connections to the live release.
#[derive(Debug)]
pub(super) struct Proxy {
    route: watch::Sender<Route>,
    accepting: JoinHandle<()>,
}

/// Where connections go.
#[derive(Debug, Clone)]
pub(super) enum Route {
    /// Nothing is live: they are closed.
    Nowhere,
    /// The live release is being started: they are held.
    Held,
    /// To a release.
    To(Arc<Backend>),
}

/// A port of a release, and how many connections it has.
#[derive(Debug)]
pub(super) struct Backend {
    claim: PortClaim,
    /// It gets no new connections and should lose those it has.
    leaving: AtomicBool,
    open: watch::Sender<usize>,
}

impl Backend {
    pub(super) fn new(claim: PortClaim) -> Arc<Self> {
        Arc::new(Self {
            claim,
            leaving: AtomicBool::new(false),
            open: watch::Sender::new(0),
        })
    }

    pub(super) fn port(&self) -> u16 {
        self.claim.port()
    }

    /// Waits until it has no connection.
    pub(super) async fn drained(&self) {
        let mut open = self.open.subscribe();
        let _ = open.wait_for(|open| *open == 0).await;
    }

    fn enter(self: &Arc<Self>) -> Entered {
        self.open.send_modify(|open| *open += 1);
        Entered(self.clone())
    }
}

/// One connection to a backend.
#[derive(Debug)]
struct Entered(Arc<Backend>);

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.open.send_modify(|open| *open -= 1);
    }
}

impl Proxy {
    /// Uses at most about `files` descriptors.
    pub(super) fn start(listener: TcpListener, files: u64) -> Self {
        let most = (files.saturating_sub(SPARE_FILES) / 2).clamp(16, CONNECTIONS);
        let places = Arc::new(Semaphore::new(usize::try_from(most).unwrap_or(16)));
        let (route, heard) = watch::channel(Route::Nowhere);
        Self {
            route,
            accepting: tokio::spawn(accept(listener, heard, places)),
        }
    }

    /// Sends all connections from now on to `route`; when it returns, no more connection is
    /// counted for another backend than those that are counted already.
    ///
    /// Connections of the former backend are asked to end with their next request.
    pub(super) fn route(&self, route: Route) {
        if let Route::To(backend) = &route {
            backend.leaving.store(false, Ordering::Release);
        }
        let next = route.clone();
        if let Route::To(former) = self.route.send_replace(route)
            && !matches!(&next, Route::To(next) if Arc::ptr_eq(next, &former))
        {
            former.leaving.store(true, Ordering::Release);
        }
    }

    /// Frees the address.
    pub(super) async fn close(mut self) {
        self.accepting.abort();
        let _ = (&mut self.accepting).await;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, route: watch::Receiver<Route>, places: Arc<Semaphore>) {
    loop {
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((client, _)) => {
                let route = route.clone();
                tokio::spawn(async move {
                    let _place = place;
                    if let Some((stream, entered)) = connect(route).await {
                        relay(client, stream, &entered.0).await;
                    }
                });
            }
            // Out of descriptors, mostly: some will be free soon.
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    }
}

/// A connection to the live release, waiting for one that is being started.
async fn connect(mut route: watch::Receiver<Route>) -> Option<(TcpStream, Entered)> {
    let deadline = Instant::now() + HOLD;
    loop {
        // Counted while the route is borrowed: a switch waits for that.
        let entered = match &*route.borrow_and_update() {
            Route::Nowhere => return None,
            Route::Held => None,
            Route::To(backend) => Some(backend.enter()),
        };
        if let Some(entered) = entered {
            let backend = TcpStream::connect((Ipv4Addr::LOCALHOST, entered.0.port())).await;
            if let Ok(backend) = backend {
                return Some((backend, entered));
            }
        }
        // It may have ended and the supervisor will hear of it, or be out of breath.
        let _ = timeout(Duration::from_millis(100), route.changed()).await;
        if Instant::now() > deadline {
            return None;
        }
    }
}

/// Copies both ways until both are done.
async fn relay(mut client: TcpStream, mut stream: TcpStream, backend: &Backend) {
    let _ = (client.set_nodelay(true), stream.set_nodelay(true));
    let (from_client, mut to_client) = client.split();
    let (mut from_backend, mut to_backend) = stream.split();
    let up = async {
        let _ = copy_requests(from_client, &mut to_backend, backend).await;
        let _ = to_backend.shutdown().await;
    };
    let down = async {
        let _ = copy(&mut from_backend, &mut to_client).await;
        let _ = to_client.shutdown().await;
    };
    tokio::pin!(up, down);
    tokio::select! {
        () = &mut down => {
            // The application is done. A client that does not hang up must not keep a
            // release from ending.
            let _ = timeout_at(Instant::now() + Duration::from_secs(2), up).await;
        }
        () = &mut up => down.await,
    }
}

async fn copy_requests(
    mut from: ReadHalf<'_>,
    to: &mut WriteHalf<'_>,
    backend: &Backend,
) -> io::Result<()> {
    let mut watch = RequestWatch::default();
    let mut bytes = vec![0; 8 * 1024];
    let mut out = Vec::new();
    loop {
        let count = from.read(&mut bytes).await?;
        out.clear();
        if count == 0 {
            watch.finish(&mut out);
            return to.write_all(&out).await;
        }
        let leaving = backend.leaving.load(Ordering::Acquire);
        watch.pass(&bytes[..count], leaving, &mut out);
        to.write_all(&out).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers every connection with its name after it has read one byte.
    async fn server(name: &'static str) -> (u16, JoinHandle<()>) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    if stream.read_u8().await.is_ok() {
                        let _ = stream.write_all(name.as_bytes()).await;
                    }
                });
            }
        });
        (port, task)
    }

    async fn proxy() -> (Proxy, u16) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        (Proxy::start(listener, 1024), port)
    }

    async fn ask(stream: &mut TcpStream) -> String {
        let _ = stream.write_all(b"?").await;
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        answer
    }

    #[tokio::test]
    async fn a_switch_moves_new_connections_and_leaves_open_ones() {
        let ((a, _a), (b, _b)) = (server("a").await, server("b").await);
        let (proxy, port) = proxy().await;
        let (a, b) = (
            Backend::new(PortClaim::of(a)),
            Backend::new(PortClaim::of(b)),
        );
        proxy.route(Route::To(a.clone()));
        let mut before = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        a.open
            .subscribe()
            .wait_for(|open| *open == 1)
            .await
            .unwrap();
        proxy.route(Route::To(b.clone()));
        let mut after = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        assert_eq!(ask(&mut after).await, "b");
        assert_eq!(*a.open.borrow(), 1, "the open connection is still counted");
        assert_eq!(ask(&mut before).await, "a");
        drop((before, after));
        a.drained().await;
        b.drained().await;
    }

    #[tokio::test]
    async fn connections_are_held_while_a_release_starts() {
        let (proxy, port) = proxy().await;
        proxy.route(Route::Held);
        let asking = tokio::spawn(async move {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            ask(&mut stream).await
        });
        let (a, _a) = server("a").await;
        proxy.route(Route::To(Backend::new(PortClaim::of(a))));
        assert_eq!(asking.await.unwrap(), "a");
    }

    #[tokio::test]
    async fn without_a_release_connections_are_closed() {
        let (_proxy, port) = proxy().await;
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        assert_eq!(ask(&mut stream).await, "");
    }
}
