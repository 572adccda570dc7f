//! Why there is no image, and whose fault that is.

use groundswell_common::objects::ObjectsError;

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// There is no such builder.
    #[error("there is no builder `{builder}`; there are: {known}")]
    Unknown {
        /// What was asked for.
        builder: String,
        /// Which there are.
        known: String,
    },
    /// An option of the builder is wrong.
    #[error("option `{key}` of builder `{builder}`: {reason}")]
    Option {
        /// Whose option.
        builder: String,
        /// Which.
        key: String,
        /// What is wrong.
        reason: String,
    },
    /// What a group replaces is wrong.
    #[error("builder `{builder}`, dependency `{module}`: {reason}")]
    Dependency {
        /// Whose dependency.
        builder: String,
        /// What is replaced.
        module: String,
        /// What is wrong.
        reason: String,
    },
    /// It is not what the lock file says.
    #[error(
        "the lock file does not fit: {what} is {found}, and it says {locked}; \
         `--update-lock` writes what is built"
    )]
    Locked {
        /// What differs.
        what: &'static str,
        /// What there is.
        found: String,
        /// What the lock file says.
        locked: String,
    },
    /// The plan does not build.
    #[error("builder `{builder}` failed: {reason}{}", shown(.last_lines))]
    Failed {
        /// Which builder.
        builder: String,
        /// What went wrong.
        reason: String,
        /// The last lines it printed.
        last_lines: Vec<String>,
    },
    /// A ready artifact that is not there.
    #[error("there is no artifact `{artifact}`: {reason}")]
    Artifact {
        /// What the composition names.
        artifact: String,
        /// Where it was looked for.
        reason: String,
    },
    /// It was canceled.
    #[error("the build was canceled")]
    Canceled,
    /// The object store is the cause.
    #[error(transparent)]
    Objects(#[from] ObjectsError),
    /// This host is the cause.
    #[error("failed to {doing}")]
    Host {
        /// What was tried.
        doing: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl BuildError {
    /// Whether the plan or its composition is the cause, and not this host.
    #[must_use]
    pub fn fault_of_plan(&self) -> bool {
        match self {
            Self::Unknown { .. }
            | Self::Option { .. }
            | Self::Dependency { .. }
            | Self::Locked { .. }
            | Self::Failed { .. }
            | Self::Artifact { .. } => true,
            Self::Canceled | Self::Objects(_) | Self::Host { .. } => false,
        }
    }
}

fn shown(lines: &[String]) -> String {
    lines.iter().map(|line| format!("\n  {line}")).collect()
}
