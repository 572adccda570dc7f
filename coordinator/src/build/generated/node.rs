//! `docker:node`: a Node.js package to an image.
//!
//! | option | meaning | default |
//! |---|---|---|
//! | `path` | directory of the package in the plan | the plan |
//! | `base_image` | where it is installed and runs | `node:16-buster` |
//!
//! `npm ci` installs what the lock file says; `npm start` is the program. Where a group replaces packages, they are
//! written into `package.json`, as dependencies and as overrides, and `npm install` takes them.

use std::path::Path;

use groundswell_common::builds::BaseImage;
use serde_json::{Map, Value, json};

use super::super::dependencies::{self, By, Replaced};
use super::super::docker::{self, Recipe};
use super::super::settings::Settings;
use super::super::tree::Content;
use super::super::{BuildError, BuildRequest, blocking, layout};
use super::{from, inside, run};

pub(super) const BASE_IMAGE: &str = "node:16-buster";

/// What the engine is to build.
pub(super) async fn recipe(
    request: &BuildRequest,
    images: &[BaseImage],
) -> Result<Recipe, BuildError> {
    let settings = Settings(request);
    let path = settings.path("path")?;
    let source = request.source.clone();
    let mut files = blocking("read the plan's source", move || docker::context(&source)).await?;
    let package_directory = Path::new("plan").join(&path);
    let place = package_directory.join("package.json");
    let Ok(text) = std::fs::read_to_string(request.source.join(&place)) else {
        let shown = path.join("package.json").display().to_string();
        return Err(settings.wrong("path", format!("there is no `{shown}` in the plan")));
    };
    let replaced = dependencies::read(request)?;
    for (number, one) in replaced.iter().enumerate() {
        if let By::Directory(directory) = &one.by {
            dependencies::bring(request, &mut files, &one.module, directory, number)?;
        }
    }
    if !replaced.is_empty() {
        let directories = |number| {
            let to = dependencies::brought(number);
            layout::from_to(&package_directory, &to).display().to_string()
        };
        let text = package(settings, &text, &replaced, directories)?;
        files.insert(place, Content::Text(text));
    }
    Ok(super::recipe(files, dockerfile(&path, &images[0], !replaced.is_empty())))
}

/// The Dockerfile.
fn dockerfile(path: &Path, image: &BaseImage, replaces: bool) -> String {
    let directory = inside("/plan", path);
    let install: &[&str] =
        if replaces { &["npm", "install", "--no-audit", "--no-fund"] } else { &["npm", "ci"] };
    format!(
        "{}ENV PLAN_DIR={2}\nWORKDIR ${{PLAN_DIR}}\nCOPY . /\n{}EXPOSE 6060\nENTRYPOINT [\"npm\",\"start\"]\n",
        from(image, "plan"),
        run(install),
        directory,
    )
}

/// Writes what is replaced into a `package.json`. A directory is where `directories` says.
fn package(
    settings: Settings<'_>,
    text: &str,
    replaced: &[Replaced],
    directories: impl Fn(usize) -> String,
) -> Result<String, BuildError> {
    let wrong = |reason: String| settings.wrong("path", format!("its `package.json` {reason}"));
    let package: Value = serde_json::from_str(text).map_err(|err| wrong(err.to_string()))?;
    let Value::Object(mut package) = package else { return Err(wrong("is no object".to_owned())) };
    for (number, one) in replaced.iter().enumerate() {
        let wanted = Value::from(match &one.by {
            By::Git { url, commit } => format!("git+{url}#{commit}"),
            By::Directory(_) => format!("file:{}", directories(number)),
            By::Version(version) => version.clone(),
            By::Module { name, version } => {
                format!("{name}@{version}").trim_end_matches('@').into()
            }
        });
        for section in ["dependencies", "devDependencies", "optionalDependencies"] {
            let named = package.get_mut(section).and_then(|section| section.get_mut(&one.module));
            if let Some(named) = named {
                *named = wanted.clone();
            }
        }
        let overrides = package.entry("overrides").or_insert_with(|| json!({}));
        if let Some(overrides) = overrides.as_object_mut() {
            overrides.insert(one.module.clone(), wanted);
        }
    }
    Ok(pretty(package))
}

fn pretty(package: Map<String, Value>) -> String {
    format!("{:#}\n", Value::Object(package))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{images, request};
    use super::*;

    #[test]
    fn testgrounds_defaults() {
        let images = images(&request("docker:node", json!({})));
        insta::assert_snapshot!(dockerfile(Path::new(""), &images[0], false), @r#"
        # node:16-buster
        FROM node@sha256:d AS plan
        ENV PLAN_DIR=/plan
        WORKDIR ${PLAN_DIR}
        COPY . /
        RUN ["npm","ci"]
        EXPOSE 6060
        ENTRYPOINT ["npm","start"]
        "#);
    }

    #[test]
    fn replaced_packages_are_dependencies_and_overrides() {
        let request = request("docker:node", json!({}));
        let replaced = [
            ("libp2p", By::Version("1.2.3".into())),
            ("deep", By::Directory("../deep".into())),
            ("git", By::Git { url: "https://h/g".into(), commit: "c".into() }),
            ("old", By::Module { name: "npm:fork".into(), version: "2".into() }),
        ];
        let replaced = replaced.map(|(module, by)| Replaced { module: module.into(), by });
        let before = r#"{"name": "plan", "dependencies": {"libp2p": "^1", "x": "1"}}"#;
        let directories = |number| format!("../replaced/{number}");
        let after = package(Settings(&request), before, &replaced, directories).expect("written");
        insta::assert_snapshot!(after, @r#"
        {
          "dependencies": {
            "libp2p": "1.2.3",
            "x": "1"
          },
          "name": "plan",
          "overrides": {
            "deep": "file:../replaced/1",
            "git": "git+https://h/g#c",
            "libp2p": "1.2.3",
            "old": "npm:fork@2"
          }
        }
        "#);
        let image = &images(&request)[0];
        let text = dockerfile(Path::new("app"), image, true);
        assert!(text.contains("WORKDIR ${PLAN_DIR}\n") && text.contains("=/plan/app\n"), "{text}");
        assert!(text.contains("\"npm\",\"install\""), "{text}");
        let refused =
            package(Settings(&request), "[]", &replaced, directories).expect_err("refused");
        assert!(refused.to_string().contains("package.json"), "{refused}");
    }
}
