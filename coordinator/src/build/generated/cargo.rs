//! `docker:cargo`: a Cargo project to an image with one binary.
//!
//! | option | meaning | default |
//! |---|---|---|
//! | `path`, `bin`, `features`, `profile`, `env` | as for `exec:cargo` | |
//! | `build_base_image` | where it is compiled | `rust:1-bookworm` |
//! | `runtime_image` | where it runs | `debian:bookworm-slim` |
//! | `skip_runtime_image` | it runs where it was compiled | `false` |
//!
//! The tree lies in `/src` as it lies at the user's; the program is `/testplan`.

use groundswell_common::builds::BaseImage;

use super::super::cargo::{self, Plan};
use super::super::docker::Recipe;
use super::super::layout::LaidOut;
use super::super::settings::Settings;
use super::super::{BuildError, BuildRequest, blocking};
use super::{env, from, inside, run};

pub(super) const BUILD_BASE_IMAGE: &str = "rust:1-bookworm";
pub(super) const RUNTIME_IMAGE: &str = "debian:bookworm-slim";

/// Copies the only program among what Cargo has made.
const PICK: &str = "find \"$0\" -maxdepth 1 -type f -perm -0100 ! -name '*.so' > /programs; \
    if [ \"$(wc -l < /programs)\" != 1 ]; then \
    echo 'option bin has to name one of the programs:'; cat /programs; exit 1; fi; \
    cp \"$(cat /programs)\" /testplan";

/// What the engine is to build.
pub(super) async fn recipe(
    request: &BuildRequest,
    images: &[BaseImage],
) -> Result<Recipe, BuildError> {
    let settings = Settings(request);
    cargo::check_crate(request)?;
    let source = request.source.clone();
    let mut laid_out = blocking("read the plan's source", move || LaidOut::read(&source)).await?;
    let (plan, _) = Plan::lay_out(request, &mut laid_out)?;
    Ok(super::recipe(laid_out.files, dockerfile(settings, &plan, images)?))
}

/// The Dockerfile.
fn dockerfile(
    settings: Settings<'_>,
    plan: &Plan,
    images: &[BaseImage],
) -> Result<String, BuildError> {
    let mut text = from(&images[0], "builder");
    text += "ENV CARGO_TARGET_DIR=/target\n";
    text += &env(&settings.table("env")?);
    text += &format!("COPY . /src\nWORKDIR {}\n", inside("/src", &plan.directory));
    for (module, version) in &plan.only_locked {
        text += &run(&["cargo", "update", module, "--precise", version]);
    }
    text += &run(&[vec!["cargo".to_owned()], plan.arguments(settings)?].concat());
    let profile = plan.profile(settings)?;
    let output = if profile == "dev" { "debug" } else { &profile };
    match settings.text("bin")? {
        Some(bin) => text += &run(&["cp", &format!("/target/{output}/{bin}"), "/testplan"]),
        None => text += &run(&["sh", "-c", PICK, &format!("/target/{output}")]),
    }
    if let Some(runtime) = images.get(1) {
        text += &from(runtime, "runtime");
        text += "COPY --from=builder /testplan /testplan\n";
    }
    Ok(text + "EXPOSE 6060\nENTRYPOINT [\"/testplan\"]\n")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::tests::{images, request};
    use super::*;

    fn text(config: Value, plan: &Plan) -> String {
        let mut request = request("docker:cargo", config);
        request.selectors = vec!["quic".into()];
        dockerfile(Settings(&request), plan, &images(&request)).expect("written")
    }

    #[test]
    fn the_only_program_of_a_locked_crate() {
        let plan = Plan { directory: "plan".into(), locked: true, only_locked: Vec::new() };
        insta::assert_snapshot!(text(json!({}), &plan), @r#"
        # rust:1-bookworm
        FROM rust@sha256:d AS builder
        ENV CARGO_TARGET_DIR=/target
        COPY . /src
        WORKDIR /src/plan
        RUN ["cargo","build","--profile","release","--locked","--features","quic"]
        RUN ["sh","-c","find \"$0\" -maxdepth 1 -type f -perm -0100 ! -name '*.so' > /programs; if [ \"$(wc -l < /programs)\" != 1 ]; then echo 'option bin has to name one of the programs:'; cat /programs; exit 1; fi; cp \"$(cat /programs)\" /testplan","/target/release"]
        # debian:bookworm-slim
        FROM debian@sha256:d AS runtime
        COPY --from=builder /testplan /testplan
        EXPOSE 6060
        ENTRYPOINT ["/testplan"]
        "#);
    }

    #[test]
    fn one_program_of_a_member_with_another_version_of_a_crate() {
        let only_locked = vec![("libp2p-core".to_owned(), "0.42.1".to_owned())];
        let plan = Plan { directory: "plans/mesh".into(), locked: false, only_locked };
        let config = json!({
            "bin": "mesh", "profile": "dev", "skip_runtime_image": true, "env": {"RUSTFLAGS": "-C a=\"b\""}
        });
        insta::assert_snapshot!(text(config, &plan), @r#"
        # rust:1-bookworm
        FROM rust@sha256:d AS builder
        ENV CARGO_TARGET_DIR=/target
        ENV RUSTFLAGS="-C a=\"b\""
        COPY . /src
        WORKDIR /src/plans/mesh
        RUN ["cargo","update","libp2p-core","--precise","0.42.1"]
        RUN ["cargo","build","--profile","dev","--bin","mesh","--features","quic"]
        RUN ["cp","/target/debug/mesh","/testplan"]
        EXPOSE 6060
        ENTRYPOINT ["/testplan"]
        "#);
    }
}
