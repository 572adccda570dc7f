//! API tokens: who may ask a coordinator for what.
//!
//! ```text
//! gs_k7q2m9xd_4fGkq…      prefix, id (public), secret (43 characters, 256 bits by chance)
//! ```
//!
//! The coordinator keeps a SHA-256 digest and never the secret. A digest that is quick to compute is enough, because
//! nobody guesses 256 bits; slow ones are for passwords.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::Rng as _;
use serde::{Deserialize, Serialize};

/// The header that carries a token with a call.
pub const TOKEN_HEADER: &str = "Groundswell-Token";

const PREFIX: &str = "gs";
/// Letters and digits that are not mistaken for each other.
const ID_ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
const ID_LENGTH: usize = 8;
const SECRET_BYTES: usize = 32;
const SECRET_LENGTH: usize = 43;

/// A token with its secret. It is never shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    id: String,
    secret: String,
}

/// What a token is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a token: those look like `gs_<8 characters>_<43 characters>`")]
pub struct NotAToken;

impl Token {
    /// A new one, by chance.
    #[must_use]
    pub fn generate() -> Self {
        let mut dice = rand::rng();
        let letter = |byte: u8| char::from(ID_ALPHABET[usize::from(byte % 32)]);
        let mut id = [0_u8; ID_LENGTH];
        dice.fill_bytes(&mut id);
        let mut secret = [0_u8; SECRET_BYTES];
        dice.fill_bytes(&mut secret);
        Self { id: id.map(letter).iter().collect(), secret: URL_SAFE_NO_PAD.encode(secret) }
    }

    /// Its public part, by which it is listed and revoked.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What a coordinator keeps of the secret.
    #[must_use]
    pub fn digest(&self) -> String {
        crate::objects::digest(self.secret.as_bytes())
    }

    /// The whole of it, for the file of its owner and for the wire.
    #[must_use]
    pub fn reveal(&self) -> String {
        format!("{PREFIX}_{}_{}", self.id, self.secret)
    }
}

impl FromStr for Token {
    type Err = NotAToken;

    fn from_str(text: &str) -> Result<Self, NotAToken> {
        let rest = text.trim().strip_prefix(PREFIX).and_then(|rest| rest.strip_prefix('_'));
        let (id, secret) = rest.and_then(|rest| rest.split_once('_')).ok_or(NotAToken)?;
        if !is_id(id) || secret.len() != SECRET_LENGTH || !secret.is_ascii() {
            return Err(NotAToken);
        }
        Ok(Self { id: id.to_owned(), secret: secret.to_owned() })
    }
}

/// Whether a text can be the public part of a token.
#[must_use]
pub fn is_id(text: &str) -> bool {
    text.len() == ID_LENGTH && text.bytes().all(|byte| ID_ALPHABET.contains(&byte))
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("id", &self.id).finish_non_exhaustive()
    }
}

/// What a token may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// See runs, the queue and the workers.
    Read,
    /// Submit runs.
    Submit,
    /// Cancel runs of its team and change how urgent they are.
    Cancel,
    /// Everything, runs of others and tokens included.
    Admin,
}

impl Scope {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Read, Self::Submit, Self::Cancel, Self::Admin];

    /// The word used in every file and output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Submit => "submit",
            Self::Cancel => "cancel",
            Self::Admin => "admin",
        }
    }

    /// What a call takes. One that nobody knows takes everything.
    #[must_use]
    pub fn of_call(call: &str) -> Self {
        match call {
            "runs" | "run" | "grid" | "events" | "queue" | "workers" | "info" | "whoami" => {
                Self::Read
            }
            "submit" => Self::Submit,
            "cancel" | "priority" => Self::Cancel,
            _ => Self::Admin,
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What is known of a token, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenInfo {
    /// Its public part.
    pub id: String,
    /// What it is called.
    pub name: String,
    /// What it may be used for.
    pub scopes: Vec<Scope>,
    /// On whose account its runs are; absent is what the submit says.
    #[serde(default)]
    pub team: Option<String>,
    /// Who submits with it; absent is its name.
    #[serde(default)]
    pub user: Option<String>,
    /// When it was made, Unix milliseconds.
    pub created_ms: u64,
    /// When it ends, Unix milliseconds; absent is never.
    #[serde(default)]
    pub expires_ms: Option<u64>,
    /// When it was last used, to the minute, Unix milliseconds.
    #[serde(default)]
    pub used_ms: Option<u64>,
}

impl TokenInfo {
    /// Whether it may be used for `scope`.
    #[must_use]
    pub fn has(&self, scope: Scope) -> bool {
        self.scopes.iter().any(|had| *had == scope || *had == Scope::Admin)
    }

    /// Who acts with it.
    #[must_use]
    pub fn user(&self) -> &str {
        self.user.as_deref().unwrap_or(&self.name)
    }
}

/// Asks for a token to be let in from now on. Its secret stays with whoever asks: answers on the bus may be heard by
/// others of the same role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRequest {
    /// Its public part.
    pub id: String,
    /// [`Token::digest`].
    pub digest: String,
    /// What it is to be called.
    pub name: String,
    /// What it is to be used for.
    pub scopes: Vec<Scope>,
    /// On whose account its runs are.
    #[serde(default)]
    pub team: Option<String>,
    /// Who submits with it.
    #[serde(default)]
    pub user: Option<String>,
    /// For how many seconds; absent is for ever.
    #[serde(default)]
    pub seconds: Option<u64>,
}

/// Asks to end a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRevocation {
    /// Its public part.
    pub id: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_back_and_its_secret_is_not_shown() {
        let token = Token::generate();
        let text = token.reveal();
        assert_eq!(text.parse(), Ok(token.clone()));
        assert_eq!(format!("{text}\n").parse(), Ok(token.clone()));
        assert!(!format!("{token:?}").contains(&token.secret));
        assert!(!token.digest().contains(&token.secret));
        assert_ne!(Token::generate(), token);
    }

    #[test]
    fn what_is_no_token_is_not_taken_for_one() {
        let whole = Token::generate().reveal();
        for text in ["", "gs", "gs_", "gs_abc_def", &whole[1..], &whole[..whole.len() - 1]] {
            assert_eq!(text.parse::<Token>(), Err(NotAToken), "{text}");
        }
    }

    #[test]
    fn admin_has_every_scope_and_an_unknown_call_takes_it() {
        let info = |scope| TokenInfo {
            id: "a".to_owned(),
            name: "ci".to_owned(),
            scopes: vec![scope],
            team: None,
            user: None,
            created_ms: 0,
            expires_ms: None,
            used_ms: None,
        };
        assert!(Scope::ALL.iter().all(|scope| info(Scope::Admin).has(*scope)));
        assert!(info(Scope::Read).has(Scope::of_call("queue")));
        assert!(!info(Scope::Read).has(Scope::of_call("submit")));
        assert!(!info(Scope::Submit).has(Scope::of_call("new_call")));
    }
}
