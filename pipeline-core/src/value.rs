//! Typed values that flow from step to step, and the handles that stand for
//! them while the pipeline is being described.

use std::{fmt, marker::PhantomData, sync::Arc};

use serde::{Serialize, de::DeserializeOwned};

/// What a step may produce: it is recorded in the run's folder, so that a
/// resumed run and a worker on another machine can read it.
pub trait StepOutput: Serialize + DeserializeOwned + Clone + Send + Sync + 'static {}

impl<T: Serialize + DeserializeOwned + Clone + Send + Sync + 'static> StepOutput for T {}

/// Names the step that produces a value: the end of an edge of the graph.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct InputRef {
    /// The job.
    pub job: Arc<str>,
    /// The step.
    pub step: Arc<str>,
}

impl fmt::Display for InputRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.job, self.step)
    }
}

/// A value that a step will produce.
///
/// Giving the handle to a step of another job draws the edge between the two
/// jobs: the graph follows the data.
pub struct Output<T> {
    source: InputRef,
    value: PhantomData<fn() -> T>,
}

impl<T> Output<T> {
    pub(crate) fn new(job: Arc<str>, step: Arc<str>) -> Self {
        Self {
            source: InputRef { job, step },
            value: PhantomData,
        }
    }

    /// The step that produces the value.
    #[must_use]
    pub fn source(&self) -> &InputRef {
        &self.source
    }
}

impl<T> Clone for Output<T> {
    fn clone(&self) -> Self {
        Self {
            source: self.source.clone(),
            value: PhantomData,
        }
    }
}

impl<T> fmt::Debug for Output<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Output({})", self.source)
    }
}

/// What a step works on: a value known now, or one that a step will produce.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Input<T> {
    /// Known now.
    Value(T),
    /// Produced by a step.
    Output(Output<T>),
}

impl<T> Input<T> {
    /// The edge that this input draws, if any; what [`Step::inputs`] returns
    /// for each of its inputs.
    ///
    /// [`Step::inputs`]: crate::Step::inputs
    #[must_use]
    pub fn edge(&self) -> Option<InputRef> {
        match self {
            Self::Value(_) => None,
            Self::Output(output) => Some(output.source.clone()),
        }
    }
}

impl<T> From<T> for Input<T> {
    fn from(value: T) -> Self {
        Self::Value(value)
    }
}

impl<T> From<Output<T>> for Input<T> {
    fn from(output: Output<T>) -> Self {
        Self::Output(output)
    }
}

impl<T> From<&Output<T>> for Input<T> {
    fn from(output: &Output<T>) -> Self {
        Self::Output(output.clone())
    }
}
