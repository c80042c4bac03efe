//! Jobs whose folder is a copy inside: steps on this machine and commands see the same files.

use std::os::unix::fs::MetadataExt as _;

use pipeline_core::{CommandStep, Job, Outcome, Pipeline, RunFacts, Runner, StepError, step_fn};
use pipeline_docker::container::{ContainerSpec, JobFolder};

use crate::fixture::{self, sh};

async fn run(job: Job, sharing: JobFolder) -> (tempfile::TempDir, pipeline_core::RunReport) {
    let data = tempfile::tempdir().unwrap();
    let spec = ContainerSpec::new(fixture::busybox()).with_sharing(sharing);
    let executor = fixture::executor(spec).await;
    let runner = Runner::new(data.path()).with_executor(std::sync::Arc::new(executor));
    let pipeline = Pipeline::builder("copied").job(job).build().unwrap();
    let run = runner.start(&pipeline, RunFacts::new()).await.unwrap();
    let report = run.wait().await.unwrap();
    (data, report)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Docker engine and busybox-static"]
async fn steps_and_commands_see_what_the_other_wrote() {
    for sharing in [JobFolder::Shared, JobFolder::Copied] {
        let mut job = Job::new("job");
        // A hard link of a link, as copies by hard links have them.
        let makes =
            "mkdir out; echo made > out/file; ln -s /nowhere out/link; ln out/link out/twin";
        job.step("make", CommandStep::from(sh(makes)));
        job.step(
            "change",
            step_fn(|cx| async move {
                let failed = |error| StepError::errored("looking at files", error);
                let out = cx.pull_job_dir().await?.join("out");
                assert_eq!(std::fs::read_to_string(out.join("file")).unwrap(), "made\n");
                for name in ["link", "twin"] {
                    let link = out.join(name);
                    assert_eq!(std::fs::read_link(&link).unwrap().as_os_str(), "/nowhere");
                    assert_eq!(link.symlink_metadata().unwrap().nlink(), 2);
                }
                std::fs::remove_file(out.join("file")).map_err(failed)?;
                std::fs::write(cx.job_dir().join(".new"), "changed").map_err(failed)?;
                cx.push_job_dir().await
            }),
        );
        let looks = "cat .new; test ! -e out/file && test -L out/twin && echo last > last";
        job.step("look", CommandStep::from(sh(looks)));
        let (data, report) = run(job, sharing).await;
        assert_eq!(
            report.outcome,
            Outcome::Succeeded,
            "{sharing:?}: {report:#?}"
        );
        let last = std::fs::read_to_string(data.path().join("work/job/last"));
        assert_eq!(last.unwrap(), "last\n", "{sharing:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Docker engine and busybox-static"]
async fn files_that_do_not_come_back_are_an_error_of_the_job() {
    let mut job = Job::new("job");
    let spoils = r#"here=$PWD; cd /; rm -rf "$here"; echo > "$here""#;
    job.step("spoil", CommandStep::from(sh(spoils)));
    let (_data, report) = run(job, JobFolder::Copied).await;
    assert_eq!(report.outcome, Outcome::Errored);
    let said = format!("{report:?}");
    assert!(said.contains("did not give the job's files back"), "{said}");
    assert!(said.contains("no folder any more"), "{said}");
}
