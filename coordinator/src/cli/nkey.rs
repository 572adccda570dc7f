//! `nkey`: a key for a coordinator, a worker or a person, and what the NATS servers have to know of it.

use groundswell_common::permissions::Role;
use nkeys::KeyPair;

use super::args::{Nkey, RoleName};
use super::exit::Exit;
use super::{Done, Session, Trouble, secret};

pub(crate) fn run(session: &Session, args: &Nkey) -> Done {
    let role = role(args)?;
    let pair = KeyPair::new_user();
    let seed = pair.seed().map_err(|err| Trouble::from_error(Exit::Internal, &err))?;
    secret::keep(&args.file, &seed)?;
    let public = pair.public_key();
    if session.out.json {
        let entry = role.user(&public);
        session.out.json(&serde_json::json!({ "v": 1, "public": public, "entry": entry }));
        return Ok(Exit::Passed);
    }
    session.out.data(role.user(&public).trim_end());
    session.out.note(format_args!(
        "the seed is in {}, and nowhere else. The entry above goes into `users = [ … ]` of the servers' users.conf",
        args.file.display()
    ));
    Ok(Exit::Passed)
}

fn role(args: &Nkey) -> Result<Role, Trouble> {
    let usage = |message: &str, help: &str| Trouble::new(Exit::Usage, message.to_owned(), help);
    match (args.role, &args.name) {
        (RoleName::Worker, Some(name)) => {
            let name = name.parse().map_err(|err| Trouble::from_error(Exit::Usage, &err))?;
            Ok(Role::Worker(name))
        }
        (RoleName::Worker, None) => {
            Err(usage("a worker's key is for one worker", "give --name, as in its configuration"))
        }
        (_, Some(_)) => Err(usage("only a worker's key has a name", "leave --name out")),
        (RoleName::Coordinator, None) => Ok(Role::Coordinator),
        (RoleName::Submitter, None) => Ok(Role::Submitter),
        (RoleName::Viewer, None) => Ok(Role::Viewer),
    }
}
