//! What a build tells, as lines and facts of a step.

use std::sync::Arc;

use pipeline_core::StepContext;
use tokio::sync::mpsc;

use super::build_image::size;
use crate::builder::{
    BuildError, BuildEvent, BuildObserver, BuildRequest, BuiltImage, ImageBuilder,
};

/// The topic of the facts that builds tell.
const TOPIC: &str = "docker.build";

/// Hands events over to the step, which can wait.
#[derive(Debug)]
struct Relay(mpsc::UnboundedSender<BuildEvent>);

impl BuildObserver for Relay {
    fn event(&self, event: &BuildEvent) {
        // The step may have stopped listening; then nobody wants to know.
        drop(self.0.send(event.clone()));
    }
}

/// Builds, and shows what the builder tells.
pub(super) async fn build(
    context: &StepContext,
    builder: &dyn ImageBuilder,
    request: &BuildRequest,
) -> Result<BuiltImage, BuildError> {
    let (sender, mut events) = mpsc::unbounded_channel();
    let builder = builder.observed_by(Arc::new(Relay(sender)));
    let result = {
        let building = builder.build(request);
        tokio::pin!(building);
        loop {
            tokio::select! {
                biased;
                Some(event) = events.recv() => show(context, event).await,
                result = &mut building => break result,
            }
        }
    };
    while let Ok(event) = events.try_recv() {
        show(context, event).await;
    }
    result
}

async fn show(context: &StepContext, event: BuildEvent) {
    match &event {
        BuildEvent::ContextFound { entries, bytes } => {
            let bytes = size(*bytes);
            context
                .log(format!("build context: {entries} entries, {bytes}"))
                .await;
        }
        BuildEvent::ContextSent { bytes } => {
            context
                .log(format!("build context: {} sent", size(*bytes)))
                .await;
        }
        BuildEvent::InstructionStarted { instruction } => context.log(instruction).await,
        BuildEvent::InstructionFinished {
            instruction,
            cached: true,
        } => context.log(format!("{instruction}: cached")).await,
        // The end of one is the beginning of the next; the fact has it.
        BuildEvent::InstructionFinished { .. } => {}
        BuildEvent::BaseResolved { reference } => context.log(format!("base: {reference}")).await,
        BuildEvent::LayerProgress {
            layer,
            action,
            current,
            total,
        } => {
            // The fact has the way there.
            if current >= total {
                let bytes = size(*total);
                context.log(format!("{layer}: {action}, {bytes}")).await;
            }
        }
        // Printed with the finished image.
        BuildEvent::LayerFinished { .. } => {}
        BuildEvent::Line { text } => {
            context.log(text).await;
            // The log has it; a fact for each line would double the journal.
            return;
        }
        BuildEvent::Warning { message } => context.warn(message).await,
    }
    if let Ok(data) = serde_json::to_value(&event) {
        context.fact(TOPIC, data).await;
    }
}
