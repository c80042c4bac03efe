//! One request for a page.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::Request;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::HttpReadiness;

/// A page that takes longer is asked for again.
const LIMIT: Duration = Duration::from_secs(5);
/// Nobody's state is larger.
const LARGEST: usize = 1024 * 1024;

/// Whether the page is answered as expected; if not, what was answered.
pub(super) async fn probe(
    stream: TcpStream,
    address: SocketAddr,
    wanted: &HttpReadiness,
) -> Result<(), String> {
    match tokio::time::timeout(LIMIT, get(stream, address, &wanted.path)).await {
        Err(_) => Err(format!("no answer within {}s", LIMIT.as_secs())),
        Ok(Err(error)) => Err(pipeline_core::error_chain(&*error)),
        Ok(Ok((status, body))) => judge(wanted, status, &body),
    }
}

fn judge(wanted: &HttpReadiness, status: u16, body: &[u8]) -> Result<(), String> {
    if status != wanted.status {
        return Err(format!(
            "status {status} where {} is expected",
            wanted.status
        ));
    }
    let Some((pointer, value)) = &wanted.json else {
        return Ok(());
    };
    let document: serde_json::Value =
        serde_json::from_slice(body).map_err(|error| format!("no JSON document: {error}"))?;
    match document.pointer(pointer) {
        Some(found) if found == value => Ok(()),
        Some(found) => Err(format!("{pointer} is {found}")),
        None => Err(format!("there is no {pointer} in the answer")),
    }
}

async fn get(
    stream: TcpStream,
    address: SocketAddr,
    path: &str,
) -> Result<(u16, Bytes), Box<dyn std::error::Error + Send + Sync>> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake::<_, Empty<Bytes>>(TokioIo::new(stream)).await?;
    let request = Request::get(path)
        // Servers of the web driver protocol answer to addresses and `localhost` only.
        .header("Host", address.to_string())
        .header("Connection", "close")
        .body(Empty::new())?;
    let answer = async {
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), LARGEST)
            .collect()
            .await?;
        Ok((status, body.to_bytes()))
    };
    tokio::select! {
        answer = answer => answer,
        // The connection works for the request, and has nothing to say before it is answered.
        Err(error) = connection => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_judged_by_status_and_value() {
        let wanted = HttpReadiness::new(4444, "/status").with_json("/value/ready", true);
        let judge = |status, body: &str| judge(&wanted, status, body.as_bytes());
        assert_eq!(judge(200, r#"{"value":{"ready":true}}"#), Ok(()));
        assert_eq!(
            judge(200, r#"{"value":{"ready":false}}"#),
            Err("/value/ready is false".to_owned())
        );
        // A text that looks like the value is not the value.
        assert!(judge(200, r#"{"value":{"ready":"true"}}"#).is_err());
        assert!(judge(200, "{}").is_err() && judge(200, "ready").is_err());
        assert_eq!(
            judge(503, r#"{"value":{"ready":true}}"#),
            Err("status 503 where 200 is expected".to_owned())
        );
    }
}
