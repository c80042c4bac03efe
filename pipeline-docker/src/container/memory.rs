//! Whether a container ended for want of memory.

use std::collections::HashMap;
use std::time::Duration;

use bollard::models::ContainerState;
use bollard::query_parameters::EventsOptionsBuilder;
use futures_util::StreamExt;

use crate::engine::Engine;

/// What a process that was killed for want of memory exits with, as any that was killed.
const KILLED: i64 = 137;
/// How long an engine that has told of the end may take to tell of its reason.
const LATE: Duration = Duration::from_secs(5);

/// Whether a container that has ended, whose memory was `limited`, ran out of it.
///
/// The engine learns of the end and of the want of memory in two messages. If the second comes
/// late, the container's state never shows it; it is among the engine's events only.
pub(crate) async fn ran_out_of_memory(
    engine: &Engine,
    id: &str,
    state: &ContainerState,
    limited: bool,
) -> bool {
    if state.oom_killed == Some(true) {
        return true;
    }
    if !limited || state.exit_code != Some(KILLED) {
        return false;
    }
    let filters = HashMap::from([("container", vec![id]), ("event", vec!["oom"])]);
    // From the beginning: what the engine still remembers comes first.
    let options = EventsOptionsBuilder::default()
        .since("1")
        .filters(&filters)
        .build();
    let client = engine.client_within(None);
    let mut events = std::pin::pin!(client.events(Some(options)));
    matches!(
        tokio::time::timeout(LATE, events.next()).await,
        Ok(Some(Ok(_)))
    )
}
