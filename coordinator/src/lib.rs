//! Plans runs, assigns instances to workers, reports.
//!
//! ```text
//! build     from a plan's source to an image in the object store
//! ```

pub mod build;
