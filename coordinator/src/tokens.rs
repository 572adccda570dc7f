//! The tokens a coordinator knows, and whether a call may be made.
//!
//! The leader has them in memory and in the control state, as `token.<id>` with a digest instead of the secret.

use std::collections::BTreeMap;

use groundswell_common::api::{Refusal, RefusalKind};
use groundswell_common::token::{Scope, Token, TokenInfo, TokenRequest, is_id};
use serde::{Deserialize, Serialize};

/// How exactly it is known when a token was last used, in milliseconds.
const USED: u64 = 60_000;
/// The longest name of a token, a team or a user.
const LONGEST: usize = 64;

/// A token as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// What is known of it.
    pub info: TokenInfo,
    /// Digest of its secret.
    pub digest: String,
}

impl Kept {
    /// What is to be kept of a new token.
    #[must_use]
    pub fn of(request: TokenRequest, now_ms: u64) -> Self {
        let lives = |seconds: u64| now_ms.saturating_add(seconds.saturating_mul(1000));
        let mut scopes = request.scopes;
        scopes.sort_unstable();
        scopes.dedup();
        let info = TokenInfo {
            id: request.id,
            name: request.name,
            scopes,
            team: request.team,
            user: request.user,
            created_ms: now_ms,
            expires_ms: request.seconds.map(lives),
            used_ms: None,
        };
        Self { info, digest: request.digest }
    }
}

/// Who makes a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// Somebody without a token, where none is needed. May do everything that NATS lets through.
    Anyone,
    /// The holder of a token.
    Holder(TokenInfo),
}

impl Caller {
    /// Whether this one may act on runs of `team`.
    #[must_use]
    pub fn may_act_for(&self, team: &str) -> bool {
        match self {
            Self::Anyone => true,
            Self::Holder(info) if info.has(Scope::Admin) => true,
            Self::Holder(info) => info.team.as_deref().is_none_or(|own| own == team),
        }
    }
}

/// All tokens.
#[derive(Debug, Clone, Default)]
pub struct Tokens {
    required: bool,
    kept: BTreeMap<String, Kept>,
}

impl Tokens {
    /// Those that are `kept`. Without one nobody gets in when they are `required`.
    #[must_use]
    pub fn new(required: bool, kept: Vec<Kept>) -> Self {
        let by_id = |kept: Kept| (kept.info.id.clone(), kept);
        Self { required, kept: kept.into_iter().map(by_id).collect() }
    }

    /// Whether calls without a token are refused.
    #[must_use]
    pub fn required(&self) -> bool {
        self.required
    }

    /// Whether somebody could make other tokens.
    #[must_use]
    pub fn has_admin(&self, now_ms: u64) -> bool {
        self.kept.values().any(|kept| kept.info.has(Scope::Admin) && lives(&kept.info, now_ms))
    }

    /// Finds out who makes a call and whether that one may.
    ///
    /// # Errors
    /// When the token is missing, wrong or over, or does not allow the call.
    pub fn check(&self, token: Option<&str>, call: &str, now_ms: u64) -> Result<Caller, Refusal> {
        let Some(text) = token else {
            if self.required {
                let help = "give --token-file FILE or GROUNDSWELL_TOKEN; an admin makes one with \
                            `coordinator token create`";
                return Err(refuse("this cluster asks for a token", help));
            }
            return Ok(Caller::Anyone);
        };
        let wrong = || refuse("the token is not one of this cluster's", "ask an admin for another");
        let token: Token = text.parse().map_err(|_| wrong())?;
        // Digests of equal length are compared; how long that takes says nothing about a secret.
        let found = self.kept.get(token.id()).filter(|kept| kept.digest == token.digest());
        let info = &found.ok_or_else(wrong)?.info;
        if !lives(info, now_ms) {
            let message = format!("the token `{}` ({}) has expired", info.name, info.id);
            return Err(refuse(&message, "ask an admin for another"));
        }
        let scope = Scope::of_call(call);
        if !info.has(scope) {
            let message = format!(
                "the token `{}` ({}) does not have the scope `{scope}`",
                info.name, info.id
            );
            return Err(refuse(&message, "ask an admin for one that has"));
        }
        Ok(Caller::Holder(info.clone()))
    }

    /// Notes that a token was used. Returns it when that is to be kept.
    pub fn used(&mut self, id: &str, now_ms: u64) -> Option<Kept> {
        let kept = self.kept.get_mut(id)?;
        let recent = kept.info.used_ms.is_some_and(|used| now_ms.saturating_sub(used) < USED);
        if recent {
            return None;
        }
        kept.info.used_ms = Some(now_ms);
        Some(kept.clone())
    }

    /// The token of an id.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&Kept> {
        self.kept.get(id)
    }

    /// Takes a token in.
    pub fn add(&mut self, kept: Kept) {
        self.kept.insert(kept.info.id.clone(), kept);
    }

    /// Forgets a token. Returns it if there was one.
    pub fn remove(&mut self, id: &str) -> Option<Kept> {
        self.kept.remove(id)
    }

    /// All of them for people, the oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<TokenInfo> {
        let mut all: Vec<TokenInfo> = self.kept.values().map(|kept| kept.info.clone()).collect();
        all.sort_by(|a, b| (a.created_ms, &a.id).cmp(&(b.created_ms, &b.id)));
        all
    }
}

/// Whether a new token can be as it is asked for.
///
/// # Errors
/// When it cannot, and why.
pub fn check_request(request: &TokenRequest) -> Result<(), Refusal> {
    let invalid =
        |message: String| Err(Refusal { kind: RefusalKind::Invalid, message, help: String::new() });
    let texts = [Some(&request.name), request.team.as_ref(), request.user.as_ref()];
    for text in texts.into_iter().flatten() {
        if text.is_empty() || text.len() > LONGEST || text.chars().any(char::is_control) {
            return invalid(format!("`{text}` is empty, too long or has unprintable characters"));
        }
    }
    let is_digest = request
        .digest
        .strip_prefix("sha256:")
        .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()));
    if !is_id(&request.id) || !is_digest {
        return invalid("the id or the digest of the token is malformed".to_owned());
    }
    if request.scopes.is_empty() {
        return invalid("a token without a scope is of no use".to_owned());
    }
    if request.seconds == Some(0) {
        return invalid("a token that lasts for no time is of no use".to_owned());
    }
    Ok(())
}

fn lives(info: &TokenInfo, now_ms: u64) -> bool {
    info.expires_ms.is_none_or(|expires| now_ms < expires)
}

fn refuse(message: &str, help: &str) -> Refusal {
    Refusal { kind: RefusalKind::Forbidden, message: message.to_owned(), help: help.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(scopes: &[Scope]) -> TokenRequest {
        request_of(&Token::generate(), scopes)
    }

    fn request_of(token: &Token, scopes: &[Scope]) -> TokenRequest {
        TokenRequest {
            id: token.id().to_owned(),
            digest: token.digest(),
            name: "ci".to_owned(),
            scopes: scopes.to_vec(),
            team: Some("core".to_owned()),
            user: None,
            seconds: Some(60),
        }
    }

    fn one(scopes: &[Scope]) -> (Tokens, Token) {
        let token = Token::generate();
        let kept = Kept::of(request_of(&token, scopes), 1_000);
        (Tokens::new(true, vec![kept]), token)
    }

    #[test]
    fn a_token_lets_in_for_its_scopes_until_it_expires() {
        let (mut tokens, token) = one(&[Scope::Submit, Scope::Read]);
        let text = token.reveal();
        assert!(matches!(tokens.check(Some(&text), "submit", 2_000), Ok(Caller::Holder(_))));
        let refused = tokens.check(Some(&text), "cancel", 2_000).expect_err("not its scope");
        assert_eq!(refused.kind, RefusalKind::Forbidden);
        assert!(refused.message.contains("scope `cancel`"), "{}", refused.message);
        let over = tokens.check(Some(&text), "submit", 61_000).expect_err("over");
        assert!(over.message.contains("has expired"), "{}", over.message);
        assert!(tokens.remove(token.id()).is_some());
        assert!(tokens.check(Some(&text), "submit", 2_000).is_err());
    }

    #[test]
    fn a_wrong_secret_says_no_more_than_an_unknown_token() {
        let (tokens, token) = one(&[Scope::Admin]);
        let secret = Token::generate().reveal();
        let forged = format!("gs_{}_{}", token.id(), &secret[secret.len() - 43..]);
        let wrong = tokens.check(Some(&forged), "info", 0).expect_err("forged");
        let unknown = tokens.check(Some(&secret), "info", 0).expect_err("unknown");
        assert_eq!(wrong, unknown);
        assert_eq!(tokens.check(Some("hello"), "info", 0).expect_err("none"), unknown);
    }

    #[test]
    fn without_a_token_it_depends_on_the_cluster_but_a_wrong_one_is_never_ignored() {
        let open = Tokens::default();
        assert_eq!(open.check(None, "submit", 0), Ok(Caller::Anyone));
        assert!(open.check(Some(&Token::generate().reveal()), "submit", 0).is_err());
        let (closed, _) = one(&[Scope::Read]);
        assert!(closed.check(None, "info", 0).is_err());
        assert!(!closed.has_admin(0) && one(&[Scope::Admin]).0.has_admin(2_000));
        assert!(!one(&[Scope::Admin]).0.has_admin(100_000));
    }

    #[test]
    fn runs_of_another_team_are_none_of_its_business() {
        let (tokens, token) = one(&[Scope::Cancel]);
        let caller = tokens.check(Some(&token.reveal()), "cancel", 2_000).expect("its scope");
        assert!(caller.may_act_for("core") && !caller.may_act_for("infra"));
        let (tokens, token) = one(&[Scope::Admin]);
        let caller = tokens.check(Some(&token.reveal()), "cancel", 2_000).expect("an admin");
        assert!(caller.may_act_for("infra") && Caller::Anyone.may_act_for("infra"));
    }

    #[test]
    fn use_is_noted_once_in_a_while() {
        let (mut tokens, token) = one(&[Scope::Read]);
        assert!(tokens.used(token.id(), 5_000).is_some());
        assert!(tokens.used(token.id(), 6_000).is_none());
        assert_eq!(tokens.list()[0].used_ms, Some(5_000));
        assert!(tokens.used(token.id(), 65_000).is_some());
    }

    #[test]
    fn a_request_for_a_useless_token_is_refused() {
        assert!(check_request(&request(&[Scope::Read])).is_ok());
        assert!(check_request(&request(&[])).is_err());
        let nameless = TokenRequest { name: String::new(), ..request(&[Scope::Read]) };
        assert!(check_request(&nameless).is_err());
        let wild = TokenRequest { id: "*".to_owned(), ..request(&[Scope::Read]) };
        assert!(check_request(&wild).is_err());
        let brief = TokenRequest { seconds: Some(0), ..request(&[Scope::Read]) };
        assert!(check_request(&brief).is_err());
    }
}
