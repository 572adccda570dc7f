//! `token`: makes, lists and revokes the tokens of a cluster.

use groundswell_common::token::{Scope, Token, TokenInfo, TokenRequest, TokenRevocation};

use super::args::{self, CreateToken, TokenCommand};
use super::call::call;
use super::exit::Exit;
use super::out::List;
use super::{Done, Session, Trouble, connect, secret};

pub(crate) async fn run(session: &Session, command: TokenCommand) -> Done {
    match command {
        TokenCommand::Create(args) => create(session, args).await,
        TokenCommand::Ls(args) => ls(session, &args).await,
        TokenCommand::Revoke { id } => revoke(session, id).await,
    }
}

/// Tokens are a cluster's; a stack of this machine asks for none.
async fn cluster(session: &Session) -> Result<connect::Link, Trouble> {
    connect::for_submit(session).await?.ok_or_else(|| {
        Trouble::new(
            Exit::Usage,
            "tokens are those of a cluster, and none is configured",
            "name one with --nats",
        )
    })
}

async fn create(session: &Session, args: CreateToken) -> Done {
    let link = cluster(session).await?;
    let token = Token::generate();
    // The file first: a token whose secret has no place to go is of no use to anybody.
    secret::keep(&args.file, &token.reveal())?;
    let request = TokenRequest {
        id: token.id().to_owned(),
        digest: token.digest(),
        name: args.name,
        scopes: args.scopes.into_iter().map(Scope::from).collect(),
        team: args.team,
        user: args.user,
        seconds: args.expires.map(|expires| expires.as_secs()),
    };
    let made: TokenInfo = match call(&link.bus, "token", &request).await {
        Ok(made) => made,
        Err(trouble) => {
            secret::discard(&args.file);
            return Err(trouble);
        }
    };
    if session.out.json {
        session.out.json(&made);
    }
    session.out.note(format_args!(
        "token {} is in {}, and nowhere else; use it with --token-file or GROUNDSWELL_TOKEN_FILE",
        made.id,
        args.file.display()
    ));
    Ok(Exit::Passed)
}

async fn ls(session: &Session, args: &args::List) -> Done {
    let link = cluster(session).await?;
    let tokens: Vec<TokenInfo> = call(&link.bus, "tokens", &()).await?;
    const HEADERS: [&str; 8] =
        ["ID", "NAME", "SCOPES", "TEAM", "EXPIRES", "LAST USED", "USER", "CREATED"];
    let row = |token: &TokenInfo| {
        let scopes: Vec<&str> = token.scopes.iter().map(|scope| scope.as_str()).collect();
        vec![
            token.id.clone(),
            token.name.clone(),
            scopes.join(","),
            token.team.clone().unwrap_or_default(),
            token.expires_ms.map_or_else(|| "never".to_owned(), day),
            token.used_ms.map_or_else(|| "never".to_owned(), day),
            token.user().to_owned(),
            day(token.created_ms),
        ]
    };
    let rows = tokens.iter().map(row).collect();
    let list = List { headers: &HEADERS, name: 0, wide_from: 6, rows, values: &tokens };
    session.out.list(&list, args.format);
    if tokens.is_empty() {
        session.out.note("there are no tokens");
    }
    Ok(Exit::Passed)
}

async fn revoke(session: &Session, id: String) -> Done {
    let link = cluster(session).await?;
    let info: TokenInfo = call(&link.bus, "revoke", &TokenRevocation { id }).await?;
    if session.out.json {
        session.out.json(&info);
    }
    session.out.note(format_args!("token {} ({}) is revoked", info.id, info.name));
    Ok(Exit::Passed)
}

/// The time to the minute, in UTC.
fn day(unix_ms: u64) -> String {
    let time =
        i64::try_from(unix_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    time.map_or_else(String::new, |time| time.strftime("%Y-%m-%d %H:%M").to_string())
}
