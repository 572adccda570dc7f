//! `docker:go`: a Go module to an image, with Testground's options.
//!
//! | option | meaning | default |
//! |---|---|---|
//! | `path`, `exec_pkg`, `modfile`, `fresh_gomod`, `module_path`, `enable_cgo` | as for `exec:go` | |
//! | `build_base_image` | where it is compiled | `golang:1.16-buster` |
//! | `runtime_image` | where it runs | `busybox:1.31.1-glibc` |
//! | `skip_runtime_image` | it runs where it was compiled | `false` |
//! | `go_proxy_mode` | `local`: a proxy in a container, kept for later builds; `direct`; `remote` | `local` |
//! | `go_proxy_url` | the proxy of mode `remote` | |
//! | `enable_go_build_cache` | keeps an image with the modules and what was compiled | `false` |
//! | `dockerfile_extensions` | lines for `pre_` and `post_` of `mod_download`, `source_copy`, `build`, `runtime_copy` | none |
//!
//! The plan is in `/plan`, a linked SDK in `/sdk`, the program is `/testplan`.

use std::collections::BTreeMap;
use std::path::Path;

use bollard::Docker;
use groundswell_common::builds::BaseImage;
use groundswell_common::objects::digest;

use super::super::docker::{self, Recipe};
use super::super::go::Options;
use super::super::settings::Settings;
use super::super::tree::{Content, Files};
use super::super::{BuildError, BuildRequest, Builders, Watch, base, blocking};
use super::{env, from, inside, run};

pub(super) const BUILD_BASE_IMAGE: &str = "golang:1.16-buster";
pub(super) const RUNTIME_IMAGE: &str = "busybox:1.31.1-glibc";

const EXTENSIONS: [&str; 8] = [
    "pre_mod_download",
    "post_mod_download",
    "pre_source_copy",
    "post_source_copy",
    "pre_build",
    "post_build",
    "pre_runtime_copy",
    "post_runtime_copy",
];

/// What the Dockerfile depends on besides the request.
#[derive(Debug, Clone, Copy)]
struct Given<'a> {
    /// The options that `exec:go` has as well.
    options: &'a Options,
    /// What is replaced, for a module that gets a new `go.mod`.
    replaces: &'a [(String, String)],
    /// Whether `go.mod` names directories beside it, which have to be there before modules are fetched.
    names_directories: bool,
    /// Value of `GOPROXY`.
    proxy: &'a str,
    /// The images it is built on.
    images: &'a [BaseImage],
    /// An image with what earlier builds have fetched and compiled.
    warmed: Option<&'a str>,
}

/// What the engine is to build.
pub(super) async fn recipe(
    builders: &Builders,
    request: &BuildRequest,
    images: &[BaseImage],
    engine: &Docker,
    watch: &Watch,
) -> Result<Recipe, BuildError> {
    let options = Options::read(Settings(request))?;
    let source = request.source.clone();
    let mut files = blocking("read the plan's source", move || docker::context(&source)).await?;
    let module = Path::new("plan").join(&options.path);
    let replaces = options.edit_module(builders, request, &mut files, &module).await?;
    let go_mod = text_of(&files, &module.join(&options.modfile));
    let (proxy, network) = match &options.proxy {
        Some(proxy) => (proxy.clone(), "host".to_owned()),
        None => base::go_proxy(engine, watch)
            .await
            .unwrap_or_else(|| ("direct".to_owned(), "host".to_owned())),
    };
    let given = Given {
        options: &options,
        replaces: &replaces,
        names_directories: go_mod.contains("=> ./") || go_mod.contains("=> ../"),
        proxy: &proxy,
        images,
        warmed: None,
    };
    let of = |given: Given<'_>| -> Result<Recipe, BuildError> {
        let recipe = super::recipe(files.clone(), dockerfile(request, given)?);
        Ok(Recipe { network: network.clone(), ..recipe })
    };
    if !Settings(request).flag("enable_go_build_cache")? {
        return of(given);
    }
    let sums = text_of(&files, &module.join(&options.modfile).with_extension("sum"));
    let input = digest(format!("{}\0{go_mod}\0{sums}", images[0].digest).as_bytes());
    let (repository, tag) = ("groundswell-gocache", &input[7..23]);
    let name = format!("{repository}:{tag}");
    if engine.inspect_image(&name).await.is_err() {
        let stage = Recipe { stage: "builder".to_owned(), ..of(given)? };
        let id = docker::build_image(engine, request, stage, watch).await?;
        docker::tag(engine, &id, repository, tag).await?;
    }
    of(Given { warmed: Some(&name), ..given })
}

fn text_of(files: &Files, path: &Path) -> String {
    match files.get(path) {
        Some(Content::Copy(from)) => std::fs::read_to_string(from).unwrap_or_default(),
        Some(Content::Text(text)) => text.clone(),
        Some(Content::Directory) | None => String::new(),
    }
}

/// The Dockerfile.
fn dockerfile(request: &BuildRequest, given: Given<'_>) -> Result<String, BuildError> {
    let extensions = extensions(Settings(request))?;
    let extension =
        |name: &str| extensions.get(name).map_or(String::new(), |text| format!("{text}\n"));
    let mut text = builder_stage(given);
    let download = download(given);
    text += &[extension("pre_mod_download"), download, extension("post_mod_download")].concat();
    text += &[extension("pre_source_copy"), "COPY . /\n".to_owned()].concat();
    text += &extension("post_source_copy");
    text += &fresh(given);
    let build = given.options.arguments(request, Path::new("testplan.bin"));
    let build = [vec!["go".to_owned()], build].concat();
    text += &[extension("pre_build"), run(&build), extension("post_build")].concat();
    text += "RUN go list -m all > /testground_dep_list\n";
    if let Some(runtime) = given.images.get(1) {
        text += &from(runtime, "runtime");
        text += &format!("ENV PLAN_DIR={0}\n", plan_dir(given.options));
        text += &extension("pre_runtime_copy");
        text += "COPY --from=builder /testground_dep_list /\n";
        text += "COPY --from=builder ${PLAN_DIR}/testplan.bin /testplan\n";
    } else {
        text += &extension("pre_runtime_copy");
        text += "RUN cp testplan.bin /testplan\n";
    }
    text += &extension("post_runtime_copy");
    text += "EXPOSE 6060\nENTRYPOINT [\"/testplan\"]\n";
    Ok(text)
}

fn builder_stage(given: Given<'_>) -> String {
    let base = &given.images[0];
    let mut text = match given.warmed {
        None => from(base, "builder"),
        Some(warmed) => {
            let begin = format!("# {}, with what was fetched and compiled before\n", base.name);
            format!("{begin}FROM {warmed} AS builder\nRUN rm -rf /plan /sdk /replaced\n")
        }
    };
    let variables = [
        ("PLAN_DIR", plan_dir(given.options)),
        ("SDK_DIR", "/sdk".to_owned()),
        ("GOPROXY", given.proxy.to_owned()),
        ("GOCACHE", "/go/cache".to_owned()),
        ("CGO_ENABLED", u8::from(given.options.cgo).to_string()),
        ("TESTPLAN_EXEC_PKG", given.options.package.clone()),
    ];
    let variables = variables.map(|(name, value)| (name.to_owned(), value));
    text += &env(variables.iter().map(|(name, value)| (name, value)));
    text + "WORKDIR ${PLAN_DIR}\n"
}

fn plan_dir(options: &Options) -> String {
    inside("/plan", &options.path)
}

/// Fetches modules in a step of its own, so that a change of the source does not fetch them again.
fn download(given: Given<'_>) -> String {
    let options = given.options;
    if options.fresh.is_some() {
        return String::new();
    }
    let mut text = if given.names_directories {
        "COPY . /\n".to_owned()
    } else {
        let directory = Path::new("plan").join(&options.path);
        let sums = Path::new(&options.modfile).with_extension("sum");
        let shown = |name: &Path| directory.join(name).display().to_string();
        let copied = [shown(Path::new(&options.modfile)), shown(&sums) + "*", "./".to_owned()];
        format!("COPY {}\n", serde_json::json!(copied))
    };
    let mut words = vec!["go".to_owned(), "mod".to_owned(), "download".to_owned()];
    if options.modfile != "go.mod" {
        words.push(format!("-modfile={}", options.modfile));
    }
    text += &run(&words);
    text
}

/// Makes the new `go.mod` that was asked for.
fn fresh(given: Given<'_>) -> String {
    let Some(module) = &given.options.fresh else { return String::new() };
    let mut text = run(&["go", "mod", "init", module]);
    for (module, target) in given.replaces {
        let replace = format!("-replace={module}={}", target.replacen(' ', "@", 1));
        text += &run(&["go", "mod", "edit", &replace]);
    }
    text
}

fn extensions(settings: Settings<'_>) -> Result<BTreeMap<String, String>, BuildError> {
    let extensions = settings.table("dockerfile_extensions")?;
    if let Some(unknown) = extensions.keys().find(|key| !EXTENSIONS.contains(&key.as_str())) {
        let reason = format!("there is no `{unknown}`; there are: {}", EXTENSIONS.join(", "));
        return Err(settings.wrong("dockerfile_extensions", reason));
    }
    Ok(extensions)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{images, request};
    use super::*;

    fn options() -> Options {
        Options {
            path: "".into(),
            package: ".".into(),
            modfile: "go.mod".into(),
            fresh: None,
            cgo: false,
            proxy: None,
            replaces: false,
        }
    }

    fn text(request: &BuildRequest, options: &Options, warmed: Option<&str>) -> String {
        let given = Given {
            options,
            replaces: &[("h/m".to_owned(), "h/fork v1.2.0".to_owned())],
            names_directories: options.replaces,
            proxy: "direct",
            images: &images(request),
            warmed,
        };
        dockerfile(request, given).expect("written")
    }

    #[test]
    fn testgrounds_defaults() {
        let text = text(&request("docker:go", json!({})), &options(), None);
        insta::assert_snapshot!(text, @r#"
        # golang:1.16-buster
        FROM golang@sha256:d AS builder
        ENV PLAN_DIR="/plan"
        ENV SDK_DIR="/sdk"
        ENV GOPROXY="direct"
        ENV GOCACHE="/go/cache"
        ENV CGO_ENABLED="0"
        ENV TESTPLAN_EXEC_PKG="."
        WORKDIR ${PLAN_DIR}
        COPY ["plan/go.mod","plan/go.sum*","./"]
        RUN ["go","mod","download"]
        COPY . /
        RUN ["go","build","-o","testplan.bin","."]
        RUN go list -m all > /testground_dep_list
        # busybox:1.31.1-glibc
        FROM busybox@sha256:d AS runtime
        ENV PLAN_DIR=/plan
        COPY --from=builder /testground_dep_list /
        COPY --from=builder ${PLAN_DIR}/testplan.bin /testplan
        EXPOSE 6060
        ENTRYPOINT ["/testplan"]
        "#);
    }

    #[test]
    fn every_option() {
        let mut request = request(
            "docker:go",
            json!({
                "build_base_image": "go:own",
                "skip_runtime_image": true,
                "dockerfile_extensions": {"pre_build": "RUN echo pre", "post_runtime_copy": "RUN echo post"},
            }),
        );
        request.selectors = vec!["a".into(), "b".into()];
        let options = Options {
            path: "app".into(),
            package: "./cmd".into(),
            modfile: "old.mod".into(),
            cgo: true,
            replaces: true,
            ..options()
        };
        insta::assert_snapshot!(text(&request, &options, Some("sha256:w")), @r#"
        # go:own, with what was fetched and compiled before
        FROM sha256:w AS builder
        RUN rm -rf /plan /sdk /replaced
        ENV PLAN_DIR="/plan/app"
        ENV SDK_DIR="/sdk"
        ENV GOPROXY="direct"
        ENV GOCACHE="/go/cache"
        ENV CGO_ENABLED="1"
        ENV TESTPLAN_EXEC_PKG="./cmd"
        WORKDIR ${PLAN_DIR}
        COPY . /
        RUN ["go","mod","download","-modfile=old.mod"]
        COPY . /
        RUN echo pre
        RUN ["go","build","-o","testplan.bin","-modfile=old.mod","-mod=mod","-tags=a,b","./cmd"]
        RUN go list -m all > /testground_dep_list
        RUN cp testplan.bin /testplan
        RUN echo post
        EXPOSE 6060
        ENTRYPOINT ["/testplan"]
        "#);
    }

    #[test]
    fn a_new_module_file() {
        let options = Options { fresh: Some("h/plan".into()), ..options() };
        insta::assert_snapshot!(text(&request("docker:go", json!({})), &options, None), @r#"
        # golang:1.16-buster
        FROM golang@sha256:d AS builder
        ENV PLAN_DIR="/plan"
        ENV SDK_DIR="/sdk"
        ENV GOPROXY="direct"
        ENV GOCACHE="/go/cache"
        ENV CGO_ENABLED="0"
        ENV TESTPLAN_EXEC_PKG="."
        WORKDIR ${PLAN_DIR}
        COPY . /
        RUN ["go","mod","init","h/plan"]
        RUN ["go","mod","edit","-replace=h/m=h/fork@v1.2.0"]
        RUN ["go","build","-o","testplan.bin","-mod=mod","."]
        RUN go list -m all > /testground_dep_list
        # busybox:1.31.1-glibc
        FROM busybox@sha256:d AS runtime
        ENV PLAN_DIR=/plan
        COPY --from=builder /testground_dep_list /
        COPY --from=builder ${PLAN_DIR}/testplan.bin /testplan
        EXPOSE 6060
        ENTRYPOINT ["/testplan"]
        "#);
    }

    #[test]
    fn an_unknown_extension_is_named() {
        let request = request("docker:go", json!({"dockerfile_extensions": {"pre_built": ""}}));
        let refused = extensions(Settings(&request)).expect_err("refused").to_string();
        assert!(refused.contains("`pre_built`") && refused.contains("pre_build,"), "{refused}");
    }
}
