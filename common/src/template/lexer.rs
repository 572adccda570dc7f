//! Splits a template into text and the tokens of its actions.

use std::ops::Range;

use super::Trouble;

/// A piece of a template.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Piece {
    /// Text outside of actions.
    Text(String),
    /// One action, `{{ … }}`, without its delimiters.
    Action { span: Range<usize>, tokens: Vec<Token> },
}

/// A token and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Token {
    pub(super) kind: TokenKind,
    pub(super) span: Range<usize>,
    /// Whether white space stands before it, which separates arguments from field chains.
    pub(super) spaced: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum TokenKind {
    /// A keyword, a function or a constant.
    Word(String),
    /// `.name`
    Field(String),
    /// `$name`; empty for `$` itself.
    Variable(String),
    Dot,
    Int(i64),
    Float(f64),
    Text(String),
    Pipe,
    Open,
    Close,
    Comma,
    Declare,
    Assign,
}

/// Splits `source`.
pub(super) fn split(source: &str) -> Result<Vec<Piece>, Trouble> {
    let mut pieces = Vec::new();
    let mut at = 0;
    let mut trim_left = false;
    loop {
        let start = source[at..].find("{{").map(|found| at + found);
        let mut text = &source[at..start.unwrap_or(source.len())];
        if trim_left {
            text = text.trim_start_matches(is_space);
        }
        let Some(start) = start else {
            push_text(&mut pieces, text);
            return Ok(pieces);
        };
        let mut inside = start + 2;
        if source[inside..].starts_with('-') && source[inside + 1..].starts_with(is_space) {
            text = text.trim_end_matches(is_space);
            inside += 1;
        }
        push_text(&mut pieces, text);
        let (end, trim) = match comment(source, start, inside)? {
            Some(end) => end,
            None => {
                let (tokens, end, trim) = action(source, start, inside)?;
                pieces.push(Piece::Action { span: start..end, tokens });
                (end, trim)
            }
        };
        at = end;
        trim_left = trim;
    }
}

fn push_text(pieces: &mut Vec<Piece>, text: &str) {
    if !text.is_empty() {
        pieces.push(Piece::Text(text.to_owned()));
    }
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

/// The end of the comment that starts at `inside`, and whether it trims what follows.
fn comment(source: &str, start: usize, inside: usize) -> Result<Option<(usize, bool)>, Trouble> {
    let skipped = source[inside..].trim_start_matches(is_space);
    if !skipped.starts_with("/*") {
        return Ok(None);
    }
    let open = source.len() - skipped.len();
    let close = skipped.find("*/").ok_or_else(|| {
        Trouble::new(start..open + 2, "the comment is not closed", "end it with `*/}}`")
    })?;
    let after = open + close + 2;
    let rest = &source[after..];
    if rest.starts_with("}}") {
        return Ok(Some((after + 2, false)));
    }
    let spaces = rest.len() - rest.trim_start_matches(is_space).len();
    if spaces > 0 && rest[spaces..].starts_with("-}}") {
        return Ok(Some((after + spaces + 3, true)));
    }
    Err(Trouble::new(
        start..after,
        "the comment does not end with its action",
        "write `}}` straight after `*/`",
    ))
}

fn action(source: &str, start: usize, inside: usize) -> Result<(Vec<Token>, usize, bool), Trouble> {
    let mut tokens = Vec::new();
    let mut at = inside;
    let mut spaced = true;
    loop {
        let rest = &source[at..];
        let trimmed = rest.trim_start_matches(is_space);
        let spaces = rest.len() - trimmed.len();
        spaced |= spaces > 0;
        at += spaces;
        if trimmed.is_empty() {
            return Err(Trouble::new(
                start..(start + 2).min(source.len()),
                "the action is not closed",
                "end it with `}}`",
            ));
        }
        if spaced && trimmed.starts_with("-}}") {
            return Ok((tokens, at + 3, true));
        }
        if trimmed.starts_with("}}") {
            return Ok((tokens, at + 2, false));
        }
        let (kind, length) = token(trimmed, at)?;
        tokens.push(Token { kind, span: at..at + length, spaced });
        at += length;
        spaced = false;
    }
}

fn token(rest: &str, at: usize) -> Result<(TokenKind, usize), Trouble> {
    let mut chars = rest.chars();
    let first = chars.next().unwrap_or(' ');
    let second = chars.next().unwrap_or(' ');
    match first {
        '|' => Ok((TokenKind::Pipe, 1)),
        '(' => Ok((TokenKind::Open, 1)),
        ')' => Ok((TokenKind::Close, 1)),
        ',' => Ok((TokenKind::Comma, 1)),
        '=' => Ok((TokenKind::Assign, 1)),
        ':' if second == '=' => Ok((TokenKind::Declare, 2)),
        '"' => quoted(rest, at),
        '`' => raw(rest, at),
        '\'' => character(rest, at),
        '.' if second.is_ascii_digit() => number(rest, at),
        '.' => {
            let name = name_at(&rest[1..]);
            let kind =
                if name.is_empty() { TokenKind::Dot } else { TokenKind::Field(name.to_owned()) };
            Ok((kind, 1 + name.len()))
        }
        '$' => {
            let name = name_at(&rest[1..]);
            Ok((TokenKind::Variable(name.to_owned()), 1 + name.len()))
        }
        '+' | '-' | '0'..='9' => number(rest, at),
        c if is_name(c) => {
            let name = name_at(rest);
            Ok((TokenKind::Word(name.to_owned()), name.len()))
        }
        other => Err(Trouble::new(
            at..at + other.len_utf8(),
            format!("unexpected `{other}` in an action"),
            "actions know names, `.field`, `$variable`, numbers, texts, `|` and parentheses",
        )),
    }
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn name_at(rest: &str) -> &str {
    &rest[..rest.find(|c| !is_name(c)).unwrap_or(rest.len())]
}

fn number(rest: &str, at: usize) -> Result<(TokenKind, usize), Trouble> {
    let hex = rest.trim_start_matches(['+', '-']).to_ascii_lowercase().starts_with("0x");
    let mut length = 0;
    let mut before = ' ';
    for c in rest.chars() {
        let sign = matches!(c, '+' | '-') && (length == 0 || (!hex && matches!(before, 'e' | 'E')));
        if !(sign || is_name(c) || c == '.') {
            break;
        }
        length += c.len_utf8();
        before = c;
    }
    let text = &rest[..length];
    let plain = text.replace('_', "");
    integer(&plain)
        .map(TokenKind::Int)
        .or_else(|| plain.parse().ok().filter(|_| !hex).map(TokenKind::Float))
        .map(|kind| (kind, length))
        .ok_or_else(|| {
            Trouble::new(
                at..at + length,
                format!("`{text}` is not a number"),
                "write texts in quotes",
            )
        })
}

/// An integer as Go writes it: decimal, `0x`, `0b`, `0o`, or octal with a bare leading zero.
fn integer(text: &str) -> Option<i64> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let parse = |digits: &str, radix| i64::from_str_radix(&format!("{sign}{digits}"), radix).ok();
    for (prefix, radix) in [("0x", 16), ("0b", 2), ("0o", 8)] {
        if let Some(digits) = lower.strip_prefix(prefix) {
            return parse(digits, radix);
        }
    }
    let radix = if lower.len() > 1 && lower.starts_with('0') { 8 } else { 10 };
    parse(&lower, radix)
}

fn raw(rest: &str, at: usize) -> Result<(TokenKind, usize), Trouble> {
    let end = rest[1..].find('`').ok_or_else(|| {
        Trouble::new(at..at + 1, "the text is not closed", "end it with a backquote")
    })?;
    Ok((TokenKind::Text(rest[1..=end].to_owned()), end + 2))
}

fn character(rest: &str, at: usize) -> Result<(TokenKind, usize), Trouble> {
    let (text, length) = unquote(rest, '\'', at)?;
    let mut chars = text.chars();
    match (chars.next(), chars.next()) {
        (Some(one), None) => Ok((TokenKind::Int(i64::from(u32::from(one))), length)),
        _ => Err(Trouble::new(
            at..at + length,
            "single quotes hold exactly one character",
            "write texts in double quotes",
        )),
    }
}

fn quoted(rest: &str, at: usize) -> Result<(TokenKind, usize), Trouble> {
    let (text, length) = unquote(rest, '"', at)?;
    Ok((TokenKind::Text(text), length))
}

fn unquote(rest: &str, quote: char, at: usize) -> Result<(String, usize), Trouble> {
    let mut text = String::new();
    let mut chars = rest.char_indices().skip(1);
    while let Some((i, c)) = chars.next() {
        if c == quote {
            return Ok((text, i + 1));
        }
        if c == '\n' {
            break;
        }
        if c != '\\' {
            text.push(c);
            continue;
        }
        let Some((_, escape)) = chars.next() else { break };
        let code = match escape {
            'x' => hex(&mut chars, 2),
            'u' => hex(&mut chars, 4),
            'U' => hex(&mut chars, 8),
            other => simple_escape(other),
        };
        text.push(code.ok_or_else(|| {
            Trouble::new(
                at + i..at + i + 1 + escape.len_utf8(),
                format!("`\\{escape}` is not an escape"),
                "write a backslash as `\\\\`, or the whole text in backquotes",
            )
        })?);
    }
    Err(Trouble::new(at..at + 1, "the text is not closed", format!("end it with `{quote}`")))
}

fn hex(chars: &mut impl Iterator<Item = (usize, char)>, digits: usize) -> Option<char> {
    let text: String = chars.take(digits).map(|(_, c)| c).collect();
    u32::from_str_radix(&text, 16).ok().and_then(char::from_u32)
}

fn simple_escape(escape: char) -> Option<char> {
    Some(match escape {
        'n' => '\n',
        't' => '\t',
        'r' => '\r',
        'a' => '\u{7}',
        'b' => '\u{8}',
        'f' => '\u{c}',
        'v' => '\u{b}',
        '0' => '\0',
        '\\' | '"' | '\'' => escape,
        _ => return None,
    })
}
