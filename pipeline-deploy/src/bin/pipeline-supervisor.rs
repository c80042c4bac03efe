//! The supervisor of local targets as a program of its own, for embedders that do not want
//! to start themselves again in that role: `pipeline-supervisor FOLDER`.

use std::process::ExitCode;

#[cfg(target_os = "linux")]
#[expect(
    clippy::print_stderr,
    reason = "it is a program; its errors go to its log"
)]
fn main() -> ExitCode {
    let Some(folder) = std::env::args_os().nth(1) else {
        eprintln!("usage: pipeline-supervisor FOLDER");
        return ExitCode::from(2);
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let end = runtime.map(|runtime| runtime.block_on(pipeline_deploy::local::supervise(folder)));
    match end {
        Ok(Ok(_)) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            let cause = std::error::Error::source(&error);
            let cause = cause.map(|cause| format!(": {cause}")).unwrap_or_default();
            eprintln!("{error}{cause}");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("no runtime: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    ExitCode::FAILURE
}
