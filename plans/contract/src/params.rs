//! Parameters arrive as they were written.

use std::time::Duration;

use groundswell_sdk::prelude::*;
use serde::Deserialize;

/// Each parameter as `_compositions/smoke.toml` writes it, or else as the manifest's default does. A test compares
/// this with the files.
const WRITTEN: [(&str, &str); 17] = [
    ("integer", "-7"),
    ("large", "18446744073709551615"),
    ("float", "0.125"),
    ("flag", "true"),
    ("span", "1m30s"),
    ("size", "64KiB"),
    ("rate", "1.5Mbit"),
    ("share", "12.5%"),
    ("list", r#"["a","b=c",""]"#),
    ("object", r#"{"name":"Ω","deep":{"values":[1,2.5,null]},"bar":"a\u007cb"}"#),
    ("equals", "a=b==c="),
    ("unicode", "Grüße, 世界 🌊 e\u{301} \u{202e}"),
    ("empty", ""),
    ("spaces", "  two  spaces and a\ttab  "),
    ("lines", "one\ntwo\r\nthree\n"),
    ("quotes", r#"say "hi" \n 'there' `now` $HOME ${x} %s <&>;#"#),
    ("long", LONG),
];

/// 4 kB, as an address book in a parameter may be.
const LONG: &str = match std::str::from_utf8(&[b'x'; 4096]) {
    Ok(text) => text,
    Err(_) => "",
};

/// The same parameters as the SDK reads them.
#[derive(Debug, PartialEq, Deserialize)]
struct Typed {
    integer: i64,
    large: u64,
    float: f64,
    flag: bool,
    span: Duration,
    size: Bytes,
    rate: Rate,
    share: Percent,
    list: Vec<String>,
    object: Object,
    empty: String,
}

#[derive(Debug, PartialEq, Deserialize)]
struct Object {
    name: String,
    deep: Deep,
    /// The one character that no value may hold, written so that JSON brings it all the same.
    bar: String,
}

#[derive(Debug, PartialEq, Deserialize)]
struct Deep {
    values: Vec<Option<f64>>,
}

impl Typed {
    fn written() -> Self {
        Self {
            integer: -7,
            large: u64::MAX,
            float: 0.125,
            flag: true,
            span: Duration::from_secs(90),
            size: Bytes(65_536),
            rate: Rate(1_500_000),
            share: Percent(12.5),
            list: ["a", "b=c", ""].map(str::to_owned).into(),
            object: Object {
                name: "Ω".to_owned(),
                deep: Deep { values: vec![Some(1.0), Some(2.5), None] },
                bar: "a|b".to_owned(),
            },
            empty: String::new(),
        }
    }
}

/// Compares what arrived with what was written, byte by byte, and keeps it in `params.out`.
pub(crate) async fn echo(cx: Ctx) -> Result {
    cx.signal_and_wait("together").await?;
    let mut kept = String::new();
    for (name, written) in WRITTEN {
        let arrived = cx.env().params.get(name);
        let equal = arrived == Some(written);
        cx.point("equal_ratio", equal).unit("ratio").record();
        cx.check(equal, format!("`{name}` is {arrived:?} and was written {written:?}"));
        kept.push_str(&format!("{name}={arrived:?}\n"));
    }
    let typed: Typed = cx.params()?;
    let wanted = Typed::written();
    cx.check(typed == wanted, format!("read as {typed:?} and meant {wanted:?}"));
    std::fs::write(cx.output("params.out"), kept)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use groundswell_sdk::testing::Local;

    use super::*;

    #[test]
    fn the_table_is_what_the_files_say() {
        let table = |text: &str| -> toml::Table { toml::from_str(text).unwrap() };
        // The seed is a template's, and no parameter of this table.
        let composition = include_str!("../_compositions/smoke.toml").lines();
        let composition: Vec<_> = composition.filter(|line| !line.contains("{{")).collect();
        let composition = table(&composition.join("\n"));
        let given = &composition["global"]["run"]["test_params"];
        let manifest = table(include_str!("../manifest.toml"));
        let declared = &manifest["testcases"][0]["params"];
        for (name, written) in WRITTEN {
            let default = &declared[name];
            let said = given.get(name).or_else(|| default.get("default")).unwrap();
            let text = said.as_str().map(str::to_owned);
            let text = text.or(said.as_float().map(|number| number.to_string()));
            let said = text.or(said.as_bool().map(|flag| flag.to_string())).unwrap();
            assert_eq!(said, written, "{name}");
        }
    }

    #[tokio::test]
    async fn what_arrives_is_compared() {
        let run = |changed: (&str, &str)| {
            let mut local = Local::new(1);
            for (name, written) in WRITTEN {
                let value = if name == changed.0 { changed.1 } else { written };
                local = local.param(name, value);
            }
            local
        };
        let dir = tempfile::tempdir().unwrap();
        run(("", "")).outputs(dir.path()).run(echo).await.assert_success();
        let outcomes = run(("spaces", "two spaces")).outputs(dir.path()).run(echo).await;
        assert!(!outcomes.0[0].is_success());
    }
}
