#![doc = include_str!("../README.md")]

mod cancel;
pub mod event;
pub mod executor;
mod facts;
mod outcome;
pub mod pipeline;
pub mod report;
pub mod runner;
pub mod secret;
pub mod source;
pub mod step;
mod value;

pub use cancel::CancelToken;
pub use event::{Event, EventKind, EventSink};
pub use executor::{
    CommandSpec, EnvValue, Environment, EnvironmentFacts, EnvironmentRequest, Executor,
    ExecutorError, ExitStatus, LocalExecutor, OutputChunk, Process, Scope, Stream,
};
pub use facts::{BuiltinVariables, RunFacts};
pub use outcome::{FailureReport, Outcome};
pub use pipeline::{Job, Pipeline, PipelineBuilder, PipelineError, Plan};
pub use report::{Reporter, ReporterError};
pub use runner::{JobReport, Run, RunError, RunReport, Runner, StepReport};
pub use secret::{Redactor, Secret};
pub use step::{
    CommandOutcome, CommandStep, Recorder, RetryPolicy, Step, StepContext, StepError, StepOptions,
    StepRecording, When, error_chain, sh, step_fn,
};
pub use value::{Input, InputRef, Output, StepOutput};
