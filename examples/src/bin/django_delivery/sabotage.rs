//! `--break tests`: a test that fails.

use async_trait::async_trait;
use pipeline_core::{InputRef, Step, StepContext, StepError};
use pipeline_deploy::django::{DjangoProject, FindOptions};

use crate::python::SOURCE;

const FILE: &str = "test_broken_on_purpose.py";
const TEST: &str = "\
from unittest import TestCase


class BrokenOnPurpose(TestCase):
    def test_broken_on_purpose(self):
        self.assertEqual(1, 2, 'broken on purpose')
";

/// Adds a test that fails to the checkout.
#[derive(Debug)]
pub(crate) struct BreakTests {
    pub(crate) options: FindOptions,
}

#[async_trait]
impl Step for BreakTests {
    type Output = ();

    fn inputs(&self) -> Vec<InputRef> {
        Vec::new()
    }

    async fn run(&self, cx: &StepContext) -> Result<(), StepError> {
        let root = cx.job_dir().join(SOURCE);
        let project = DjangoProject::find(&root, &self.options)
            .map_err(|error| StepError::failed(pipeline_core::error_chain(&error)))?;
        let file = root.join(project.app_dir()).join(FILE);
        tokio::fs::write(&file, TEST).await.map_err(|error| {
            StepError::errored(format!("could not write {}", file.display()), error)
        })?;
        cx.warn(format!("--break tests: added {FILE}")).await;
        Ok(())
    }
}
