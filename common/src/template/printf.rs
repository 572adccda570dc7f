//! Go's `printf`, with the verbs that texts, numbers, booleans, lists and maps have.

#![expect(clippy::wildcard_enum_match_arm, reason = "a value of any other type gets one message")]

use super::value::{Value, float};

#[derive(Default)]
struct Flags {
    minus: bool,
    plus: bool,
    alternate: bool,
    space: bool,
    zero: bool,
    width: usize,
    precision: Option<usize>,
}

/// Formats `args`; trouble shows in the text as Go shows it, `%!d(string=x)`.
pub(super) fn printf(format: &str, args: &[Value]) -> String {
    let mut out = String::new();
    let mut chars = format.chars().peekable();
    let mut used = 0;
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let flags = read_flags(&mut chars);
        match chars.next() {
            None => out.push_str("%!(NOVERB)"),
            Some('%') => out.push('%'),
            Some(verb) => match args.get(used) {
                None => out.push_str(&format!("%!{verb}(MISSING)")),
                Some(arg) => {
                    out.push_str(&pad(&flags, verb, one(verb, &flags, arg)));
                    used += 1;
                }
            },
        }
    }
    if used < args.len() {
        let extra: Vec<_> =
            args[used..].iter().map(|arg| format!("{}={}", go_type(arg), arg.inner())).collect();
        out.push_str(&format!("%!(EXTRA {})", extra.join(", ")));
    }
    out
}

fn read_flags(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Flags {
    let mut flags = Flags::default();
    while let Some(c) = chars.peek() {
        match c {
            '-' => flags.minus = true,
            '+' => flags.plus = true,
            '#' => flags.alternate = true,
            ' ' => flags.space = true,
            '0' => flags.zero = true,
            _ => break,
        }
        chars.next();
    }
    flags.width = read_number(chars).unwrap_or(0);
    if chars.next_if_eq(&'.').is_some() {
        flags.precision = Some(read_number(chars).unwrap_or(0));
    }
    flags
}

fn read_number(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<usize> {
    let mut number = None;
    while let Some(digit) = chars.peek().and_then(|c| c.to_digit(10)) {
        // A width of more than a few thousand is a slip; it must not eat the machine's memory.
        number = Some((number.unwrap_or(0) * 10 + digit as usize).min(9999));
        chars.next();
    }
    number
}

fn one(verb: char, flags: &Flags, arg: &Value) -> String {
    let text = match (verb, arg) {
        ('v', Value::Text(text)) if flags.alternate => Some(format!("{text:?}")),
        ('v', _) => Some(arg.inner()),
        ('s', Value::Text(text)) => Some(cut(text, flags)),
        ('q', Value::Text(text)) => Some(format!("{text:?}")),
        ('x', Value::Text(text)) => Some(text.bytes().map(|byte| format!("{byte:02x}")).collect()),
        ('X', Value::Text(text)) => Some(text.bytes().map(|byte| format!("{byte:02X}")).collect()),
        ('t', Value::Bool(value)) => Some(value.to_string()),
        (_, Value::Int(value)) => integer(verb, flags, *value),
        (_, Value::Float(value)) => floating(verb, flags, *value),
        (_, Value::List(values)) => {
            let parts: Vec<_> = values.iter().map(|value| one(verb, flags, value)).collect();
            Some(format!("[{}]", parts.join(" ")))
        }
        (_, Value::Map(map) | Value::Env(map)) => {
            let parts = map.iter().map(|(key, value)| format!("{key}:{}", one(verb, flags, value)));
            Some(format!("map[{}]", parts.collect::<Vec<_>>().join(" ")))
        }
        _ => None,
    };
    text.unwrap_or_else(|| match arg {
        Value::Missing => format!("%!{verb}(<nil>)"),
        arg => format!("%!{verb}({}={})", go_type(arg), arg.inner()),
    })
}

fn cut(text: &str, flags: &Flags) -> String {
    text.chars().take(flags.precision.unwrap_or(usize::MAX)).collect()
}

fn integer(verb: char, flags: &Flags, value: i64) -> Option<String> {
    let size = value.unsigned_abs();
    let digits = match verb {
        'd' => size.to_string(),
        'b' => format!("{size:b}"),
        'o' => format!("{size:o}"),
        'x' if flags.alternate => format!("{size:#x}"),
        'x' => format!("{size:x}"),
        'X' => format!("{size:X}"),
        'c' => return u32::try_from(value).ok().and_then(char::from_u32).map(String::from),
        _ => return None,
    };
    let digits = format!("{digits:0>width$}", width = flags.precision.unwrap_or(1));
    Some(signed(flags, value < 0, &digits))
}

fn floating(verb: char, flags: &Flags, value: f64) -> Option<String> {
    let size = value.abs();
    let digits = match (verb, flags.precision) {
        ('f' | 'F', precision) => format!("{size:.0$}", precision.unwrap_or(6)),
        ('e', precision) => {
            let text = format!("{size:.0$e}", precision.unwrap_or(6));
            let (digits, exponent) = text.split_once('e')?;
            let (sign, number) =
                exponent.strip_prefix('-').map_or(('+', exponent), |number| ('-', number));
            format!("{digits}e{sign}{number:0>2}")
        }
        ('g', _) => float(size),
        _ => return None,
    };
    Some(signed(flags, value < 0.0, &digits))
}

fn signed(flags: &Flags, negative: bool, digits: &str) -> String {
    match (negative, flags.plus, flags.space) {
        (true, _, _) => format!("-{digits}"),
        (false, true, _) => format!("+{digits}"),
        (false, false, true) => format!(" {digits}"),
        (false, false, false) => digits.to_owned(),
    }
}

fn pad(flags: &Flags, verb: char, text: String) -> String {
    let missing = flags.width.saturating_sub(text.chars().count());
    if missing == 0 {
        return text;
    }
    if flags.minus {
        return text + &" ".repeat(missing);
    }
    if flags.zero && "dfFegboxX".contains(verb) {
        let sign = usize::from(text.starts_with(['-', '+', ' ']));
        return format!("{}{}{}", &text[..sign], "0".repeat(missing), &text[sign..]);
    }
    " ".repeat(missing) + &text
}

fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Missing => "<nil>",
        Value::Root(_) => "struct",
        Value::Bool(_) => "bool",
        Value::Int(_) => "int",
        Value::Float(_) => "float64",
        Value::Text(_) => "string",
        Value::List(_) => "[]interface {}",
        Value::Map(_) => "map[string]interface {}",
        Value::Env(_) => "map[string]string",
    }
}
