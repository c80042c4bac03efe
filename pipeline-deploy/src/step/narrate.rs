use pipeline_core::StepContext;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::target::{DeployEvent, DeployObserver};

/// Hands events from the deploying task to the one that may wait.
#[derive(Debug)]
pub(super) struct Relay(pub(super) mpsc::UnboundedSender<DeployEvent>);

impl DeployObserver for Relay {
    fn on_event(&self, event: &DeployEvent) {
        // A closed channel is a step that was cancelled: nobody listens any more.
        let _ = self.0.send(event.clone());
    }
}

/// Tells a step's events what happens in a deploy, until it has ended.
pub(super) async fn narrate(cx: &StepContext, mut events: mpsc::UnboundedReceiver<DeployEvent>) {
    let mut last_probe = String::new();
    while let Some(event) = events.recv().await {
        match &event {
            DeployEvent::Planned { plan } => cx.log(plan.to_string()).await,
            DeployEvent::Started { action } => cx.log(format!("{action} …")).await,
            DeployEvent::Done { action, took, note } => {
                let note = if note.is_empty() {
                    String::new()
                } else {
                    format!(": {note}")
                };
                let seconds = took.as_secs_f32();
                cx.log(format!("{action}, done in {seconds:.2} s{note}"))
                    .await;
            }
            // The same answer again and again is one line.
            DeployEvent::Probed { health, .. } if health.summary() == last_probe => continue,
            DeployEvent::Probed { attempt, health } => {
                health.summary().clone_into(&mut last_probe);
                cx.log(format!("probe {attempt}: {health}")).await;
            }
            DeployEvent::Warning { text } => cx.warn(text).await,
            DeployEvent::Finished { report } => cx.log(report.to_string()).await,
        }
        let (topic, data) = fact(&event);
        cx.fact(&topic, data).await;
    }
}

/// `deploy.<event>` and its data without the name.
fn fact(event: &DeployEvent) -> (String, Value) {
    let mut data = serde_json::to_value(event).unwrap_or_default();
    let name = data.as_object_mut().and_then(|data| data.remove("event"));
    let name = name.as_ref().and_then(Value::as_str).unwrap_or("event");
    (format!("deploy.{name}"), data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fact_has_the_events_name_in_its_topic() {
        let (topic, data) = fact(&DeployEvent::Warning { text: "x".into() });
        assert_eq!(topic, "deploy.warning");
        assert_eq!(data, serde_json::json!({ "text": "x" }));
    }
}
