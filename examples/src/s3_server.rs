//! An S3 server over a folder, in this process.

use std::io;
use std::path::Path;
use std::sync::Arc;

use hyper::header::{IF_MATCH, IF_NONE_MATCH};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use pipeline_core::Secret;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s_fs::FileSystem;
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

/// A running server on a free loopback port; stopped when dropped.
#[derive(Debug)]
pub struct S3Server {
    endpoint: String,
    task: JoinHandle<()>,
}

impl S3Server {
    /// Serves the folders in a folder as buckets, to whoever has this key pair.
    ///
    /// # Errors
    /// The folder cannot be used, or there is no port.
    pub async fn start(folder: &Path, id: &str, secret: &Secret) -> io::Result<Self> {
        let files =
            FileSystem::new(folder).map_err(|error| io::Error::other(format!("{error:?}")))?;
        let mut builder = S3ServiceBuilder::new(files);
        builder.set_auth(SimpleAuth::from_single(id, secret.expose()));
        let service = builder.build();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let task = tokio::spawn(async move {
            // The file system looks and then writes; S3 does both in one step.
            let one_step = Arc::new(Mutex::new(()));
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, service.clone(), Arc::clone(&one_step)));
            }
        });
        Ok(Self { endpoint, task })
    }

    /// `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }
}

async fn serve(stream: tokio::net::TcpStream, service: S3Service, one_step: Arc<Mutex<()>>) {
    let handle = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let (service, one_step) = (service.clone(), Arc::clone(&one_step));
        async move {
            let headers = request.headers();
            let conditional = headers.contains_key(IF_NONE_MATCH) || headers.contains_key(IF_MATCH);
            let _turn = match conditional {
                true => Some(one_step.lock().await),
                false => None,
            };
            service.call(request.map(s3s::Body::from)).await
        }
    });
    // A client that goes away is no trouble of the server's.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), handle)
        .await;
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}
