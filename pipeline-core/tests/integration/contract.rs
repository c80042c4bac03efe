pipeline_core::executor_contract!(async {
    pipeline_core::LocalExecutor::new().with_env(crate::environment())
});

/// The contract about descriptors once more, in a program that has inherited some.
#[test]
fn inherited_descriptors_are_not_passed_on() {
    let script = "exec 7</dev/null 31>/dev/null; exec \"$@\"";
    let output = std::process::Command::new("bash")
        .args(["-c", script, "bash"])
        .arg(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "contract::only_the_standard_descriptors_are_open",
        ])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
