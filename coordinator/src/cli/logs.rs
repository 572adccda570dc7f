//! `logs`: what instances print, as they print it, or from the stored outputs once a run is over.

use futures::StreamExt as _;
use groundswell_common::api::RunRequest;
use groundswell_common::bus::decode;
use groundswell_common::messages::LogLines;
use groundswell_common::objects::Objects;
use groundswell_common::run::RunStatus;
use groundswell_common::subjects;
use tokio::time::{Duration, MissedTickBehavior, interval};

use super::args::Logs;
use super::call::call;
use super::connect::Link;
use super::exit::Exit;
use super::keys::Interrupts;
use super::parts::{self, OutputFile, STDERR_FILES, STDOUT_FILES};
use super::progress::log_lines;
use super::summary::place_of;
use super::{Done, Session, Trouble, find};

/// How often the run is asked whether it is over.
const POLL: Duration = Duration::from_secs(1);

/// Which lines are wanted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Filter {
    group: Option<String>,
    in_group: Option<u32>,
    stderr_only: bool,
}

impl Filter {
    /// What the flags say, for the groups of this run.
    fn new(args: &Logs, status: &RunStatus) -> Result<Self, Trouble> {
        let stderr_only = args.stderr;
        let Some(selector) = &args.instance else {
            let filter = Self { group: args.group.clone(), in_group: None, stderr_only };
            return filter.checked(status);
        };
        let bad = || {
            Trouble::new(
                Exit::Usage,
                format!("`{selector}` is not an instance"),
                "give its number in the run, 17, or its group and number there, seeders:3",
            )
        };
        let (group, in_group) = match selector.rsplit_once(':') {
            Some((group, number)) => (group.to_owned(), number.parse().map_err(|_| bad())?),
            None => {
                let number: u32 = selector.parse().map_err(|_| bad())?;
                place_of(status, number).ok_or_else(|| {
                    let message = format!("{} has no instance {number}", status.name);
                    Trouble::new(Exit::NothingSelected, message, "")
                })?
            }
        };
        Self { group: Some(group), in_group: Some(in_group), stderr_only }.checked(status)
    }

    fn checked(self, status: &RunStatus) -> Result<Self, Trouble> {
        let Some(group) = &self.group else { return Ok(self) };
        let known = status.groups.iter().find(|(id, _)| id == group);
        let Some((_, counts)) = known else {
            let all: Vec<&str> = status.groups.iter().map(|(id, _)| id.as_str()).collect();
            let message = format!("{} has no group `{group}`", status.name);
            return Err(Trouble::new(
                Exit::NothingSelected,
                message,
                format!("it has: {}", all.join(", ")),
            ));
        };
        match self.in_group {
            Some(number) if number >= counts.want => Err(Trouble::new(
                Exit::NothingSelected,
                format!("group `{group}` has {} instances, counted from 0", counts.want),
                "",
            )),
            _ => Ok(self),
        }
    }

    fn takes(&self, group: &str, in_group: u32, stderr: bool) -> bool {
        self.group.as_ref().is_none_or(|wanted| wanted == group)
            && self.in_group.is_none_or(|wanted| wanted == in_group)
            && (stderr || !self.stderr_only)
    }
}

pub(crate) async fn run(session: &Session, args: &Logs) -> Done {
    let found = find::run(session, &args.run).await?;
    let filter = Filter::new(args, &found.status)?;
    if found.status.phase.is_over() {
        return stored(session, &found.objects(session).await?, &found.status, &filter).await;
    }
    match &found.link {
        Some(link) if args.follow => follow(session, link, &found.status, &filter).await,
        Some(_) | None => Err(Trouble::new(
            Exit::NothingSelected,
            format!("{} is going on, and its logs are stored at its end", found.status.name),
            format!("follow it: coordinator logs {} -f", found.status.name),
        )),
    }
}

async fn follow(session: &Session, link: &Link, status: &RunStatus, filter: &Filter) -> Done {
    let mut interrupts =
        Interrupts::listen().map_err(|err| Trouble::from_error(Exit::Internal, &err))?;
    let subject = subjects::log_all(&status.run);
    let subscribed = link.bus.client().subscribe(subject).await;
    let mut logs = subscribed.map_err(|err| Trouble::from_error(Exit::Unreachable, &err))?;
    let request = RunRequest { selector: status.run.to_string() };
    let mut poll = interval(POLL);
    poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut over = false;
    loop {
        tokio::select! {
            // Lines first: what was printed before the end is shown before leaving.
            biased;
            Some(message) = logs.next() => {
                if let Ok(lines) = decode::<LogLines>(&message.payload) {
                    print(session, &lines, filter);
                }
            }
            _ = interrupts.next() => return Ok(Exit::Interrupted),
            _ = poll.tick() => {
                if over {
                    return Ok(Exit::Passed);
                }
                let status: RunStatus = call(&link.bus, "run", &request).await?;
                over = status.phase.is_over();
            }
        }
    }
}

fn print(session: &Session, lines: &LogLines, filter: &Filter) {
    if !filter.takes(&lines.group, lines.in_group, lines.stderr) {
        return;
    }
    if session.out.json {
        session.out.json(lines);
    } else {
        log_lines(lines).for_each(|line| session.out.data(line));
    }
}

async fn stored(session: &Session, objects: &Objects, status: &RunStatus, filter: &Filter) -> Done {
    let record = find::record(objects, &status.run).await?;
    let record = record.ok_or_else(|| find::no_such_run(status.run.as_str()))?;
    let failed = |err: anyhow::Error| Trouble::from_error(Exit::Infra, err.as_ref());
    let files = parts::outputs(objects, &record).await.map_err(failed)?;
    let mut shown = 0;
    for (file, stderr) in log_files(&files) {
        if !filter.takes(&file.group, file.in_group, stderr) {
            continue;
        }
        shown += 1;
        let content = parts::read_output(objects, file).await.map_err(failed)?;
        let text = String::from_utf8_lossy(&content);
        let lines = LogLines {
            instance: groundswell_common::ids::InstanceId(instance_number(status, file)),
            group: file.group.clone(),
            in_group: file.in_group,
            stderr,
            lines: text.lines().map(str::to_owned).collect(),
        };
        print(session, &lines, filter);
    }
    if shown > 0 {
        return Ok(Exit::Passed);
    }
    Err(Trouble::new(
        Exit::NothingSelected,
        format!("{} has no stored logs for that", status.name),
        "",
    ))
}

fn instance_number(status: &RunStatus, file: &OutputFile) -> u32 {
    let before = status.groups.iter().take_while(|(group, _)| *group != file.group);
    before.map(|(_, counts)| counts.want).sum::<u32>() + file.in_group
}

/// The files that hold what each instance printed, stdout before stderr. Where the platform's own capture
/// is missing, what the SDK wrote stands in.
fn log_files(files: &[OutputFile]) -> Vec<(&OutputFile, bool)> {
    let mut instances: Vec<(&str, u32)> =
        files.iter().map(|file| (file.group.as_str(), file.in_group)).collect();
    instances.sort_unstable();
    instances.dedup();
    let find = |(group, in_group): (&str, u32), names: &[&str]| {
        names.iter().find_map(|name| {
            files
                .iter()
                .find(|file| file.group == group && file.in_group == in_group && file.path == *name)
        })
    };
    let both = |instance| {
        let stdout = find(instance, &STDOUT_FILES).map(|file| (file, false));
        stdout.into_iter().chain(find(instance, &STDERR_FILES).map(|file| (file, true)))
    };
    instances.into_iter().flat_map(both).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_takes_what_it_names_and_nothing_else() {
        let one = Filter { group: Some("a".into()), in_group: Some(3), stderr_only: false };
        assert!(one.takes("a", 3, false) && one.takes("a", 3, true));
        assert!(!one.takes("a", 4, false) && !one.takes("b", 3, false));
        let errors = Filter { stderr_only: true, ..Filter::default() };
        assert!(errors.takes("b", 0, true) && !errors.takes("b", 0, false));
    }
}
