//! Who may call: the actor's side towards tokens.

use std::path::Path;

use async_nats::Message;
use groundswell_common::api::{Refusal, RefusalKind};
use groundswell_common::ids::RunId;
use groundswell_common::token::{
    Scope, TOKEN_HEADER, Token, TokenInfo, TokenRequest, TokenRevocation,
};
use tracing::{info, warn};

use super::actor::Actor;
use super::effects::{Done, unavailable, unix_ms};
use super::{ServiceConfig, ServiceError};
use crate::ledger::{Ledger, LedgerError};
use crate::tokens::{Caller, Kept, Tokens, check_request};

/// The name of the token that is made when there is none for an admin.
const FIRST: &str = "admin";

/// Reads the tokens; where they are required and there is none for an admin, one is made and written into a file.
pub(super) async fn load(config: &ServiceConfig, ledger: &Ledger) -> Result<Tokens, ServiceError> {
    let now_ms = unix_ms();
    let mut tokens = Tokens::new(config.first_token.is_some(), ledger.tokens().await?);
    let Some(path) = &config.first_token else { return Ok(tokens) };
    if tokens.has_admin(now_ms) {
        return Ok(tokens);
    }
    let token = Token::generate();
    let request = TokenRequest {
        id: token.id().to_owned(),
        digest: token.digest(),
        name: FIRST.to_owned(),
        scopes: vec![Scope::Admin],
        team: None,
        user: None,
        seconds: None,
    };
    // The file first: a token whose secret nobody has would keep another one from being made.
    write_secret(path, &token.reveal())
        .map_err(|source| ServiceError::FirstToken { path: path.clone(), source })?;
    let kept = Kept::of(request, now_ms);
    ledger.put_token(&kept).await?;
    info!(path = %path.display(), id = token.id(), "there was no admin's token, one is in a file");
    tokens.add(kept);
    Ok(tokens)
}

/// Replaces a file as a whole, for its owner's eyes only.
fn write_secret(path: &Path, secret: &str) -> std::io::Result<()> {
    use std::io::Write as _;

    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new("."));
    std::fs::create_dir_all(directory)?;
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    writeln!(file, "{secret}")?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

impl Actor {
    /// Finds out who makes a call.
    pub(super) fn caller(&mut self, message: &Message, call: &str) -> Result<Caller, Refusal> {
        let headers = message.headers.as_ref();
        let token = headers.and_then(|headers| headers.get(TOKEN_HEADER));
        let now_ms = unix_ms();
        let token = token.map(|token| token.as_str());
        let caller = self.tokens.check(token, call, now_ms).inspect_err(|refusal| {
            warn!(call, reason = refusal.message, "call refused");
        })?;
        if let Caller::Holder(holder) = &caller {
            if Scope::of_call(call) != Scope::Read {
                info!(call, token = holder.id, user = holder.user(), "call");
            }
            if let Some(kept) = self.tokens.used(&holder.id, now_ms) {
                self.ledger.remember_token(&kept);
            }
        }
        Ok(caller)
    }

    /// Whether a caller may act on a run; one that is over is nobody's any more.
    pub(super) fn may_act_on(&self, caller: &Caller, run: &RunId) -> Result<(), Refusal> {
        let Some(team) = self.team_of(run) else { return Ok(()) };
        if caller.may_act_for(&team) {
            return Ok(());
        }
        Err(Refusal {
            kind: RefusalKind::Forbidden,
            message: format!("{} ({run}) is a run of team `{team}`", run.name()),
            help: "ask that team, or use an admin's token".to_owned(),
        })
    }

    pub(super) fn call_tokens(&mut self, message: Message) {
        let tokens = self.tokens.list();
        self.answer(message, Ok(tokens));
    }

    pub(super) fn call_token(&mut self, message: Message) {
        let Some((message, request)) = self.decoded::<TokenRequest>(message) else { return };
        if let Err(refusal) = check_request(&request) {
            return self.answer::<TokenInfo>(message, Err(refusal));
        }
        if let Some(kept) = self.tokens.get(&request.id) {
            // The same call again, when its answer was lost.
            let same = kept.digest == request.digest;
            let answer = if same { Ok(kept.info.clone()) } else { Err(taken(&request.id)) };
            return self.answer(message, answer);
        }
        let kept = Kept::of(request, unix_ms());
        let ledger = self.ledger.clone();
        self.effects.spawn(async move {
            let written = ledger.put_token(&kept).await;
            Done::TokenKept(message, Box::new(kept), written)
        });
    }

    pub(super) fn token_kept(
        &mut self,
        message: Message,
        kept: Kept,
        written: Result<(), LedgerError>,
    ) {
        if let Err(err) = written {
            let refusal = unavailable("the control state does not take the token", &err);
            return self.answer::<TokenInfo>(message, Err(refusal));
        }
        info!(id = kept.info.id, name = kept.info.name, "token made");
        let info = kept.info.clone();
        self.tokens.add(kept);
        self.answer(message, Ok(info));
    }

    pub(super) fn call_revoke(&mut self, message: Message) {
        let Some((message, request)) = self.decoded::<TokenRevocation>(message) else { return };
        if self.tokens.get(&request.id).is_none() {
            return self.answer::<TokenInfo>(message, Err(no_token(&request.id)));
        }
        let ledger = self.ledger.clone();
        self.effects.spawn(async move {
            let removed = ledger.remove_token(&request.id).await;
            Done::TokenRevoked(message, request.id, removed)
        });
    }

    pub(super) fn token_revoked(
        &mut self,
        message: Message,
        id: &str,
        removed: Result<(), LedgerError>,
    ) {
        if let Err(err) = removed {
            let refusal = unavailable("the control state does not give the token up", &err);
            return self.answer::<TokenInfo>(message, Err(refusal));
        }
        let answer = self.tokens.remove(id).map(|kept| kept.info).ok_or_else(|| no_token(id));
        info!(id, "token revoked");
        self.answer(message, answer);
    }
}

fn taken(id: &str) -> Refusal {
    Refusal {
        kind: RefusalKind::Invalid,
        message: format!("there is a token `{id}` already"),
        help: "make another one".to_owned(),
    }
}

fn no_token(id: &str) -> Refusal {
    Refusal {
        kind: RefusalKind::NotFound,
        message: format!("there is no token `{id}`"),
        help: "`coordinator token ls` lists them".to_owned(),
    }
}
