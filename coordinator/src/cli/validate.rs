//! `validate`: checks compositions without running them.

use super::args::Validate;
use super::exit::Exit;
use super::inputs::{self, Inputs, Options};
use super::out::Paint;
use super::{Session, Trouble, parts};

pub(crate) async fn run(session: &Session, args: &Validate) -> Exit {
    let options = Options {
        set: &args.set,
        plans: args.plans.as_deref(),
        strict: args.strict,
        run_ids: &[],
        lock: None,
    };
    let mut codes = Vec::new();
    for file in &args.files {
        let name = file.display().to_string();
        match inputs::of_file(session, file, &options).await {
            Ok(inputs) => valid(session, &name, &inputs),
            Err(trouble) => {
                invalid(session, &name, &trouble);
                codes.push(trouble.exit);
            }
        }
    }
    Exit::strongest(&codes)
}

fn valid(session: &Session, name: &str, inputs: &Inputs) {
    if session.out.json {
        let runs: Vec<_> = inputs
            .runs
            .iter()
            .map(|(run, groups)| {
                let groups: Vec<_> = groups
                    .iter()
                    .map(|(id, instances)| serde_json::json!({ "id": id, "instances": instances }))
                    .collect();
                let links = parts::links(&inputs.loaded, &inputs.manifest, run);
                let expects = parts::judging(&inputs.loaded, &inputs.manifest, run);
                serde_json::json!({ "id": run, "groups": groups, "links": links, "expects": expects })
            })
            .collect();
        session.out.json(&serde_json::json!({
            "v": 1, "file": name, "valid": true, "plan": inputs.manifest.name,
            "case": inputs.loaded.case, "runs": runs,
        }));
        return;
    }
    let mark = session.out.paint(Paint::Good, "✔");
    let (plan, case) = (&inputs.manifest.name, &inputs.loaded.case);
    session.out.data(format_args!("{mark} {name}  {plan}/{case}"));
    for (run, groups) in &inputs.runs {
        let sum: u32 = groups.iter().map(|(_, instances)| instances).sum();
        let groups: Vec<String> =
            groups.iter().map(|(id, instances)| format!("{id} {instances}")).collect();
        session.out.data(format_args!("  run {run}: {} = {sum} instances", groups.join(" + ")));
        if let Some(links) = parts::links(&inputs.loaded, &inputs.manifest, run) {
            session.out.data(format_args!("    links: {links}"));
        }
        if let Some(judging) = parts::judging(&inputs.loaded, &inputs.manifest, run) {
            session.out.data(format_args!("    expects: {judging}"));
        }
    }
}

fn invalid(session: &Session, name: &str, trouble: &Trouble) {
    if session.out.json {
        session.out.json(&serde_json::json!({
            "v": 1, "file": name, "valid": false, "message": trouble.message, "help": trouble.help,
        }));
    }
    session.out.error(&format!("{name} is not valid\n{}", trouble.message), &trouble.help);
}
