//! The contract that every target keeps, on the local one.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pipeline_deploy::health::HealthWindow;
use pipeline_deploy::release::Release;
use pipeline_deploy::target::DeployTarget;
use pipeline_deploy::target::testing::{Fitness, TargetFixture};

use crate::site::{Site, get};

#[async_trait]
impl TargetFixture for Site {
    fn target(&self) -> Arc<dyn DeployTarget> {
        let window = HealthWindow::default()
            .with_limit(Duration::from_secs(60))
            .with_bad_answers(3)
            .with_interval(Duration::from_millis(50));
        Arc::new(self.target_of(Site::app().with_window(window)))
    }

    async fn release(&self, id: &str, fitness: Fitness) -> Release {
        let mode = match fitness {
            Fitness::Fit => "ok",
            Fitness::Unhealthy => "sick",
            Fitness::Crashing => "crash",
            other => panic!("no release is {other:?}"),
        };
        Site::release(self, id, mode)
    }

    async fn answering(&self, address: &str) -> Option<String> {
        let body = get(address, "/").await.ok()?;
        body.split(' ').next().map(ToOwned::to_owned)
    }
}

pipeline_deploy::target_contract!(async { Site::new() });
