//! Dockerfiles that builders write: `docker:go`, `docker:node`, `docker:cargo`.
//!
//! Each is a function of the options and of the names of its base images, which are digests by then.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use groundswell_common::builds::BaseImage;
use groundswell_common::messages::ImageRef;

use super::docker::{self, Recipe};
use super::settings::Settings;
use super::tree::{Content, Files};
use super::{BuildError, BuildRequest, Builders, Watch};

pub(super) mod cargo;
pub(super) mod go;
pub(super) mod node;

/// Name of the file in the build's context.
const DOCKERFILE: &str = "Dockerfile.groundswell";

/// Builds a request on these base images.
pub(super) async fn build(
    builders: &Builders,
    request: &BuildRequest,
    images: &[BaseImage],
    watch: &Watch,
) -> Result<ImageRef, BuildError> {
    let engine = docker::connect().await?;
    let recipe = match request.builder.as_str() {
        "docker:go" => go::recipe(builders, request, images, &engine, watch).await?,
        "docker:node" => node::recipe(request, images).await?,
        _ => cargo::recipe(request, images).await?,
    };
    let id = docker::build_image(&engine, request, recipe, watch).await?;
    docker::save_built(builders, &engine, &id, watch).await
}

/// What the engine is to build from these files with this Dockerfile.
fn recipe(mut files: Files, dockerfile: String) -> Recipe {
    files.insert(DOCKERFILE.into(), Content::Text(dockerfile));
    Recipe {
        files,
        dockerfile: DOCKERFILE.into(),
        arguments: BTreeMap::new(),
        network: "host".to_owned(),
        stage: String::new(),
    }
}

/// The base images that a builder's options name: option, name.
pub(super) fn base_images(
    request: &BuildRequest,
) -> Result<Vec<(&'static str, String)>, BuildError> {
    let settings = Settings(request);
    let named = |key: &'static str, default: &str| -> Result<(&'static str, String), BuildError> {
        Ok((key, settings.text(key)?.unwrap_or_else(|| default.to_owned())))
    };
    let mut images = match request.builder.as_str() {
        "docker:go" => vec![named("build_base_image", go::BUILD_BASE_IMAGE)?],
        "docker:cargo" => vec![named("build_base_image", cargo::BUILD_BASE_IMAGE)?],
        "docker:node" => return Ok(vec![named("base_image", node::BASE_IMAGE)?]),
        _ => return Ok(Vec::new()),
    };
    if !settings.flag("skip_runtime_image")? {
        let default =
            if request.builder == "docker:go" { go::RUNTIME_IMAGE } else { cargo::RUNTIME_IMAGE };
        images.push(named("runtime_image", default)?);
    }
    Ok(images)
}

/// A line that runs a command without a shell.
fn run<S: AsRef<str>>(words: &[S]) -> String {
    let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
    format!("RUN {}\n", serde_json::json!(words))
}

/// Lines that set variables.
fn env<'a>(variables: impl IntoIterator<Item = (&'a String, &'a String)>) -> String {
    let quoted = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace('$', "\\$");
    variables
        .into_iter()
        .map(|(name, value)| format!("ENV {name}=\"{}\"\n", quoted(value)))
        .collect()
}

/// A directory in the image, for a path in the plan.
fn inside(root: &str, path: &Path) -> String {
    // An empty path leaves no slash behind.
    Path::new(root).join(path).components().collect::<PathBuf>().display().to_string()
}

/// A line that begins a stage, and one that says which image that is to people.
fn from(image: &BaseImage, stage: &str) -> String {
    format!("# {}\nFROM {} AS {stage}\n", image.name, image.digest)
}

#[cfg(test)]
pub(super) mod tests {
    use groundswell_common::messages::RuntimeKind;
    use serde_json::Value;

    use super::*;

    pub(super) fn request(builder: &str, config: Value) -> BuildRequest {
        let Value::Object(config) = config else { panic!("options are a table") };
        BuildRequest {
            builder: builder.into(),
            config,
            selectors: Vec::new(),
            dependencies: Vec::new(),
            source: PathBuf::new(),
            plan: "mesh".into(),
            runtime: RuntimeKind::Docker,
            no_cache: false,
        }
    }

    /// The base images of a request, with digests made up.
    pub(super) fn images(request: &BuildRequest) -> Vec<BaseImage> {
        let images = base_images(request).expect("options are right");
        let digest = |name: &str| format!("{}@sha256:d", name.split(':').next().unwrap_or(name));
        images.into_iter().map(|(_, name)| BaseImage { digest: digest(&name), name }).collect()
    }

    #[test]
    fn a_value_cannot_leave_its_line() {
        let variables = [("A".to_owned(), "a \"b\" $c \\".to_owned())];
        let line = env(variables.iter().map(|(name, value)| (name, value)));
        assert_eq!(line, "ENV A=\"a \\\"b\\\" \\$c \\\\\"\n");
        assert_eq!(run(&["sh", "-c", "echo \"x\""]), "RUN [\"sh\",\"-c\",\"echo \\\"x\\\"\"]\n");
    }

    #[test]
    fn testgrounds_base_images_are_the_defaults() {
        let names = |builder: &str, config: Value| {
            let images = base_images(&request(builder, config)).expect("right");
            images.into_iter().map(|(_, name)| name).collect::<Vec<_>>()
        };
        assert_eq!(
            names("docker:go", Value::Object(Default::default())),
            ["golang:1.16-buster", "busybox:1.31.1-glibc"]
        );
        assert_eq!(names("docker:node", Value::Object(Default::default())), ["node:16-buster"]);
        let own = serde_json::json!({"build_base_image": "go:own", "skip_runtime_image": true});
        assert_eq!(names("docker:go", own), ["go:own"]);
    }
}
