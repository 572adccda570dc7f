//! The images that others are built on: which they are, what the engine has under their names, and the proxy for
//! Go modules that builds may use.

use std::collections::{BTreeMap, HashMap};

use bollard::Docker;
use bollard::errors::Error as Engine;
use bollard::models::{
    ContainerCreateBody, HostConfig, ImageInspect, Mount, MountType, NetworkCreateRequest,
};
use bollard::query_parameters::{CreateContainerOptions, CreateImageOptions};
use futures::StreamExt as _;
use groundswell_common::builds::{BaseImage, BuildLock};
use groundswell_common::chain::Chain;

use super::settings::Settings;
use super::{BuildError, BuildRequest, Watch, docker, generated, host};

/// Network of builds that use the proxy.
const PROXY_NETWORK: &str = "groundswell-build";
/// The proxy's container and its name in that network.
const PROXY: &str = "groundswell-goproxy";
const PROXY_IMAGE: &str = "goproxy/goproxy";

/// The base images that a request's options name. What the engine lacks is pulled; what `lock` has is taken by its
/// digest.
pub(super) async fn resolve(
    request: &BuildRequest,
    lock: Option<&BuildLock>,
    watch: &Watch,
) -> Result<Vec<BaseImage>, BuildError> {
    let named = generated::base_images(request)?;
    if named.is_empty() {
        return Ok(Vec::new());
    }
    let engine = docker::connect().await?;
    let mut images = Vec::new();
    for (key, name) in named {
        let wanted = lock.and_then(|lock| lock.base_image(&name)).unwrap_or(&name);
        let found = match engine.inspect_image(wanted).await {
            Ok(found) => found,
            Err(_) => {
                watch.say(format!("{}: pulling `{wanted}`", request.builder)).await;
                pull(&engine, wanted).await.map_err(|err| not_pulled(request, key, wanted, err))?;
                let inspected = engine.inspect_image(wanted).await;
                inspected.map_err(host("look at the pulled image"))?
            }
        };
        images.push(BaseImage { digest: digest_of(&found), name });
    }
    Ok(images)
}

/// What the engine has of these names; those it does not have are left out.
pub(super) async fn look_up(engine: &Docker, names: Vec<String>) -> Vec<BaseImage> {
    let mut images = Vec::new();
    for name in names {
        if let Ok(found) = engine.inspect_image(&name).await {
            images.push(BaseImage { digest: digest_of(&found), name });
        }
    }
    images
}

/// A digest that is the same everywhere, or the id of an image that comes from no registry.
fn digest_of(image: &ImageInspect) -> String {
    let digests = image.repo_digests.iter().flatten();
    let digest = digests.min().or(image.id.as_ref());
    digest.cloned().unwrap_or_default()
}

async fn pull(engine: &Docker, name: &str) -> Result<(), Engine> {
    // Without a tag the engine would pull all there are.
    let last = name.rsplit('/').next().unwrap_or(name);
    let name = if last.contains([':', '@']) { name.to_owned() } else { format!("{name}:latest") };
    let options = CreateImageOptions { from_image: Some(name), ..Default::default() };
    let mut steps = std::pin::pin!(engine.create_image(Some(options), None, None));
    while let Some(step) = steps.next().await {
        step?;
    }
    Ok(())
}

/// An image that no registry has is the composition's fault; a registry that does not answer is not.
fn not_pulled(request: &BuildRequest, key: &str, name: &str, err: Engine) -> BuildError {
    if let Engine::DockerResponseServerError { status_code: 404, message } = err {
        let reason = format!("the engine has no image `{name}`, and cannot pull it: {message}");
        return Settings(request).wrong(key, reason);
    }
    host(&format!(
        "pull `{name}`, which option `{key}` of builder `{}` names and the engine does not have",
        request.builder
    ))(err)
}

/// The images that a Dockerfile begins its stages with. What depends on an argument without a value is left out.
pub(super) fn named_in(dockerfile: &str, given: &BTreeMap<String, String>) -> Vec<String> {
    let (mut arguments, mut stages, mut names) = (BTreeMap::new(), Vec::new(), Vec::new());
    for line in dockerfile.lines() {
        let mut words = line.split_whitespace();
        let instruction = words.next().unwrap_or_default().to_ascii_uppercase();
        let words: Vec<&str> = words.filter(|word| !word.starts_with("--")).collect();
        if instruction == "ARG" && stages.is_empty() {
            let default = words.first().and_then(|word| word.split_once('='));
            arguments
                .extend(default.map(|(name, default)| {
                    (name.to_owned(), default.trim_matches('"').to_owned())
                }));
        } else if instruction == "FROM" {
            let argument = |name: &str| given.get(name).or_else(|| arguments.get(name)).cloned();
            let name = words.first().and_then(|name| substituted(name, argument));
            let stage = words.get(2).map_or(String::new(), |stage| stage.to_ascii_lowercase());
            let known = |name: &String| {
                name == "scratch"
                    || stages.contains(&name.to_ascii_lowercase())
                    || names.contains(name)
            };
            names.extend(name.filter(|name| !known(name)));
            stages.push(stage);
        }
    }
    names
}

/// Puts arguments in for `$NAME`, `${NAME}` and `${NAME:-default}`.
fn substituted(text: &str, argument: impl Fn(&str) -> Option<String>) -> Option<String> {
    let (mut result, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once('$') {
        result.push_str(before);
        let (value, remaining) = if let Some(braced) = after.strip_prefix('{') {
            let (inner, remaining) = braced.split_once('}')?;
            let (name, default) = inner.split_once(":-").unwrap_or((inner, ""));
            let default = Some(default.to_owned());
            (argument(name).or(default.filter(|default| !default.is_empty()))?, remaining)
        } else {
            let part_of_name =
                |character: char| character.is_ascii_alphanumeric() || character == '_';
            let end = after.find(|character| !part_of_name(character)).unwrap_or(after.len());
            (argument(&after[..end])?, &after[end..])
        };
        result.push_str(&value);
        rest = remaining;
    }
    Some(result + rest)
}

/// Starts the proxy for Go modules if it does not run. Returns its URL and the network that reaches it, or nothing
/// when there can be none: then modules are fetched directly, as in Testground.
pub(super) async fn go_proxy(engine: &Docker, watch: &Watch) -> Option<(String, String)> {
    match start_proxy(engine).await {
        Ok(()) => Some((format!("http://{PROXY}:8081"), PROXY_NETWORK.to_owned())),
        Err(err) => {
            let cause = Chain(&err).to_string();
            let line = format!("docker:go: no local proxy, modules are fetched directly: {cause}");
            watch.say(line).await;
            None
        }
    }
}

async fn start_proxy(engine: &Docker) -> Result<(), Engine> {
    let running = engine.inspect_container(PROXY, None).await.ok();
    let running = running.and_then(|container| container.state?.running).unwrap_or(false);
    if running {
        return Ok(());
    }
    if engine.inspect_image(PROXY_IMAGE).await.is_err() {
        pull(engine, PROXY_IMAGE).await?;
    }
    let network = NetworkCreateRequest { name: PROXY_NETWORK.to_owned(), ..Default::default() };
    if engine.inspect_network(PROXY_NETWORK, None).await.is_err() {
        engine.create_network(network).await?;
    }
    let volume = Mount {
        typ: Some(MountType::VOLUME),
        source: Some(PROXY.to_owned()),
        target: Some("/go".to_owned()),
        ..Default::default()
    };
    let container = ContainerCreateBody {
        image: Some(PROXY_IMAGE.to_owned()),
        labels: Some(HashMap::from([("dev.groundswell.purpose".to_owned(), "goproxy".to_owned())])),
        host_config: Some(HostConfig {
            mounts: Some(vec![volume]),
            network_mode: Some(PROXY_NETWORK.to_owned()),
            ..Default::default()
        }),
        ..Default::default()
    };
    let options = CreateContainerOptions { name: Some(PROXY.to_owned()), ..Default::default() };
    match engine.create_container(Some(options), container).await {
        // A stopped one is started again.
        Ok(_) | Err(Engine::DockerResponseServerError { status_code: 409, .. }) => {}
        Err(err) => return Err(err),
    }
    engine.start_container(PROXY, None).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_base_images_of_a_dockerfile_are_found() {
        let dockerfile = "ARG BASE=rust:1\nARG NONE\nFROM --platform=linux/amd64 ${BASE} AS builder\n\
                          ARG LATE=x\nFROM $RUNTIME\nCOPY --from=builder /a /a\nFROM builder\nFROM scratch\n\
                          from ${NONE}\nFROM ${OTHER:-alpine:3}\nFROM ${LATE}\n";
        let given = BTreeMap::from([("RUNTIME".to_owned(), "debian:12".to_owned())]);
        let names = named_in(dockerfile, &given);
        assert_eq!(names, ["rust:1", "debian:12", "alpine:3"]);
    }

    #[test]
    fn what_is_pinned_is_the_digest_of_a_registry_or_an_id() {
        let id = Some("sha256:i".to_owned());
        let mut image = ImageInspect { id, ..Default::default() };
        assert_eq!(digest_of(&image), "sha256:i");
        image.repo_digests = Some(vec!["rust@sha256:d".to_owned()]);
        assert_eq!(digest_of(&image), "rust@sha256:d");
    }
}
