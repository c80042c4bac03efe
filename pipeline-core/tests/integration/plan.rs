use pipeline_core::{Job, Pipeline, RunFacts, StepOptions, sh, step_fn};

fn pipeline() -> Pipeline {
    let mut test = Job::new("test");
    let totals = test.step("pytest", step_fn(|_cx| async { Ok(14_u32) }));
    let mut lint = Job::new("lint").non_blocking();
    lint.step_with("flake8", sh("flake8"), StepOptions::new().non_blocking());
    let mut image = Job::new("image").only_branches(["main"]);
    let digest = image.step(
        "build",
        step_fn(|_cx| async { Ok("sha256:0".to_owned()) }).reads(&totals),
    );
    let mut deploy = Job::new("deploy");
    deploy.step("release", step_fn(|_cx| async { Ok(()) }).reads(&digest));
    // Added in an order that is not the one they run in.
    Pipeline::builder("site")
        .job(deploy)
        .job(image)
        .job(lint)
        .job(test)
        .build()
        .unwrap()
}

#[test]
fn a_plan_says_what_runs_and_why_the_rest_does_not() {
    let main = pipeline().plan(&RunFacts::new().with_branch("main"));
    assert!(main.jobs.iter().all(|job| job.skipped.is_none()));
    let position = |name: &str| main.jobs.iter().position(|job| job.name == name).unwrap();
    assert!(position("test") < position("image") && position("image") < position("deploy"));

    let other = pipeline().plan(&RunFacts::new().with_branch("dev"));
    let reason = |name: &str| {
        other
            .jobs
            .iter()
            .find(|job| job.name == name)
            .unwrap()
            .skipped
            .clone()
    };
    assert_eq!(
        reason("image").as_deref(),
        Some("branch dev is not among main")
    );
    assert_eq!(
        reason("deploy").as_deref(),
        Some("it needs a value of image, which does not run")
    );
    assert_eq!(reason("test"), None);
    assert!(
        other
            .to_string()
            .contains("- image: will not run: branch dev is not among main")
    );
}

#[test]
fn the_hash_follows_what_happens_and_not_where() {
    let facts = RunFacts::new().with_branch("main").with_revision("abc");
    let plan = pipeline().plan(&facts);
    let elsewhere = facts
        .clone()
        .with_build_number(99)
        .with_repository("/another/clone");
    assert_eq!(plan.hash(), pipeline().plan(&elsewhere).hash());
    assert_ne!(
        plan.hash(),
        pipeline().plan(&facts.with_branch("dev")).hash()
    );
}

#[test]
fn the_three_forms_agree() {
    let plan = pipeline().plan(&RunFacts::new().with_branch("dev"));
    let json: serde_json::Value = serde_json::from_str(&plan.to_json()).unwrap();
    assert_eq!(json["jobs"].as_array().unwrap().len(), 4);
    let mermaid = plan.to_mermaid();
    assert!(mermaid.starts_with("flowchart LR\n"), "{mermaid}");
    assert!(mermaid.contains("[\"image\"]:::skipped"), "{mermaid}");
    assert_eq!(mermaid.matches("-->").count(), 2);
}

#[test]
fn one_error_lists_everything_that_is_wrong() {
    let mut orphan = Job::new("never-added");
    let value = orphan.step("make", step_fn(|_cx| async { Ok(1_u8) }));
    let mut first = Job::new("a").requires("c").only_branches(["/(/"]);
    first.step("use", step_fn(|_cx| async { Ok(()) }).reads(&value));
    let mut second = Job::new("A").requires("nobody");
    second.step("x", sh("true"));
    second.step("x", sh("true"));
    let mut third = Job::new("c").requires("a");
    third.step("../escape", sh("true"));
    let error = Pipeline::builder("broken")
        .job(first)
        .job(second)
        .job(third)
        .job(Job::new("empty"))
        .build()
        .unwrap_err();
    let text = error.to_string();
    for finding in [
        "the job names a and A are the same",
        "step a/use reads the value of never-added/make",
        "job A requires nobody",
        "job A has two steps named x",
        "\"../escape\" cannot be used: it holds a slash",
        "job empty has no steps",
        "is not a regular expression",
        "the jobs wait for each other: ",
    ] {
        assert!(text.contains(finding), "{finding} is missing in\n{text}");
    }
    assert_eq!(error.findings.len(), 8, "{text}");
}

#[test]
fn a_handle_must_come_from_an_earlier_step() {
    let mut job = Job::new("a");
    let mut later = Job::new("a");
    let value = later.step("second", step_fn(|_cx| async { Ok(1_u8) }));
    job.step("first", step_fn(|_cx| async { Ok(()) }).reads(&value));
    job.step("second", step_fn(|_cx| async { Ok(1_u8) }));
    assert!(Pipeline::builder("p").job(job).build().is_err());
}

#[test]
fn a_hundred_thousand_jobs_are_ordinary() {
    let mut builder = Pipeline::builder("wide");
    for number in 0..100_000 {
        let mut job = Job::new(format!("job {number}"));
        if number > 0 {
            // A tree: each job waits for the one at half its number.
            job = job.requires(format!("job {}", number / 2));
        }
        job.step("go", sh("true"));
        builder = builder.job(job);
    }
    let pipeline = builder.build().unwrap();
    let plan = pipeline.plan(&RunFacts::new().with_branch("main"));
    assert_eq!(plan.jobs.len(), 100_000);
    assert_eq!(plan.jobs[0].name, "job 0");
    assert_eq!(plan.to_mermaid().matches("-->").count(), 99_999);
}
