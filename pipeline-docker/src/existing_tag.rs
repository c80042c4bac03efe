//! [`ExistingTag`].

/// What happens when a tag exists with another digest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ExistingTag {
    /// It is refused, and nothing is changed. Tags are unique by default.
    #[default]
    Refuse,
    /// The tag is moved, as `docker push` and `docker tag` do.
    Move,
}
